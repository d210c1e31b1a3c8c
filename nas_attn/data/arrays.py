"""A data set as plain numpy arrays, and what is computed on pixels; no torch."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.config import n_cores
from nas_attn.records import Labelling, labelling

if TYPE_CHECKING:
    from nas_attn.data.mapped import AnyPixels

Shares = tuple[float, float, float]
Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

PARTS = ("train", "val", "test")

DAMAGED = (
    OSError, ValueError, KeyError, EOFError, TypeError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What numpy and zipfile raise when a file is truncated, altered or of another kind."""

_CHUNK, _BLOCK_BYTES = 256, 2**22  # a block stays in the processor's cache, and its memory is used again
_COPIED_BYTES = 2**24
"""Images of fewer bytes are copied when some of them are chosen."""


@dataclass(frozen=True, eq=False)
class Origins:
    """Where images come from.

    Args:
        names: What messages call each image, such as its path.
        digests: Equal for images of equal content, before they were resized.
        files: Number of the file of each image: the images of one file stay in one part of a split.

    Shape: all (N,).
    """

    names: NDArray[np.object_]
    digests: NDArray[np.uint64]
    files: NDArray[np.int64]

    def take(self, indices: NDArray[Any]) -> Origins:
        """Return the origins at `indices`, in that order."""
        return Origins(self.names[indices], self.digests[indices], self.files[indices])


@dataclass(frozen=True, eq=False)
class ChosenPixels:
    """Some rows of an array of images in memory, which are copied block by block when they are read.

    Shape: base (M, H, W, C) uint8; rows (N,); the whole is (N, H, W, C).
    """

    base: Pixels
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the images, (N, H, W, C)."""
        return (len(self.rows), *self.base.shape[1:])

    @property
    def nbytes(self) -> int:
        """Bytes of the images."""
        return prod(self.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, some: slice) -> Pixels:
        """Return a copy of a block of images."""
        return self.base[self.rows[some]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return a copy of all images."""
        return np.asarray(self[:], dtype)

    def take(self, indices: NDArray[Any], axis: int = 0) -> ChosenPixels:
        """Return the images at `indices`, without a copy; named and called like numpy's."""
        assert axis == 0, "images are chosen along the first axis"
        return replace(self, rows=self.rows[indices])


@dataclass(frozen=True)
class LabelledImages:
    """Images of one part of a data set, with their labels.

    Args:
        origins: Where they come from; None where nobody knows more than their order.

    Shape: pixels (N, H, W, C) uint8, 0 to 255, with C = 1 (grey) or 3 (RGB); labels (N,) int64, class numbers from 0,
        or (N, K) int64 of 0 and 1 where an image may have several of K labels.
    """

    pixels: AnyPixels
    labels: Labels
    origins: Origins | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[Any]) -> LabelledImages:
        """Return the images at `indices`, in that order."""
        origins = None if self.origins is None else self.origins.take(indices)
        return LabelledImages(self.pixels.take(indices, axis=0), self.labels[indices], origins)

    def view(self, indices: NDArray[Any]) -> LabelledImages:
        """Return the images at `indices`, in that order; the pixels of many are not copied."""
        if not isinstance(self.pixels, np.ndarray) or self.pixels.nbytes < _COPIED_BYTES:
            return self.take(indices)
        origins = None if self.origins is None else self.origins.take(indices)
        return LabelledImages(ChosenPixels(self.pixels, indices), self.labels[indices], origins)


@dataclass(frozen=True)
class ImageDataset:
    """A data set as its reader returns it: before it is split and resized.

    Args:
        class_names: One name per class, in the order of the class numbers; one per label where an image may have
            several.
        parts: `train`, and `val` and `test` if the data set has its own; all in one shape. What is missing is split
            off from `train`.
        shares: Default shares of train, val and test, which add up to 1 or less; 0 for a part that the data set has.
            None takes 70/15/15, 80/20/0 with a test part, 85/0/15 with a val part, and 100/0/0 with both.
        notes: Sentences that the user should read, e.g. about files that were skipped.
        pixel_range: Values that became 0 and 255, of images with more than 8 bits or of all if it was asked for; None
            if the pixels are those of 8-bit images as they are.
    """

    class_names: tuple[str, ...]
    parts: Mapping[str, LabelledImages]
    shares: Shares | None = None
    notes: tuple[str, ...] = ()
    pixel_range: tuple[float, float] | None = None

    @property
    def task(self) -> Labelling:
        """Whether an image has one label, or any number of them."""
        return labelling(self.parts["train"].labels.ndim)


def with_channels(pixels: Pixels, channels: int) -> Pixels:
    """Convert grey images to colour, or the reverse by the luminance of ITU-R 601, as PIL does.

    Shape: (N, H, W, C) -> (N, H, W, channels).
    """
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    grey = np.empty((*pixels.shape[:-1], 1), np.uint8)
    weights = np.array([19595, 38470, 7471], np.uint32)
    for start in range(0, len(pixels), _CHUNK):
        block = pixels[start : start + _CHUNK].astype(np.uint32)
        grey[start : start + _CHUNK, ..., 0] = (block @ weights + 0x8000) >> 16
    return grey


def resized(pixels: Pixels, size: int) -> Pixels:
    """Resize images to `size` x `size` by PIL: bilinear with antialiasing, in a thread per core.

    Shape: (N, H, W, C) -> (N, size, size, C).
    """
    if pixels.shape[1:3] == (size, size):
        return pixels
    from PIL import Image

    n, channels = len(pixels), pixels.shape[-1]
    result = np.empty((n, size, size, channels), np.uint8)

    def fill(start: int) -> None:
        for number in range(start, min(start + _CHUNK, n)):
            image = Image.fromarray(pixels[number] if channels == 3 else pixels[number, ..., 0])
            small = image.resize((size, size), Image.Resampling.BILINEAR)
            result[number] = np.asarray(small).reshape(size, size, channels)

    with ThreadPoolExecutor(n_cores()) as pool:
        list(pool.map(fill, range(0, n, _CHUNK)))
    return result


def rows_per_block(shape: tuple[int, ...]) -> int:
    """Return how many images of (N, H, W, C) are read at a time: a block is small, also where images are large."""
    return max(1, min(_CHUNK, _BLOCK_BYTES // max(1, prod(shape[1:]))))


class PixelSums:
    """Sums over pixels, of whole numbers, from which mean and standard deviation per channel follow exactly."""

    def __init__(self, channels: int) -> None:
        self._n = 0
        self._sums, self._squares = [0] * channels, [0] * channels

    def add(self, block: Pixels) -> None:
        """Add images. Shape: (N, H, W, C), contiguous."""
        for channel, (values, squared) in enumerate(zip(*_sums(block), strict=True)):
            self._sums[channel] += values
            self._squares[channel] += squared
        self._n += prod(block.shape[:-1])

    @property
    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel, of pixels scaled to 0 to 1.

        The standard deviation is at least 1/255, so that dividing by it stays finite.
        """
        n = self._n
        mean = tuple(total / (255 * n) for total in self._sums)
        pairs = zip(self._sums, self._squares, strict=True)
        spread = (math.sqrt(n * squared - total**2) / (255 * n) for total, squared in pairs)
        return mean, tuple(max(one, 1 / 255) for one in spread)


def _sums(block: Pixels) -> tuple[list[int], list[int]]:
    """Return the sum of each channel's values, and that of their squares; numpy is quick along long rows.

    Shape: (N, H, W, C).
    """
    n, height, width, channels = block.shape
    rows = block.reshape(n * height, width * channels)
    squares = np.multiply(rows, rows, dtype=np.uint16)
    wide = np.uint32 if len(rows) <= 2**16 else np.uint64  # 65,536 squares fit in 32 bits, which are quicker
    both = (
        np.add.reduce(each, axis=0, dtype=wide).reshape(width, channels).sum(0, np.uint64) for each in (rows, squares)
    )
    sums, squared = (total.tolist() for total in both)
    return sums, squared
