"""A data set as plain numpy arrays, and what is computed on pixels; no torch."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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

_CHUNK, _BLOCK_BYTES = 256, 2**25


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


def mean_and_std(pixels: AnyPixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, of pixels scaled to 0 to 1; exact, by counting values.

    The standard deviation is at least 1/255, so that dividing by it stays finite.
    """
    channels = pixels.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    step = rows_per_block(pixels.shape)
    for start in range(0, len(pixels), step):
        block = pixels[start : start + step]
        for channel in range(channels):
            counts[channel] += _counts(block[..., channel].ravel())
    values = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(np.maximum(shares @ values**2 - mean**2, 0))
    return tuple(map(float, mean)), tuple(float(max(one, 1 / 255)) for one in std)


def _counts(values: Pixels) -> NDArray[np.int64]:
    """Return how often each of the 256 values occurs; pairs are counted, which takes a quarter of the time.

    Shape: (N,) -> (256,).
    """
    even = len(values) // 2 * 2
    pairs = np.bincount(values[:even].view(np.uint16), minlength=2**16).reshape(256, 256)
    rest = np.bincount(values[even:], minlength=256)
    found: NDArray[np.int64] = pairs.sum(0) + pairs.sum(1) + rest
    return found
