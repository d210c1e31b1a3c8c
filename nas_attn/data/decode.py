"""Image files decoded in parallel, once: the pixels are cached in a file whose key covers all that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from io import BytesIO
from itertools import chain, groupby
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from nas_attn.config import n_cores
from nas_attn.data.arrays import DAMAGED, LabelledImages, Labels, Origins, Pixels
from nas_attn.data.collection import Collection, digest_of
from nas_attn.data.deep import NotUnderstood
from nas_attn.data.entry import AS_USUAL, Progress, Reading, no_progress
from nas_attn.data.held import hold
from nas_attn.data.mapped import AnyPixels, MappedPixels, converted, refuse_unwritten
from nas_attn.data.pixel_range import Range
from nas_attn.data.readers import n_pictures, pixel_limit, read_pictures
from nas_attn.data.rendering import AS_BEFORE, Rendering
from nas_attn.data.room import FileRoom
from nas_attn.data.row_file import read_facts, read_rows, write_rows
from nas_attn.data.unreadable import reason_of
from nas_attn.errors import DataError
from nas_attn.files import cache_path, code_digest, write_whole

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
        kept: Indices of the files that are images, ascending; once for each frame where all frames are read.
        skipped: Index of each other file -> the reason.
        origins: Where the images come from.
        pixel_range: Values that became black and white in images of more than 8 bits, or as stated; None for neither.
        notes: Sentences for the user on how the images look.
        unnamed: The file without a name that holds the pixels; None if they lie elsewhere.

    Shape: pixels (N, size, size, C) uint8 with C = 1 if all images are grey, otherwise 3; kept (N,).
    """

    pixels: AnyPixels
    kept: NDArray[np.int64]
    skipped: dict[int, str]
    origins: Origins
    pixel_range: Range | None = None
    notes: tuple[str, ...] = ()
    unnamed: FileRoom | None = None

    def labelled(self, labels: Labels) -> LabelledImages:
        """Return the images with their labels. Shape: labels (N,) or (N, K)."""
        return LabelledImages(self.pixels, labels, self.origins)


def decode_cached(
    root: Path,
    files: Sequence[ImageFile],
    size: int,
    *,
    channels: int | None = None,
    reading: Reading = AS_USUAL,
    strict: bool = False,
    progress: Progress = no_progress,
) -> tuple[Decoded, tuple[str, ...]]:
    """Return the files as pixels, from the cache if it has exactly these, and notes for the user.

    Args:
        channels: 1 converts the images to grey, 3 to colour; None keeps their own.
        reading: How image files become pixels.
    Raises: DataError as `decode_all` does.
    """
    notes: tuple[str, ...] = ()
    key = _cache_key(root, files, f"{size}|{channels}|{reading}")
    cache = cache_file(root, size, channels)
    decoded = _read_cache(cache, key, root, files) if cache else None
    if decoded is None:
        decoded = decode_all(root, files, size, reading=reading, strict=strict, progress=progress, cache=cache)
        decoded = replace(decoded, pixels=converted(decoded.pixels, channels))
        stored = None if cache is None else _stored(cache, key, decoded, root, files)
        if stored is None:
            refuse_unwritten(decoded.pixels, cache)
            notes += ("The decoded images could not be cached, so each start decodes them again.",)
        decoded = replace(stored or decoded, unnamed=None)
    if cache is not None:
        hold(cache)
    _check_skipped(root, files, decoded.skipped, strict)
    if decoded.skipped:
        notes += (f"{len(decoded.skipped)} of {len(files)} files are no images and were skipped: "
                  f"{_named(root, files, decoded.skipped)}.",)  # fmt: skip
    return decoded, decoded.notes + notes


def cache_file(root: Path, size: int, channels: int | None = None) -> Path | None:
    """Return the cache file of a folder's images at one size; None on a machine without a home folder."""
    name = hashlib.sha256(os.fsencode(f"{size}|{channels or ''}|{root.resolve()}")).hexdigest()[:32]
    return cache_path("folders", f"{name}.rows")


def decode_all(
    root: Path,
    files: Sequence[ImageFile],
    size: int,
    *,
    reading: Reading = AS_USUAL,
    strict: bool = False,
    progress: Progress = no_progress,
    workers: int | None = None,
    cache: Path | None = None,
) -> Decoded:
    """Decode all files, each image resized to `size` x `size`.

    Args:
        reading: How image files become pixels.
        cache: File whose folder takes the pixels; None keeps them in memory.
        workers: Number of threads, which run in parallel since PIL releases the GIL; None: one per core.
    Raises: DataError as soon as more files than allowed are no images, and for values without a known meaning.
    """
    with quiet_pillow(reading.max_pixels), closing_pool(workers or n_cores()) as pool:
        counts = np.ones(len(files), np.int64)
        if reading.frames == "all":
            counts[:] = list(pool.map(lambda file: _count(file, reading), files))
        places: list[int] = (np.cumsum(counts) - counts).tolist()
        found = Collection(int(counts.sum()), size, reading, cache.parent if cache else None)
        skipped: dict[int, str] = {}
        starts = range(0, len(files), _CHUNK)

        def decode_some(start: int) -> dict[int, str]:
            several = range(start, min(start + _CHUNK, len(files)))
            reasons = ((number, _put(files[number], found, places[number], reading)) for number in several)
            return {number: reason for number, reason in reasons if reason is not None}

        for start, failed in zip(starts, pool.map(decode_some, starts), strict=True):
            skipped |= failed
            _check_skipped(root, files, skipped, strict)
            progress(min(start + _CHUNK, len(files)), len(files))
        of_file, kept = _kept(counts, skipped)
        alike = np.unique(of_file[found.alike(kept)]).tolist()
        list(pool.map(lambda number: _compare_whole(files[number], found, places[number], reading), alike))
    return _decoded(root, files, found, counts, skipped)


def _count(file: ImageFile, reading: Reading) -> int:
    """Return the number of pictures of a file; 1 for one that cannot be read, of which its decoding says why."""
    try:
        return n_pictures(lambda: file.source, file.path, reading)
    except Exception:  # a damaged file raises anything
        return 1


def _put(file: ImageFile, found: Collection, place: int, reading: Reading) -> str | None:
    """Decode the pictures of a file to their places; return why it is skipped, or None.

    Raises: DataError for values without a known meaning, or if the disk does not take the pixels.
    """
    try:
        pictures, n_frames = read_pictures(lambda: file.source, file.path, reading, draft=2 * found.size)
        for number, picture in enumerate(pictures):
            found.put(place + number, picture, n_frames=n_frames)
    except NotUnderstood as error:
        raise DataError(f"The image {file.path} {error}: convert it, or remove it.") from None
    except DataError:
        raise
    except Exception as error:  # a damaged file raises anything, from SyntaxError to struct.error
        return reason_of(error, reading.max_pixels)
    return None


def _compare_whole(file: ImageFile, found: Collection, place: int, reading: Reading) -> None:
    """Decode a file again that is like another one when resized, so that the whole pictures are compared."""
    pictures, _ = read_pictures(lambda: file.source, file.path, reading, draft=2 * found.size)
    for number, picture in enumerate(pictures):
        found.digests[place + number] = digest_of(picture.content)


def _kept(counts: NDArray[np.int64], skipped: dict[int, str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the file of each place, and the places of the files that were read."""
    of_file = np.repeat(np.arange(len(counts)), counts)
    return of_file, np.flatnonzero(~np.isin(of_file, list(skipped)))


def _decoded(
    root: Path, files: Sequence[ImageFile], found: Collection, counts: NDArray[np.int64], skipped: dict[int, str]
) -> Decoded:
    """Return the pictures of the files that were read, with their range and what is to be said about them."""
    of_file, places = _kept(counts, skipped)
    parts = np.array([file.part for file in files])[of_file]
    where = "the training images" if len(set(parts)) > 1 else "all images, before they are split"
    names = [_name(root, files[number]) for number in of_file.tolist()]
    pixel_range = found.scale_deep(places, parts == "train", names, where)
    channels = 1 if found.is_grey[places].all() else 3
    return Decoded(
        found.room.images(places, channels),
        of_file[places],
        skipped,
        _origins(root, files, of_file[places], found.digests[places]),
        None if pixel_range is None else pixel_range.pair,
        found.notes(places, pixel_range),
        found.room if isinstance(found.room, FileRoom) else None,
    )


@contextmanager
def closing_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Context manager: threads whose waiting work is given up at the end, also after an error."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def decode_image(
    path: Path, size: int, rendering: Rendering = AS_BEFORE, *, max_pixels: int = AS_USUAL.max_pixels
) -> Pixels:
    """Return one file as the training images of a folder are read. Raises: DataError if it is no image.

    Args:
        rendering: How the training images became pixels.
        max_pixels: Number of pixels above which an image is not read.

    Shape: (size, size, 1) for a grey image, otherwise (size, size, 3).
    """
    reading = replace(rendering.reading, max_pixels=max_pixels)
    try:
        with quiet_pillow(max_pixels):
            pictures, _ = read_pictures(lambda: path, path, reading, draft=2 * size)
            return rendering.pixels_of(next(pictures), f"The image {path}", size)
    except NotUnderstood as error:
        raise DataError(f"The image {path} {error}: convert it.") from None
    except DataError:
        raise
    except Exception as error:  # a damaged file raises anything, from SyntaxError to struct.error
        raise DataError(f"The image {path} cannot be read: {reason_of(error, max_pixels)}.") from error


@contextmanager
def quiet_pillow(max_pixels: int) -> Iterator[None]:
    """Context manager: let Pillow read images of up to `max_pixels`, without warnings about unusual files."""
    with warnings.catch_warnings(), pixel_limit(max_pixels):
        warnings.simplefilter("ignore")
        yield


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
    """Return the paths of the first five skipped files with the reasons, and how many more there are."""
    first = sorted(skipped)[:5]
    words = (
        ", ".join(_name(root, files[number]) for number in several) + f" ({reason})"
        for reason, several in groupby(first, key=skipped.__getitem__)
    )
    return ", ".join(words) + (f" and {len(skipped) - 5} more" if len(skipped) > 5 else "")


def _origins(root: Path, files: Sequence[ImageFile], kept: NDArray[np.int64], digests: NDArray[np.uint64]) -> Origins:
    """Return where the images of the files `kept` come from; a file of several frames is named for each of them."""
    return Origins(np.array([_name(root, files[number]) for number in kept], np.object_), digests, kept)


def _name(root: Path, file: ImageFile) -> str:
    """Return the path of a file inside the folder of its set."""
    return os.fsencode(_relative(root, file)).decode(errors="replace")


def _relative(root: Path, file: ImageFile) -> str:
    """Return the path of a file inside a folder; much faster than `os.path.relpath` where its path begins with it."""
    path, start = os.fspath(file.path), os.path.join(root, "")
    return path[len(start) :] if path.startswith(start) else os.path.relpath(path, root)


def _cache_key(root: Path, files: Sequence[ImageFile], settings: str) -> str:
    """Return a digest of all that the pixels depend on.

    That is: the settings, the code of this folder, the versions of PIL and numpy, which packages read other formats,
    and part, path, length and time of each file.
    """
    import PIL

    readers = [package for package in ("pillow_heif", "pydicom") if find_spec(package) is not None]
    versions = f"{settings}|{code_digest('data')}|{PIL.__version__}|{np.__version__}|{readers}"
    lines = (f"{file.part}|{_relative(root, file)}|{file.size}|{file.mtime_ns}" for file in files)
    digest = hashlib.sha256()
    for line in chain([versions], lines):
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _read_cache(path: Path, key: str, root: Path, files: Sequence[ImageFile]) -> Decoded | None:
    """Return what `_stored` wrote under this key; None if it is missing, of another key, or damaged."""
    try:
        with path.open("rb") as file:
            stored = read_facts(file)
            if str(stored["key"]) != key:
                return None
            about = json.loads(str(stored["about"]))
            skipped = {int(number): reason for number, reason in about["skipped"].items()}
            pixel_range = None if about["pixel_range"] is None else tuple(about["pixel_range"])
            origins = _origins(root, files, stored["kept"], stored["digests"])
            pixels = read_rows(file, stored)
            decoded = Decoded(pixels, stored["kept"], skipped, origins, pixel_range, tuple(about["notes"]))
    except DAMAGED:
        return None
    n_read = len(files) - len(decoded.skipped)
    whole = len(decoded.pixels) == len(decoded.kept) and len(np.unique(decoded.kept)) == n_read
    return decoded if whole else None


def _stored(path: Path, key: str, decoded: Decoded, root: Path, files: Sequence[ImageFile]) -> Decoded | None:
    """Make the nameless file of the pixels the cache file, or write one; return its content, or None if impossible."""
    about = {"skipped": decoded.skipped, "pixel_range": decoded.pixel_range, "notes": decoded.notes}
    texts = {"key": np.array(key), "about": np.array(json.dumps(about))}
    facts = {**texts, "kept": decoded.kept, "digests": decoded.origins.digests}
    if decoded.unnamed is not None and decoded.unnamed.finish(path, facts, decoded.pixels):
        return decoded

    def write(file: IO[bytes]) -> None:
        write_rows(file, facts, decoded.pixels)

    try:
        write_whole(path, write)
    except OSError:  # disk full, or a home folder that cannot be written: only the time of the next start is lost
        return None
    if isinstance(decoded.pixels, MappedPixels):  # its nameless file is then given back to the disk
        return _read_cache(path, key, root, files) or decoded
    return decoded
