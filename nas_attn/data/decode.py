"""Image files decoded in parallel, once: the pixels are cached in a file whose key covers all that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas_attn.config import n_cores
from nas_attn.data.arrays import DAMAGED, Pixels
from nas_attn.data.entry import Progress, no_progress
from nas_attn.data.mapped import (
    AnyPixels,
    MappedPixels,
    chosen_pixels,
    converted,
    read_facts,
    read_pixels,
    refuse_unwritten,
    room_for,
    write_pixels,
)  # fmt: skip
from nas_attn.errors import DataError, first_line
from nas_attn.files import cache_path, code_digest, write_whole

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_SKIPPED, MIN_TOLERATED = 0.01, 3
"""Largest share of the files that may be no images, and the number of them that is tolerated in any case."""

_CHUNK = 32


@dataclass(frozen=True)
class ImageFile:
    """One file of an image folder.

    Args:
        part: `train`, `val` or `test`.
        label: Class number, or the row of a table of labels.
        size, mtime_ns: Length in bytes and time of the last change in nanoseconds; 0 for a link to nowhere.
        content: Returns the bytes of an image that lies inside another file; None for a file of its own.
    """

    path: Path
    part: str
    label: int
    size: int
    mtime_ns: int
    content: Callable[[], bytes] | None = None

    @property
    def source(self) -> Path | IO[bytes]:
        """What Pillow opens: the path, or the bytes."""
        return self.path if self.content is None else BytesIO(self.content())


@dataclass(frozen=True)
class Decoded:
    """The files of a folder as pixels.

    Args:
        pixels: The images, in the order of `kept`.
        kept: Indices of the files that are images, ascending.
        skipped: Index of each other file -> the reason.

    Shape: pixels (N, size, size, C) uint8 with C = 1 if all images are grey, otherwise 3; kept (N,).
    """

    pixels: AnyPixels
    kept: NDArray[np.int64]
    skipped: dict[int, str]


def decode_cached(
    root: Path,
    files: Sequence[ImageFile],
    size: int,
    *,
    channels: int | None = None,
    strict: bool = False,
    progress: Progress = no_progress,
) -> tuple[Decoded, tuple[str, ...]]:
    """Return the files as pixels, from the cache if it has exactly these, and notes for the user.

    Args:
        channels: 1 converts the images to grey, 3 to colour; None keeps their own.
    Raises: DataError as `decode_all` does.
    """
    notes: tuple[str, ...] = ()
    key = _cache_key(root, files, size, channels)
    cache = cache_file(root, size, channels)
    decoded = _read_cache(cache, key, len(files)) if cache else None
    if decoded is None:
        decoded = decode_all(root, files, size, strict=strict, progress=progress, cache=cache)
        decoded = replace(decoded, pixels=converted(decoded.pixels, channels))
        if cache is None or not _write_cache(cache, key, decoded):
            refuse_unwritten(decoded.pixels, cache)
            notes += ("The decoded images could not be cached, so each start decodes them again.",)
        elif isinstance(decoded.pixels, MappedPixels):  # of a nameless file, which is then given back to the disk
            decoded = _read_cache(cache, key, len(files)) or decoded
    _check_skipped(root, files, decoded.skipped, strict)
    if decoded.skipped:
        notes += (f"{len(decoded.skipped)} of {len(files)} files are no images and were skipped: "
                  f"{_named(root, files, decoded.skipped)}.",)  # fmt: skip
    return decoded, notes


def cache_file(root: Path, size: int, channels: int | None = None) -> Path | None:
    """Return the cache file of a folder's images at one size; None on a machine without a home folder."""
    name = hashlib.sha256(os.fsencode(f"{size}|{channels or ''}|{root.resolve()}")).hexdigest()[:32]
    return cache_path("folders", f"{name}.npz")


def decode_all(
    root: Path,
    files: Sequence[ImageFile],
    size: int,
    *,
    strict: bool = False,
    progress: Progress = no_progress,
    workers: int | None = None,
    cache: Path | None = None,
) -> Decoded:
    """Decode all files, each image resized to `size` x `size`.

    Args:
        cache: File whose folder takes pixels that do not fit in memory; None keeps them in memory.
        workers: Number of threads, which run in parallel since PIL releases the GIL; None: one per core.
    Raises: DataError as soon as more files than allowed are no images.
    """
    pixels = room_for((len(files), size, size, 3), cache.parent if cache else None)
    grey = np.ones(len(files), np.bool_)
    skipped: dict[int, str] = {}

    def decode_some(start: int) -> dict[int, str]:
        failed = {}
        for number in range(start, min(start + _CHUNK, len(files))):
            try:
                grey[number] = _decode(files[number].source, pixels[number])
            except Exception as error:  # a damaged file raises anything, from SyntaxError to struct.error
                failed[number] = f"{type(error).__name__}: {error}".splitlines()[0]
        return failed

    pool = ThreadPoolExecutor(workers or n_cores())
    starts = range(0, len(files), _CHUNK)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL warns about unusual files that it can read
        try:
            for start, failed in zip(starts, pool.map(decode_some, starts), strict=True):
                skipped |= failed
                _check_skipped(root, files, skipped, strict)
                progress(min(start + _CHUNK, len(files)), len(files))
        finally:
            pool.shutdown(cancel_futures=True)
    kept = np.setdiff1d(np.arange(len(files)), np.fromiter(skipped, np.int64, len(skipped)))
    channels = 1 if grey[kept].all() else 3
    return Decoded(chosen_pixels(pixels, kept, channels), kept, skipped)


def decode_image(path: Path, size: int) -> Pixels:
    """Return one file as the training images of a folder are read. Raises: DataError if it is no image.

    Shape: (size, size, 1) for a grey image, otherwise (size, size, 3).
    """
    pixels = np.empty((size, size, 3), np.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns about unusual files that it can read
            grey = _decode(path, pixels)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise DataError(f"The image {path} cannot be read: {reason}.") from error
    except Exception as error:  # a damaged file raises anything, from SyntaxError to struct.error
        raise DataError(f"The image {path} is damaged: {type(error).__name__}: {first_line(error)}.") from error
    return pixels[..., :1] if grey else pixels


def _decode(source: Path | IO[bytes], into: Pixels) -> bool:
    """Write one resized image into (size, size, 3); return whether it is grey."""
    from PIL import Image

    size = len(into)
    with Image.open(source) as image:
        image.draft("RGB", (2 * size, 2 * size))  # decodes a much larger JPEG at a half, a quarter or an eighth
        plain = plain_image(image)
    grey = plain.mode == "L"
    small = np.asarray(plain.resize((size, size), Image.Resampling.BILINEAR))
    into[:] = small[..., None] if grey else small
    return grey


def plain_image(image: Image) -> Image:
    """Return an image in mode L if it is grey, otherwise in RGB; 16-bit grey is scaled to 8 bit."""
    if image.mode.startswith("I"):
        return _from_wide(image)
    return image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")


def _from_wide(image: Image) -> Image:
    """Scale a 16-bit grey image to 8 bit; PIL's own conversion clips everything above 255."""
    from PIL import Image as pillow

    values = np.asarray(image).astype(np.int64)
    return pillow.fromarray(np.clip((values + 128) // 257, 0, 255).astype(np.uint8))


def _check_skipped(root: Path, files: Sequence[ImageFile], skipped: dict[int, str], strict: bool) -> None:
    """Refuse the first file that is no image if `strict`, otherwise more of them than are tolerated."""
    if not skipped:
        return
    if strict:
        first = min(skipped)
        raise DataError(
            f"Every file must be an image under --strict-data, but {files[first].path} is none "
            f"({skipped[first]}): remove or repair it."
        )
    if len(skipped) > max(MIN_TOLERATED, MAX_SKIPPED * len(files)):
        raise DataError(
            f"At most {100 * MAX_SKIPPED:g} % of the files, or {MIN_TOLERATED}, may be no images, but at least "
            f"{len(skipped)} of {len(files)} are none: {_named(root, files, skipped)}. Remove or repair them."
        )


def _named(root: Path, files: Sequence[ImageFile], skipped: dict[int, str]) -> str:
    """Return the paths of the first five skipped files, and how many more there are."""
    paths = (os.path.relpath(files[number].path, root) for number in sorted(skipped))
    names = [os.fsencode(path).decode(errors="replace") for path in paths]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _cache_key(root: Path, files: Sequence[ImageFile], size: int, channels: int | None) -> str:
    """Return a digest of all that the pixels depend on.

    That is: the size, the channels, the code of this folder, the versions of PIL and numpy, and path, length and time
    of each file.
    """
    import PIL

    versions = f"{size}|{channels}|{code_digest('data')}|{PIL.__version__}|{np.__version__}"
    lines = (f"{os.path.relpath(file.path, root)}|{file.size}|{file.mtime_ns}" for file in files)
    digest = hashlib.sha256()
    for line in chain([versions], lines):
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _read_cache(path: Path, key: str, n_files: int) -> Decoded | None:
    """Return what `_write_cache` wrote under this key; None if it is missing, of another key, or damaged."""
    try:
        with path.open("rb") as file:
            stored = read_facts(file)
            if str(stored["key"]) != key:
                return None
            skipped = {int(number): reason for number, reason in json.loads(str(stored["skipped"])).items()}
            decoded = Decoded(read_pixels(file), stored["kept"], skipped)
    except DAMAGED:
        return None
    whole = len(decoded.pixels) == len(decoded.kept) == n_files - len(decoded.skipped)
    return decoded if whole else None


def _write_cache(path: Path, key: str, decoded: Decoded) -> bool:
    """Write the cache file; return whether that was possible."""
    facts = {"key": np.array(key), "skipped": np.array(json.dumps(decoded.skipped)), "kept": decoded.kept}

    def write(file: IO[bytes]) -> None:
        write_pixels(file, facts, decoded.pixels)

    try:
        write_whole(path, write)
    except OSError:  # disk full, or a home folder that cannot be written: only the time of the next start is lost
        return False
    return True
