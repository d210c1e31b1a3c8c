"""How a picture looks: upright, without transparency, grey or RGB; unscaled if it has more than 8 bits a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas_attn.data.deep import NotUnderstood, Values, deep_values
from nas_attn.data.entry import Reading
from nas_attn.data.pixel_range import Bounds, Range, bounds_of, outside, table_of
from nas_attn.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Colour = tuple[int, int, int]
_GREY_MODES = ("1", "L", "LA", "La")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_ORIENTATION = 0x0112
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""EXIF's orientation -> Pillow's transposition."""

_NAMED_COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0)}


@dataclass(frozen=True, eq=False)
class Deep:
    """A picture whose values are not yet scaled to 8 bits: what they mean depends on the whole set.

    Args:
        values: Those of the file; where there is `coverage`, multiplied by it.
        coverage: Opacity from 0 to 1; None if nothing is transparent.
        bounds: Of the values that can be seen.
        inverted: Whether low values are bright.

    Shape: values (H, W, C) float32 with C = 1 or 3; coverage (H, W, 1) float32.
    """

    values: NDArray[np.float32]
    coverage: NDArray[np.float32] | None
    bounds: Bounds
    inverted: bool = False

    def resized(self, size: int) -> Deep:
        """Return the picture at `size` x `size`, by the filter of 8-bit images."""
        coverage = None if self.coverage is None else _resized(self.coverage, size)
        return replace(self, values=_resized(self.values, size), coverage=coverage)

    def turned(self, orientation: int) -> Deep:
        """Return the picture upright, from EXIF's number of how it lies."""
        coverage = None if self.coverage is None else _upright(self.coverage, orientation)
        return replace(self, values=_upright(self.values, orientation), coverage=coverage)

    def scaled(self, pixel_range: Range, background: Colour) -> NDArray[np.uint8]:
        """Return the picture as 8-bit pixels on a background. Shape: (H, W, C)."""
        low, high = pixel_range
        covered = np.float32(1) if self.coverage is None else self.coverage
        shares = (self.values - np.float32(low) * covered) / np.float32(high - low)
        shares = np.clip(covered - shares if self.inverted else shares, 0, covered)
        if self.coverage is not None:
            behind = background[:1] if is_grey(background) else background
            shares = shares + (1 - self.coverage) * (np.array(behind, np.float32) / 255)
        pixels: NDArray[np.uint8] = np.rint(255 * shares).astype(np.uint8)
        return pixels


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture upright and without transparency.

    Args:
        content: An image of mode L or RGB, or one of more than 8 bits.
        turned: Whether its file stores it on its side, upside down or mirrored.
        transparent: Whether the background can be seen through it.
        cut: Whether an image of 8 bits had values outside of the stated range.
    """

    content: Image | Deep
    turned: bool = False
    transparent: bool = False
    cut: bool = False


def picture_of(image: Image, reading: Reading, again: Callable[[], Image] | None = None) -> Picture:
    """Return an image as its file means it to look.

    Args:
        again: Opens the same frame of the file anew, where Pillow keeps 8 of 16 bits; None for an image in memory.
    Raises: NotUnderstood for values without a known meaning.
    """
    tags = getattr(image, "tag_v2", {})
    lies = tags.get(_ORIENTATION, 1)  # Pillow turns a TIFF while it loads it
    found = deep_values(image, again) if getattr(image, "tile", None) else _of_loaded(image, again)
    image.load()
    orientation = image.getexif().get(_ORIENTATION, 1)
    is_turned = orientation in _TURNS or lies in _TURNS
    if found is not None:
        deep = _deep(*found, mode=image.mode, inverted=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)
        return Picture(deep.turned(orientation), is_turned, deep.coverage is not None)
    plain, is_transparent = _plain(image, reading)
    return Picture(_turned(plain, orientation), is_turned, is_transparent, _is_cut(image, reading))


def _of_loaded(image: Image, again: Callable[[], Image] | None) -> Values | None:
    """Return the values of a loaded image of more than 8 bits: Pillow has cut its colours, its file has not."""
    if image.mode not in ("RGB", "RGBA") or again is None:
        return deep_values(image, again)
    try:
        probe = again()
    except OSError:  # the file is gone
        return None
    with probe:
        is_same = probe.size == image.size and probe.mode == image.mode
        return deep_values(probe, again) if is_same else None


def reopener(image: Image) -> Callable[[], Image] | None:
    """Return what opens the frame of a PIL image anew; None for an image that has no file of its own."""
    name = getattr(image, "filename", "")
    if not name:
        return None

    def again() -> Image:
        from PIL import Image as pillow

        opened = pillow.open(name)
        opened.seek(image.tell())
        return opened

    return again


def deep_picture(values: NDArray[np.generic], *, whole: bool, what: str, inverted: bool = False) -> Picture:
    """Return values of more than 8 bits, which are upright, as a picture.

    Args:
        what: Their kind, for the message.
    Shape: (H, W) or (H, W, C) with C = 1 or 3.
    Raises: NotUnderstood for values that are no numbers.
    """
    three = values[..., None] if values.ndim == 2 else values
    return Picture(_deep(three, None, whole, mode=what, inverted=inverted))


def is_grey(colour: Colour) -> bool:
    """Return whether red, green and blue are equal."""
    return len(set(colour)) == 1


def read_colour(text: str) -> Colour:
    """Return the colour of a setting.

    >>> read_colour("white"), read_colour("#ff8000")
    ((255, 255, 255), (255, 128, 0))

    Raises: DataError for another word.
    """
    word = text.strip().lower()
    if word in _NAMED_COLOURS:
        return _NAMED_COLOURS[word]
    try:
        if len(word) != 7 or word[0] != "#":
            raise ValueError(word)
        red, green, blue = bytes.fromhex(word[1:])
    except ValueError:
        raise DataError(f"'--background' must be white, black or #rrggbb as in #808080, but got '{text}'.") from None
    return red, green, blue


def colour_in_words(colour: Colour) -> str:
    """Return a colour as it is written in a setting."""
    return next((name for name, known in _NAMED_COLOURS.items() if known == colour), "#" + bytes(colour).hex())


def _deep(
    values: NDArray[np.generic], alpha: NDArray[np.generic] | None, whole: bool, *, mode: str, inverted: bool
) -> Deep:
    """Return values with their bounds; those under full transparency do not count, and become 0."""
    colours = values.astype(np.float32)
    if not np.isfinite(colours).all():
        raise NotUnderstood(f"has values of mode {mode} that are no finite numbers (NaN or infinity)")
    if alpha is None:
        return Deep(colours, None, bounds_of(values, whole), inverted)
    coverage = alpha.astype(np.float32)
    seen = colours[coverage[..., 0] > 0]
    bounds = bounds_of(seen if seen.size else np.zeros(1), whole)
    return Deep(colours * coverage, coverage, bounds, inverted)


def _plain(image: Image, reading: Reading) -> tuple[Image, bool]:
    """Return an image of 8 bits in mode L or RGB, and whether anything is transparent."""
    from PIL import Image as pillow

    table = None if reading.pixel_range is None else _table(reading.pixel_range)
    grey = image.mode in _GREY_MODES
    if not image.has_transparency_data:
        plain = _in_colours(image, "L" if grey else "RGB")
        return plain if table is None else plain.point(table * len(plain.mode)), False
    whole = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    alpha = whole.getchannel("A")
    plain = whole.convert("L" if grey else "RGB")
    if table is not None:
        plain = plain.point(table * len(plain.mode))
    lowest, _ = alpha.getextrema()
    if lowest == 255:
        return plain, False
    if grey and is_grey(reading.background):
        return pillow.composite(plain, pillow.new("L", image.size, reading.background[0]), alpha), True
    return pillow.composite(plain.convert("RGB"), pillow.new("RGB", image.size, reading.background), alpha), True


def _is_cut(image: Image, reading: Reading) -> bool:
    """Return whether an image of 8 bits has values outside of the stated range; where it is transparent, none count."""
    if reading.pixel_range is None:
        return False
    grey = image.mode in _GREY_MODES
    colours = np.asarray(image.convert("LA" if grey else "RGBA"))
    seen = colours[..., :-1][colours[..., -1] > 0]
    return bool(outside(seen, reading.pixel_range).any())


def _turned(image: Image, orientation: int) -> Image:
    """Return an image upright, from EXIF's number of how it lies."""
    from PIL.Image import Transpose

    return image.transpose(Transpose(_TURNS[orientation])) if orientation in _TURNS else image


def _in_colours(image: Image, mode: str) -> Image:
    """Return an image without transparency in another mode. Raises: NotUnderstood for one without a known meaning."""
    if image.mode == mode:
        return image
    if image.mode not in (*_GREY_MODES, *_COLOUR_MODES):
        raise NotUnderstood(f"is an image of mode {image.mode}, whose values have no known meaning")
    return _from_lab(image) if image.mode == "LAB" else image.convert(mode)


def _from_lab(image: Image) -> Image:
    """Return CIE L*a*b* as sRGB. Raises: NotUnderstood if this Pillow was built without LittleCMS."""
    from PIL import ImageCms

    try:
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        found = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    except (ImportError, ImageCms.PyCMSError) as error:
        raise NotUnderstood(f"is an image of mode LAB, which this Pillow cannot convert ({error})") from None
    assert found is not None, "a new image was asked for"
    return found


@lru_cache(maxsize=8)
def _table(pixel_range: Range) -> list[int]:
    return table_of(pixel_range)


def _resized(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Resize each channel as Pillow resizes 8-bit images: bilinear with antialiasing. Shape: (H, W, C)."""
    from PIL import Image as pillow

    channels = [
        np.asarray(
            pillow.fromarray(np.ascontiguousarray(values[..., channel])).resize(
                (size, size), pillow.Resampling.BILINEAR
            )
        )
        for channel in range(values.shape[-1])
    ]
    return np.stack(channels, axis=-1)


def _upright(values: NDArray[np.float32], orientation: int) -> NDArray[np.float32]:
    """Return an array as EXIF's orientation means it to look. Shape: (H, W, C), with H and W exchanged from 5 on."""
    turned: dict[int, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }
    return turned[orientation](values) if orientation in turned else values
