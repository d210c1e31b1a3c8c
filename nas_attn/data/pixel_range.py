"""The range of pixel values that becomes black and white: stated, or found once for a whole set of files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.errors import DataError

Range = tuple[float, float]
"""The values that become 0 and 255."""

EIGHT_BITS: Range = (0, 255)
BITS = (8, 10, 12, 14, 16)
"""Depths of cameras and scanners whose values lie in files of 16 bits."""

_USUAL: tuple[Range, ...] = ((0, 1), (-1, 1), (0, 255))
_BLOCK = 256
"""Images that are compared at once."""

_LEAST_SHARE = 0.125
"""Values that fill less of a depth are no picture of this depth: a thermal camera's lie around 30,000."""


@dataclass(frozen=True)
class Bounds:
    """The smallest and the largest value of an image, or of several.

    Args:
        whole: Whether the values are whole numbers.
    """

    low: float
    high: float
    whole: bool

    @classmethod
    def around(cls, several: Iterable[Bounds]) -> Bounds:
        """Return the bounds of all. Raises: ValueError if there are none."""
        found = list(several)
        return cls(min(one.low for one in found), max(one.high for one in found), found[0].whole)


@dataclass(frozen=True)
class FoundRange:
    """A range with its reason.

    Args:
        basis: Why it is this one, as a part of a sentence.
        whole: Whether the values are whole numbers.
    """

    low: float
    high: float
    basis: str
    whole: bool = True

    @property
    def pair(self) -> Range:
        """Both ends."""
        return (self.low, self.high)


def read_range(text: str) -> Range:
    """Return the range of a setting.

    >>> read_range("0:4095"), read_range("-1:1")
    ((0.0, 4095.0), (-1.0, 1.0))

    Raises: DataError for anything but two numbers that ascend.
    """
    low, _, high = text.partition(":")
    try:
        found = (float(low), float(high))
    except ValueError:
        found = (math.nan, math.nan)
    if not (math.isfinite(found[0]) and math.isfinite(found[1]) and found[0] < found[1]):
        raise DataError(f"'--pixel-range' must be two numbers that ascend, LOW:HIGH as in 0:4095, but got '{text}'.")
    return found


def find_range(train: Sequence[Bounds], others: Sequence[Bounds] = (), *, where: str) -> FoundRange:
    """Return the range of a set of images with more than 8 bits, or with floating values.

    Whole numbers from 0 to 65535 have the smallest usual depth that contains all of them; floating values are those of
    a usual range, if they fill at least half of it. Otherwise the range is that of the training images.

    Args:
        train: Of each training image; at least one.
        others: Of each image of the other parts.
        where: Name of the training images in the reason.
    Raises: DataError if some have whole and others have floating values.
    """
    if len({one.whole for one in (*train, *others)}) > 1:
        raise DataError(
            "Images of more than 8 bits must be all of whole numbers or all of floating point, but both are among "
            "them: convert some, or state one range for all by --pixel-range LOW:HIGH."
        )
    seen, all_of_them = Bounds.around(train), Bounds.around([*train, *others])
    if seen.whole and all_of_them.low >= 0 and all_of_them.high < 2 ** BITS[-1]:
        bits = next(bits for bits in BITS if all_of_them.high < 2**bits)
        top = 2**bits - 1
        if seen.high == seen.low or seen.high - seen.low >= _LEAST_SHARE * top:
            return FoundRange(0, top, f"{bits} bits, the fewest that contain all values")
    if not seen.whole:
        for low, high in _USUAL:
            if low <= all_of_them.low and all_of_them.high <= high and _fills_half(seen, low, high):
                return FoundRange(low, high, "a usual range that contains all values", False)
    high = seen.high if seen.high > seen.low else seen.low + 1
    return FoundRange(seen.low, high, f"the smallest and the largest value in {where}", seen.whole)


def _fills_half(seen: Bounds, low: float, high: float) -> bool:
    """Return whether values fill at least half of a range; a constant fills any."""
    return seen.high == seen.low or 2 * (seen.high - seen.low) >= high - low


def scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Return values as pixels: `low` becomes 0 and `high` 255; what lies outside is cut off."""
    shares = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.rint(np.clip(shares, 0, 255)).astype(np.uint8)


def outside(values: NDArray[Any], ends: Range) -> NDArray[np.bool_]:
    """Return where values lie outside of a range."""
    return (values < ends[0]) | (values > ends[1])


def n_outside(images: Any, ends: Range) -> int:
    """Return the number of images of an array, in memory or mapped, with a value outside of a range.

    Shape: (N, ...).
    """
    blocks = (np.asarray(images[start : start + _BLOCK]) for start in range(0, len(images), _BLOCK))
    return sum(int(outside(block, ends).reshape(len(block), -1).any(1).sum()) for block in blocks)


def cut_note(ends: Range, n_images: int) -> str:
    """Return the note on images with values outside of a range."""
    return f"Images with values outside of {in_words(ends)}, which are cut off: {n_images:,}."


def table_of(pixel_range: Range) -> list[int]:
    """Return the pixel of each of the 256 values of an 8-bit image."""
    return [int(pixel) for pixel in scaled(np.arange(256), *pixel_range)]


def in_words(pixel_range: Range) -> str:
    """Return a range as it is written in a setting.

    >>> in_words((0.0, 4095.0)), in_words((-0.5, 1.25))
    ('0:4095', '-0.5:1.25')
    """
    return ":".join(f"{value:.7g}" for value in pixel_range)


def bounds_of(values: NDArray[Any], whole: bool) -> Bounds:
    """Return the bounds of an array that is not empty."""
    return Bounds(float(values.min()), float(values.max()), whole)
