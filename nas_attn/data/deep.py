"""Values of more than 8 bits, and of floating point, as a file has them: also those that Pillow cuts to 8 bits."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Values = tuple[NDArray[np.generic], NDArray[np.generic] | None, bool]
"""Values (H, W, C), opacity from 0 to 1 (H, W, 1) or None, and whether the values are whole numbers."""

_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
"""End of a raw mode that reads the upper byte of each value -> that of the one that reads the lower byte."""

_WITHOUT_LOSS = ("raw", "zip", "libtiff")
_SAMPLE_FORMAT, _SIGNED = 339, 2


class NotUnderstood(DataError):
    """A file without a known meaning of its values, so that its set is refused; the message follows the file's name."""


def deep_values(image: Image, again: Callable[[], Image] | None) -> Values | None:
    """Return the values of an image of more than 8 bits, or None for one of 8 bits or fewer.

    Args:
        image: An image that is not loaded yet, or an image in memory.
        again: Opens the same frame of the file anew.
    Raises: NotUnderstood for what Pillow would cut to 8 bits, or read wrong.
    """
    raw = _raw_mode(image)
    if image.mode == "F":
        return _with_axis(np.asarray(image)), None, False
    if image.mode.startswith("I"):
        return _whole_numbers(image, raw)
    if ";16" in raw and image.mode in ("RGB", "RGBA") and again is not None:
        return _two_bytes(image, raw, again)
    cut = _cut_by(image, raw)
    if cut is not None:
        raise NotUnderstood(f"has {cut}, of which Pillow would keep 8 bits")
    if image.mode == "L" and _tag(image, _SAMPLE_FORMAT) == _SIGNED:
        return _with_axis(np.asarray(image).view(np.int8)), None, True
    return None


def _raw_mode(image: Image) -> str:
    """Return Pillow's name of how the values lie in the file, such as `RGB;16B`; empty for an image in memory."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    stated = tiles[0][3]
    return str(stated[0] if isinstance(stated, tuple) and stated else stated)


def _whole_numbers(image: Image, raw: str) -> Values:
    """Return an image of mode I or I;16; one value may be stated as transparent."""
    if image.format == "FITS":
        raise NotUnderstood("is a FITS file, whose scale Pillow does not read")
    values = _with_axis(np.asarray(image))
    if "32N" in raw:  # unsigned in the file, signed in Pillow
        values = values.view(np.uint32)
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return values, None, True
    return values, (values != key).astype(np.float32), True


def _two_bytes(image: Image, raw: str, again: Callable[[], Image]) -> Values:
    """Return colours of 16 bits a channel: the file is decoded once for the upper and once for the lower bytes."""
    codec = image.tile[0][0]  # type: ignore[attr-defined]
    if codec not in _WITHOUT_LOSS:
        raise NotUnderstood(f"has 16 bits a channel, of which Pillow would keep 8 bits ({image.format}, {image.mode})")
    key = image.info.get("transparency")
    if raw.startswith("LA;16"):  # of a PNG: two values of two bytes are four values of one byte
        four = np.asarray(_read_as(again(), "RGBA")).astype(np.uint16)
        grey, alpha = (four[..., at : at + 1] << 8 | four[..., at + 1 : at + 2] for at in (0, 2))
        return grey, alpha / 65535, True
    start, _, end = raw.partition(";")
    plain = start.replace("RGBa", "RGBA")
    upper = np.asarray(_read_as(again(), f"{plain};{end}"))
    lower = np.asarray(_read_as(again(), f"{plain};{_OTHER_BYTE[end]}"))
    values = upper.astype(np.uint16) << 8 | lower
    if plain == "RGBA":
        colours, alpha = values[..., :3], values[..., 3:] / 65535
        if start == "RGBa":  # multiplied by the opacity in the file
            colours = np.divide(colours, alpha, out=np.zeros(colours.shape), where=alpha > 0)
        return colours, alpha, True
    if isinstance(key, tuple):
        return values, (values != np.array(key)).any(-1, keepdims=True).astype(np.float32), True
    return values, None, True


def _read_as(image: Image, raw: str) -> Image:
    """Return an image of a file, loaded by another raw mode of as many bits."""
    opened: Any = image
    opened.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in opened.tile
    ]
    opened.load()
    return image


def _cut_by(image: Image, raw: str) -> str | None:
    """Return in words what a file has more than 8 bits of, where Pillow keeps 8 of them; None if it keeps all."""
    codec = image.tile[0][0] if getattr(image, "tile", None) else ""  # type: ignore[attr-defined]
    named = f"more than 8 bits a channel ({image.format}, mode {image.mode})"
    if "16" in raw.partition(";")[2] or codec == "SGI16":
        return named
    if image.format == "PPM" and codec in ("ppm", "ppm_plain") and image.tile[0][3][-1] > 255:  # type: ignore[attr-defined]
        return named
    if image.format == "JPEG2000" and _bits_of_jpeg2000(image) > 8:
        return named
    return None


def _tag(image: Image, number: int) -> Any:
    """Return the first value of a tag of a TIFF, or None."""
    found = getattr(image, "tag_v2", {}).get(number)
    return found[0] if isinstance(found, tuple) else found


def _bits_of_jpeg2000(image: Image) -> int:
    """Return the bits a channel that the header of a JPEG 2000 file states; 8 if it is not found."""
    file: Any = getattr(image, "fp", None)
    if file is None:
        return 8
    here = file.tell()
    file.seek(0)
    head = file.read(4096)
    file.seek(here)
    start = head.find(b"\xff\x4f\xff\x51")  # start of the codestream, and of its sizes
    if start < 0 or len(head) < start + 43:
        return 8
    (depth,) = struct.unpack_from(">B", head, start + 42)
    return int(depth & 0x7F) + 1


def _with_axis(values: NDArray[Any]) -> NDArray[Any]:
    """Shape: (H, W) -> (H, W, 1)."""
    return values[..., None]
