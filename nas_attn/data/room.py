"""Where images are put while they are decoded: in memory, or in a file that becomes the cache."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.data.arrays import ChosenPixels
from nas_attn.data.mapped import AnyPixels, MappedPixels, fits_in_memory, map_file, no_room
from nas_attn.data.row_file import check_of, mapped_rows, write_facts
from nas_attn.errors import DataError
from nas_attn.files import new_part

_SEEKING = threading.Lock()


class MemoryRoom:
    """Rows of images in memory. Shape: (N, H, W, C)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._pixels = np.empty(shape, np.uint8)

    def put(self, place: int, image: NDArray[np.uint8]) -> int:
        """Store an image, (H, W, C) or (H, W, 1), and return a checksum of its row."""
        self._pixels[place] = image
        return check_of(self._pixels[place])

    def images(self, places: NDArray[np.int64], channels: int) -> AnyPixels:
        """Return some rows and their first channels."""
        whole = len(places) == self.shape[0] and channels == self.shape[-1]
        return self._pixels if whole else np.ascontiguousarray(self._pixels[places, ..., :channels])


class FileRoom:
    """Rows of images in a file without a name, which the system removes with the last process that uses it.

    Shape: (N, H, W, C).
    """

    def __init__(self, shape: tuple[int, ...], folder: Path, file: int) -> None:
        """Take the room on the disk.

        Args:
            folder: Where the file lies.
            file: Its descriptor, which is closed with this object.
        Raises: OSError if the disk has no room.
        """
        self.shape = shape
        self._folder, self._file = folder, file
        self._checks = np.zeros(shape[0], np.uint32)
        weakref.finalize(self, os.close, file)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file, 0, prod(shape))
        else:
            os.truncate(self._file, prod(shape))

    def put(self, place: int, image: NDArray[np.uint8]) -> int:
        """Store an image, (H, W, C) or (H, W, 1), and return a checksum of its row.

        Raises: DataError if the disk does not take it.
        """
        row = np.ascontiguousarray(np.broadcast_to(image, self.shape[1:]))
        try:
            _write_at(self._file, row.data.cast("B"), place * row.nbytes)
        except OSError as error:
            raise DataError(no_room(prod(self.shape), self._folder, error.strerror or str(error))) from None
        self._checks[place] = found = check_of(row)
        return found

    def images(self, places: NDArray[np.int64], channels: int) -> AnyPixels:
        """Return some rows and their first channels: those of the file, or a copy if it fits in memory."""
        base, mapping = self._mapped
        found = mapped_rows(base, mapping, places)
        if channels == self.shape[-1]:
            return found
        if isinstance(found, MappedPixels):
            return MappedPixels(base[..., :channels], places)
        return np.ascontiguousarray(np.asarray(found)[..., :channels])

    def finish(self, path: Path, facts: Mapping[str, NDArray[Any]], pixels: AnyPixels) -> bool:
        """Make the file the one at `path`, in one step; return whether that was possible.

        Args:
            facts: Small arrays that are stored behind the rows.
            pixels: The images that are to be stored; others than those of the file cannot be.
        """
        base, _ = self._mapped
        chosen = pixels if isinstance(pixels, ChosenPixels | MappedPixels) else None
        converted = isinstance(chosen, MappedPixels) and chosen.channels not in (None, self.shape[-1])
        if (pixels if chosen is None else chosen.base) is not base or converted:
            return False
        rows = np.arange(len(base)) if chosen is None else chosen.rows
        part = new_part(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._file, "r+b", closefd=False) as file:
                file.seek(prod(self.shape))
                write_facts(file, facts, self.shape, rows, self._checks)
            os.link(f"/proc/self/fd/{self._file}", part, src_dir_fd=self._file)  # without it, the link itself is linked
            part.replace(path)
        except OSError:  # a disk that is full, or a file that cannot get a name
            with suppress(OSError):
                part.unlink()
            return False
        return True

    @cached_property
    def _mapped(self) -> tuple[NDArray[np.uint8], Any]:
        """All rows, and their mapping."""
        with open(self._file, "rb", closefd=False) as file:
            mapping = map_file(file)
        return np.frombuffer(mapping, np.uint8, count=prod(self.shape)).reshape(self.shape), mapping


Room = MemoryRoom | FileRoom


def room_for(shape: tuple[int, ...], folder: Path | None) -> Room:
    """Return room for images: in a file in `folder` that may become the cache, otherwise in memory if they fit.

    Raises: DataError if the images fit neither in memory nor on the disk.
    """
    if folder is None or not prod(shape):
        return MemoryRoom(shape)
    try:
        return FileRoom(shape, folder, _linkable_file(folder))
    except OSError:  # a full disk, or one whose files have a name from the start
        if fits_in_memory(prod(shape)):
            return MemoryRoom(shape)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            return FileRoom(shape, folder, os.dup(file.fileno()))
    except OSError as error:
        raise DataError(no_room(prod(shape), folder, error.strerror or str(error))) from None


def _linkable_file(folder: Path) -> int:
    """Return the descriptor of a new file without a name, which may get one in `folder`, which is not made yet.

    Raises: OSError where none can be made.
    """
    if not hasattr(os, "O_TMPFILE"):
        raise OSError("this system has no such files")
    place = next(each for each in (folder, *folder.parents) if each.is_dir())
    return os.open(place, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o666)


def _write_at(file: int, content: memoryview, offset: int) -> None:
    """Write all of `content` at an offset; several threads may. Raises: OSError if the disk does not take it."""
    while content:
        if hasattr(os, "pwrite"):
            n = os.pwrite(file, content, offset)
        else:
            with _SEEKING:
                os.lseek(file, offset, os.SEEK_SET)
                n = os.write(file, content)
        content, offset = content[n:], offset + n
