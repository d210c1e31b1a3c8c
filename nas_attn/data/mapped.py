"""Images in a file on disk that is mapped into memory, for data that is larger than memory.

Of a set that is mapped only the pages in use take memory, all processes of a machine share them, and the system drops
them when memory is short.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.config import n_cores
from nas_attn.data.arrays import ChosenPixels, rows_per_block, with_channels
from nas_attn.errors import DataError

MEMORY_SHARE = 0.25
"""Largest share of the free memory that the images may take in all processes together, one per core."""

_ALWAYS_FITS = 2**26
_RESERVE_NOTHING = 0x4000  # MAP_NORESERVE, which Python names from 3.13 on
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


Announce = Callable[[NDArray[np.int64]], None]
"""Called with the rows of a mapped file that are about to be read."""


@dataclass(frozen=True, eq=False)
class Announcing:
    """Tells the system which rows of a mapped file are about to be read, so that it reads these and no others.

    Left alone, it reads up to megabytes around each page that is missing: with too little memory to keep them, an epoch
    in random order read the file sixty times over.

    Args:
        offset: Place of the first row in the file, in bytes.
        row_bytes: Length of a row.
    """

    mapping: mmap.mmap
    offset: int
    row_bytes: int

    def __call__(self, rows: NDArray[np.int64]) -> None:
        """Announce rows, those that follow each other in one piece."""
        if not len(rows):
            return
        ordered = np.sort(rows)
        gaps = np.flatnonzero(np.diff(ordered) > 1)
        firsts, lasts = ordered[np.r_[0, gaps + 1]], ordered[np.r_[gaps, len(ordered) - 1]]
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            start = (self.offset + first * self.row_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
            self.mapping.madvise(mmap.MADV_WILLNEED, start, self.offset + (last + 1) * self.row_bytes - start)


@dataclass(frozen=True, eq=False)
class MappedPixels:
    """Some rows of an array of images that is mapped from a file; slices and blocks are read when they are asked for.

    Args:
        base: All images of the file.
        rows: Row of each image in `base`.
        channels: 1 converts each block to grey, 3 to colour; None keeps those of the file.
        announce: Called with the rows that are about to be read; None for a file that is read in its order.

    Shape: base (M, H, W, C) uint8; rows (N,); the whole is (N, H, W, channels).
    """

    base: NDArray[np.uint8]
    rows: NDArray[np.int64]
    channels: int | None = None
    announce: Announce | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the images, (N, H, W, C)."""
        return (len(self.rows), *self.base.shape[1:3], self.channels or self.base.shape[3])

    @property
    def nbytes(self) -> int:
        """Bytes of the images."""
        return prod(self.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, some: slice) -> NDArray[np.uint8]:
        """Return a block of images, in memory."""
        rows = self.rows[some]
        if self.announce is not None:
            self.announce(rows)
        block = self.base[rows]
        return block if self.channels is None else with_channels(block, self.channels)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all images, in memory."""
        return np.asarray(self[:], dtype)

    def take(self, indices: NDArray[Any], axis: int = 0) -> MappedPixels:
        """Return the images at `indices`, which stay in the file; named and called like numpy's."""
        assert axis == 0, "images are chosen along the first axis"
        return replace(self, rows=self.rows[indices])


AnyPixels = NDArray[np.uint8] | ChosenPixels | MappedPixels
"""Images in memory, some of them, or images in a mapped file. Shape: (N, H, W, C)."""


def blocks(pixels: AnyPixels) -> Iterator[NDArray[np.uint8]]:
    """Yield the images in blocks that fit in memory, in order and contiguous."""
    step = rows_per_block(pixels.shape)
    for start in range(0, len(pixels), step):
        yield np.ascontiguousarray(pixels[start : start + step])


def converted(pixels: AnyPixels, channels: int | None) -> AnyPixels:
    """Return grey images as colour, or the reverse; those of a mapped file are converted as they are read."""
    if channels is None or pixels.shape[-1] == channels:
        return pixels
    if isinstance(pixels, MappedPixels):
        return replace(pixels, channels=channels)
    return with_channels(np.asarray(pixels), channels)


def refuse_unwritten(pixels: AnyPixels, path: Path | None) -> None:
    """Refuse images that fit neither in memory nor in the cache file."""
    if isinstance(pixels, MappedPixels):
        raise DataError(no_room(pixels.nbytes, path.parent if path else None, "the cache file could not be written"))


def fits_in_memory(n_bytes: int) -> bool:
    """Return whether every process may keep its own copy of so many bytes: see `MEMORY_SHARE`."""
    return n_bytes <= _ALWAYS_FITS or n_bytes * n_cores() <= MEMORY_SHARE * free_memory()


def free_memory() -> int:
    """Return the bytes of memory that this process may still take, within the limit of a container."""
    import psutil

    free: int = psutil.virtual_memory().available
    for path in _LIMITS:
        try:
            free = min(free, int(path.read_text()))
        except (OSError, ValueError):  # no such limit: no file, or the word "max"
            continue
    return free


def map_file(file: IO[bytes]) -> mmap.mmap:
    """Map a file of any length; what is written to the mapping never reaches the file.

    Linux refuses a private mapping that is larger than memory, unless it is told to reserve nothing for it.
    """
    if sys.platform == "linux":
        return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | _RESERVE_NOTHING)
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def no_room(n_bytes: int, folder: Path | None, reason: str) -> str:
    """Return the message on images that fit nowhere."""
    return (
        f"The decoded images must fit in memory or in {folder}, but they need {n_bytes / 1e9:.1f} GB ({reason}): free "
        "space there, let XDG_CACHE_HOME name a folder on another disk, or take a smaller --image-size."
    )
