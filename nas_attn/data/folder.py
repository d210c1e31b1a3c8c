"""An image folder: the folders are the classes, or a `labels.csv` names the labels of each image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nas_attn.data.arrays import PART_WORDS, PARTS, ImageDataset, LabelledImages
from nas_attn.data.decode import Decoded, ImageFile, decode_cached
from nas_attn.data.entry import DataRequest
from nas_attn.data.labels_csv import TABLE, read_table
from nas_attn.errors import DataError, unknown

_IGNORED = frozenset({"thumbs.db", "desktop.ini"})


def read_folder(request: DataRequest) -> ImageDataset:
    """Return the images of a folder, each resized to the requested size; they stay grey if all are.

    Layouts: `PATH/CLASS/...`; `PATH/train/CLASS/...` with optional `val` and `test` beside it; `PATH/labels.csv`.

    Raises: DataError if the folder is missing, empty or laid out otherwise; if a file is no image under `strict`; if
        more than 1 % of the files are none.
    """
    assert request.image_size is not None, "the record of this source states a default size"
    if (request.path / TABLE).is_file():
        return read_table(request)
    class_names, files, notes = list_folder(request.path)
    decoded, more = decode_cached(
        request.path,
        files,
        request.image_size,
        channels=request.channels,
        strict=request.strict,
        progress=request.progress,
    )
    return ImageDataset(class_names, _parts(files, decoded), notes=notes + more)


def list_folder(root: Path) -> tuple[tuple[str, ...], tuple[ImageFile, ...], tuple[str, ...]]:
    """Return the class names, every file in a fixed order, and notes for the user; no file is opened."""
    if not root.is_dir():
        raise DataError(f"An image folder must exist, but there is none at {root.absolute()}.")
    folders, notes = _part_folders(root)
    class_names = tuple(_folders_in(folders["train"]))
    if len(class_names) < 2:
        raise DataError(
            f"{folders['train']} must have one folder per class, two classes or more, "
            f"but it has {f'only {class_names[0]!r}' if class_names else 'no folder'}."
        )
    files: list[ImageFile] = []
    for part, folder in folders.items():
        for name in _folders_in(folder):
            if name not in class_names:
                raise DataError(unknown("class", name, class_names, str(folder)))
            files += _files(folder / name, part, class_names.index(name))
        if not any(file.part == part for file in files[-1:]):
            raise DataError(f"An image folder must have images, but {folder} has no file in any class folder.")
    return class_names, tuple(files), notes


def _part_folders(root: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the folder of each part, and notes: `train` with `val` and `test` beside it, or the root itself."""
    inside = _folders_in(root)
    found: dict[str, Path] = {}
    for name in inside:
        part = PART_WORDS.get(name.lower())
        if part and part in found:
            raise DataError(f"{root} must have one {part} folder, but has '{found[part].name}' and '{name}'.")
        if part:
            found[part] = root / name
    if "train" not in found:
        if found and len(found) == len(inside):
            raise DataError(f"{root} must have a 'train' folder beside {', '.join(map(repr, inside))}, but has none.")
        return {"train": root}, ()
    other = [name for name in inside if name.lower() not in PART_WORDS]
    notes = (f"Folders of {root} beside 'train' that are not read: {', '.join(other)}.",) if other else ()
    return {part: found[part] for part in PARTS if part in found}, notes


def _folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in `folder`, sorted, without hidden ones."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read: {error.strerror}.") from None


def _files(folder: Path, part: str, label: int) -> Iterator[ImageFile]:
    """Yield every file below `folder` in sorted order, without hidden files and those that file managers write."""
    for place, inner, names in os.walk(folder, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or name.lower() in _IGNORED:
                continue
            path = Path(place, name)
            try:
                status = path.stat()
            except OSError:  # a link to nowhere, which is named when it cannot be opened
                yield ImageFile(path, part, label, 0, 0)
                continue
            yield ImageFile(path, part, label, status.st_size, status.st_mtime_ns)


def _parts(files: Sequence[ImageFile], decoded: Decoded) -> dict[str, LabelledImages]:
    """Group the decoded images by part."""
    kept = [files[number] for number in decoded.kept]
    labels = np.array([file.label for file in kept], np.int64)
    names = list(dict.fromkeys(file.part for file in kept))
    if names == ["train"]:
        return {"train": LabelledImages(decoded.pixels, labels)}
    part_of = np.array([file.part for file in kept])
    images = LabelledImages(decoded.pixels, labels)
    return {name: images.take(np.flatnonzero(part_of == name)) for name in names}
