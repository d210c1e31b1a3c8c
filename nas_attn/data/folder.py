"""An image folder, decoded once in parallel and kept in a cache file that is checked by fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas_attn.config import n_cores
from nas_attn.data.arrays import Part, Pixels, Progress, Source
from nas_attn.errors import DataError, unknown
from nas_attn.files import cache_path, write_whole

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT_SIZE = 64
MOST_SKIPPED = 0.01

_FORMAT = 1  # raised whenever decoding changes, so that older caches are rebuilt
_CHUNK = 32
PART_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_IGNORED = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Entry:
    """One file of an image folder, and what its place in the tree says about it."""

    path: Path
    part: str
    label: int
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Decoded:
    """The files of a folder as pixels.

    Args:
        kept: Numbers of the files that are images, in order; `pixels` holds those.
        skipped: Number of each file that is none -> why.
    """

    pixels: Pixels
    kept: NDArray[np.int64]
    skipped: dict[int, str]


def read_folder(root: Path, size: int, *, strict: bool = False, progress: Progress | None = None) -> Source:
    """Return the images of `root/CLASS/...`, or of `root/train/CLASS/...` with optional `val` and `test` beside it.

    Images are stretched to `size` x `size`; they stay grey if all are. Raises: DataError if the folder is missing,
    empty or laid out otherwise; if a file is no image under `strict`; if more than 1 % of the files are none.
    """
    class_names, entries, notes = list_folder(root)
    decoded, more = decode_once(root, entries, size, strict=strict, progress=progress)
    return Source(class_names, _parts(entries, decoded), notes=notes + more)


def decode_once(
    root: Path, entries: Sequence[Entry], size: int, *, strict: bool = False, progress: Progress | None = None
) -> tuple[Decoded, tuple[str, ...]]:
    """Return the pixels of the files, from the cache file where it holds just these, and notes."""
    notes: tuple[str, ...] = ()
    fingerprint = _fingerprint(root, entries, size)
    cache = cache_file(root, size)
    decoded = _read_cache(cache, fingerprint, len(entries)) if cache else None
    if decoded is None:
        decoded = decode_all(root, entries, size, strict=strict, progress=progress)
        if cache is None or not _write_cache(cache, fingerprint, decoded):
            notes += ("The decoded images could not be kept in a cache file, so each start decodes them again.",)
    _judge(root, entries, decoded.skipped, strict)
    if decoded.skipped:
        notes += (f"{len(decoded.skipped)} of {len(entries)} files are no images and were skipped: "
                  f"{_named(root, entries, decoded.skipped)}.",)  # fmt: skip
    return decoded, notes


def cache_file(root: Path, size: int) -> Path | None:
    """Return where this folder's images are kept at this size; None on a machine without a home folder."""
    name = hashlib.sha256(os.fsencode(f"{size}|{root.resolve()}")).hexdigest()[:32]
    return cache_path("folders", f"{name}.npz")


def list_folder(root: Path) -> tuple[tuple[str, ...], tuple[Entry, ...], tuple[str, ...]]:
    """Return the class names, every file in a fixed order, and notes; nothing is opened yet."""
    if not root.is_dir():
        raise DataError(f"An image folder must exist, but there is none at {root.absolute()}.")
    folders, notes = _part_folders(root)
    class_names = tuple(_folders_in(folders["train"]))
    if len(class_names) < 2:
        raise DataError(
            f"{folders['train']} must hold one folder a class, two classes or more, "
            f"but it holds {f'only {class_names[0]!r}' if class_names else 'no folder'}."
        )
    entries: list[Entry] = []
    for part, folder in folders.items():
        for name in _folders_in(folder):
            if name not in class_names:
                raise DataError(unknown("class", name, class_names, str(folder)))
            entries += _files(folder / name, part, class_names.index(name))
        if not any(entry.part == part for entry in entries[-1:]):
            raise DataError(f"An image folder must hold images, but {folder} holds no file in any class folder.")
    return class_names, tuple(entries), notes


def _part_folders(root: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the folders of the parts: the root itself as train, or its `train` with what lies beside it."""
    inside = _folders_in(root)
    found: dict[str, Path] = {}
    for name in inside:
        part = PART_NAMES.get(name.lower())
        if part and part in found:
            raise DataError(f"{root} must hold one {part} folder, but holds '{found[part].name}' and '{name}'.")
        if part:
            found[part] = root / name
    if "train" not in found:
        if found and len(found) == len(inside):
            raise DataError(f"{root} must hold a 'train' folder beside {', '.join(map(repr, inside))}, but has none.")
        return {"train": root}, ()
    other = [name for name in inside if name.lower() not in PART_NAMES]
    notes = (f"Beside 'train' these folders of {root} are not read: {', '.join(other)}.",) if other else ()
    return {part: found[part] for part in ("train", "val", "test") if part in found}, notes


def _folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in `folder`, sorted, hidden ones left out."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read: {error.strerror}.") from None


def _files(folder: Path, part: str, label: int) -> Iterator[Entry]:
    """Yield every file below `folder` in sorted order; hidden files and those that file managers leave are none."""
    for place, inner, names in os.walk(folder, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or name.lower() in _IGNORED:
                continue
            path = Path(place, name)
            try:
                status = path.stat()
            except OSError:  # a dangling link: it is named when it cannot be opened
                yield Entry(path, part, label, 0, 0)
                continue
            yield Entry(path, part, label, status.st_size, status.st_mtime_ns)


def decode_all(
    root: Path,
    entries: Sequence[Entry],
    size: int,
    *,
    strict: bool = False,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Decoded:
    """Decode all files over `workers` threads (None: one a core; PIL gives the interpreter free while it decodes).

    Raises: DataError as soon as more files than allowed are no images.
    """
    pixels = np.empty((len(entries), size, size, 3), np.uint8)
    grey = np.ones(len(entries), np.bool_)
    skipped: dict[int, str] = {}

    def decode_some(start: int) -> dict[int, str]:
        failed = {}
        for number in range(start, min(start + _CHUNK, len(entries))):
            try:
                grey[number] = _decode(entries[number].path, pixels[number])
            except Exception as error:  # a damaged file raises anything, from SyntaxError to struct.error
                failed[number] = f"{type(error).__name__}: {error}".splitlines()[0]
        return failed

    pool = ThreadPoolExecutor(workers or n_cores())
    starts = range(0, len(entries), _CHUNK)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's remarks about odd, yet readable files
        try:
            for start, failed in zip(starts, pool.map(decode_some, starts), strict=True):
                skipped |= failed
                _judge(root, entries, skipped, strict)
                if progress:
                    progress(min(start + _CHUNK, len(entries)), len(entries))
        finally:
            pool.shutdown(cancel_futures=True)
    kept = np.setdiff1d(np.arange(len(entries)), np.fromiter(skipped, np.int64, len(skipped)))
    channels = 1 if grey[kept].all() else 3
    whole = channels == 3 and not skipped
    return Decoded(pixels if whole else np.ascontiguousarray(pixels[kept, ..., :channels]), kept, skipped)


def _decode(path: Path, into: Pixels) -> bool:
    """Write one image, stretched, into (size, size, 3); return whether it is grey."""
    from PIL import Image

    size = len(into)
    with Image.open(path) as image:
        image.draft("RGB", (2 * size, 2 * size))  # a JPEG far larger than asked is decoded at a half, quarter or eighth
        grey = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")
        plain = _from_wide(image) if image.mode.startswith("I") else image.convert("L" if grey else "RGB")
    small = np.asarray(plain.resize((size, size), Image.Resampling.BILINEAR))
    into[:] = small[..., None] if grey else small
    return grey


def _from_wide(image: Image) -> Image:
    """Return a 16-bit grey image as 8 bit; PIL's own conversion would cut everything above 255."""
    from PIL import Image as pillow

    values = np.asarray(image).astype(np.int64)
    return pillow.fromarray(np.clip((values + 128) // 257, 0, 255).astype(np.uint8))


def _judge(root: Path, entries: Sequence[Entry], skipped: dict[int, str], strict: bool) -> None:
    """Stop at the first file that is no image if `strict`, else at more than 1 % of all."""
    if not skipped:
        return
    if strict:
        first = min(skipped)
        raise DataError(
            f"Every file must be an image under --strict-data, but {entries[first].path} is none "
            f"({skipped[first]}): remove or mend it."
        )
    if len(skipped) > MOST_SKIPPED * len(entries):
        raise DataError(
            f"At most 1 % of the files may be no images, but at least {len(skipped)} of {len(entries)} are none: "
            f"{_named(root, entries, skipped)}. Remove or mend them."
        )


def _named(root: Path, entries: Sequence[Entry], skipped: dict[int, str]) -> str:
    """Name the first few of the skipped files."""
    paths = (os.path.relpath(entries[number].path, root) for number in sorted(skipped))
    names = [os.fsencode(path).decode(errors="replace") for path in paths]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _parts(entries: Sequence[Entry], decoded: Decoded) -> dict[str, Part]:
    """Sort the decoded images by the part that their place in the tree names."""
    kept = [entries[number] for number in decoded.kept]
    labels = np.array([entry.label for entry in kept], np.int64)
    names = list(dict.fromkeys(entry.part for entry in kept))
    if names == ["train"]:
        return {"train": Part(decoded.pixels, labels)}
    where = np.array([entry.part for entry in kept])
    return {name: Part(decoded.pixels[where == name], labels[where == name]) for name in names}


def _fingerprint(root: Path, entries: Sequence[Entry], size: int) -> str:
    """Return a digest of what decoding depends on: every path with its length and time, and the size asked for."""
    lines = (f"{os.path.relpath(entry.path, root)}|{entry.size}|{entry.mtime_ns}" for entry in entries)
    digest = hashlib.sha256()
    for line in chain([f"{_FORMAT}|{size}"], lines):
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _read_cache(path: Path, fingerprint: str, n_entries: int) -> Decoded | None:
    """Return what `_write_cache` wrote for this fingerprint; None if it is missing, of other files, or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["fingerprint"]) != fingerprint:
                return None
            skipped = {int(number): reason for number, reason in json.loads(str(stored["skipped"])).items()}
            decoded = Decoded(stored["pixels"], stored["kept"], skipped)  # the archive's CRC is checked here
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, TypeError):
        return None
    whole = len(decoded.pixels) == len(decoded.kept) == n_entries - len(decoded.skipped)
    return decoded if whole else None


def _write_cache(path: Path, fingerprint: str, decoded: Decoded) -> bool:
    """Keep what was decoded; return whether that worked."""
    named = np.array(fingerprint)
    skipped = np.array(json.dumps(decoded.skipped))

    def write(file: IO[bytes]) -> None:
        np.savez(file, fingerprint=named, skipped=skipped, kept=decoded.kept, pixels=decoded.pixels)

    try:
        write_whole(path, write)
    except OSError:  # no room, or a home that cannot be written: the run goes on without
        return False
    return True
