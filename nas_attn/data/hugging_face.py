"""A Hugging Face data set on disk: written by `save_to_disk`, or as Parquet or Arrow files; read without `datasets`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nas_attn.data.arrays import PARTS, ImageDataset, Labels
from nas_attn.data.arrow_shards import Shards
from nas_attn.data.decode import ImageFile
from nas_attn.data.entry import DataRequest
from nas_attn.data.file_images import dataset_of_files
from nas_attn.data.hugging_face_columns import Features, find_features
from nas_attn.data.layout import missing_notes
from nas_attn.data.parts import EXACT, part_of
from nas_attn.data.tree import composed, is_writable, shown
from nas_attn.errors import DataError, unknown

DEFAULT_SIZE = 64
"""Height and width that images of several sizes are resized to."""

LARGEST = 2048
"""Height and width up to which images keep their size."""

_SUFFIXES = (".arrow", ".parquet", ".pq")
_SHARD = re.compile(r"[-_]\d+-of-\d+$")
_N_SIZES = 100


def read_hugging_face(request: DataRequest) -> ImageDataset:
    """Return the images of a data set on disk; nothing is downloaded, and no code of it is executed.

    Splits are parts by their names. The images are the one column of images, as bytes or paths; the labels the one
    column of class labels, of lists of them, or a column called `label` or `class`.

    Raises: DataError, in one sentence, for a folder of another kind, and for columns that may mean several things.
    """
    splits, notes = _parts(_splits(request.path), request.path)
    features = find_features(splits["train"], request.path)
    notes.append(features.in_words)
    labels: list[Labels] = []
    files: list[ImageFile] = []
    names = features.class_names or _names_found(splits["train"], features)
    notes += [] if features.class_names else missing_notes(names)
    for part, shards in splits.items():
        found = _labels(shards, features, names, part)
        if found is None:
            notes.append(f"The split '{part}' has no labels (all are -1 or missing), so it is not read.")
            continue
        labels.append(found)
        files += _files(request.path, part, shards, features, len(files))
    size, more = _size(request, files)
    table = np.concatenate(labels)
    return dataset_of_files(replace(request, image_size=size), files, names, table, [*notes, *more])


def _splits(root: Path) -> dict[str, Shards]:
    """Return the rows of each split by its name; a data set without splits is one of the empty name."""
    if root.is_file() and root.suffix.lower() in _SUFFIXES:
        return {"": Shards([root])}
    if not root.is_dir():
        raise DataError(
            f"A data set of Hugging Face must exist on disk, but there is none at {root.absolute()}: write it there by "
            "load_dataset(NAME).save_to_disk(PATH)."
        )
    if (root / "dataset_dict.json").is_file():
        stated = _json(root / "dataset_dict.json").get("splits")
        if not isinstance(stated, list) or not all(isinstance(name, str) for name in stated) or not stated:
            raise DataError(f"{root / 'dataset_dict.json'} must name the splits, but names {stated}.")
        return {name: _saved(root / name) for name in stated}
    if (root / "state.json").is_file():
        return {"": _saved(root)}
    return _by_file_name(root)


def _saved(folder: Path) -> Shards:
    """Return the rows of a folder that `Dataset.save_to_disk` wrote."""
    state = _json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise DataError(
            f"{folder} must hold its rows in their order, but selects them by an index: call flatten_indices() and "
            "save it again."
        )
    entries = state.get("_data_files")
    if entries == []:
        raise DataError(f"A split must have rows, but {folder} has none: remove the split.")
    names = [one.get("filename") for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise DataError(f"{folder / 'state.json'} must name the data files, but names {entries}.")
    return Shards([folder / str(name) for name in names])


def _by_file_name(root: Path) -> dict[str, Shards]:
    """Return the splits of a folder of Parquet or Arrow files, which their names or folders name."""
    paths = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in _SUFFIXES and not any(one.startswith(".") for one in path.relative_to(root).parts)
    )
    if not paths:
        raise DataError(
            f"{root} must be a data set that Dataset.save_to_disk wrote, or hold Parquet or Arrow files, but is "
            "neither: write it by Dataset.save_to_disk."
        )
    groups: dict[str, list[Path]] = {}
    places: dict[str, set[Path]] = {}
    for path in paths:
        split = _split_of(path, root)
        groups.setdefault(split, []).append(path)
        places.setdefault(split, set()).add(path.parent)
    for split, found in places.items():
        if len(found) > 1:
            listed = " and ".join(sorted(str(place.relative_to(root)) for place in found)[:2])
            raise DataError(
                f"{root} must hold one data set, but {listed} both have a split '{split or 'train'}': name one folder."
            )
    return {split: Shards(found) for split, found in groups.items()}


def _split_of(path: Path, root: Path) -> str:
    """Return the split that a file's name or its folder's name states; the empty name if none does."""
    stem = _SHARD.sub("", path.stem)
    words = re.split(r"[-_.]", stem)
    for word in (words[0], words[-1]):
        if word.lower() in EXACT:
            return word
    if part_of(stem):
        return stem
    return path.parent.name if path.parent != root and part_of(path.parent.name) else ""


def _parts(splits: Mapping[str, Shards], root: Path) -> tuple[dict[str, Shards], list[str]]:
    """Return the rows of each part, and a note on splits that are none."""
    if set(splits) == {""}:
        return {"train": splits[""]}, []
    found: dict[str, Shards] = {}
    named: dict[str, str] = {}
    unread = []
    for name, shards in splits.items():
        part = part_of(name)
        if part is None:
            unread.append(f"'{shown(name)}'" if name else f"{len(shards.paths)} files without the name of a split")
        elif part in found:
            raise DataError(f"{root} must have one {part} split, but has '{named[part]}' and '{name}': remove one.")
        else:
            found[part], named[part] = shards, name
    if "train" not in found:
        listed = ", ".join(f"'{name}'" for name in splits)
        raise DataError(f"{root} must have a split 'train', but has {listed}: name the folder of one split alone.")
    order = {part: found[part] for part in PARTS if part in found}
    return order, [f"Splits that are not read: {', '.join(unread)}."] if unread else []


def _names_found(train: Shards, features: Features) -> tuple[str, ...]:
    """Return the values of a column without class names, as names: numbers in their order."""
    values = {value for value in train.column(features.label) if value is not None and value != -1}
    if all(isinstance(value, int) for value in values):
        return tuple(str(value) for value in sorted(values))
    names = {composed(str(value)) for value in values}
    for name in sorted(names):
        if not name.strip() or not is_writable(name):
            raise DataError(
                f"A class must have a name without control characters, but '{features.label}' has {name!r}."
            )
    return tuple(sorted(names))


def _labels(shards: Shards, features: Features, names: tuple[str, ...], part: str) -> Labels | None:
    """Return the labels of a split; None if it has none at all, as test splits of competitions.

    Shape: (N,) class numbers, or (N, K) of 0 and 1.
    """
    values = shards.column(features.label)
    if features.several:
        table = np.zeros((len(values), len(names)), np.int64)
        for row, numbers in enumerate(values):
            if numbers is None or not all(0 <= number < len(names) for number in numbers):
                raise DataError(_no_label(part, row, features.label, numbers))
            table[row, list(numbers)] = 1
        return table
    if part != "train" and all(value in (None, -1) for value in values):
        return None
    if features.class_names:
        for row, value in enumerate(values):
            if not isinstance(value, int) or not 0 <= value < len(names):
                raise DataError(_no_label(part, row, features.label, value))
        return np.array(values, np.int64)
    numbers = {name: number for number, name in enumerate(names)}
    for row, value in enumerate(values):
        if value is None or value == -1:
            raise DataError(_no_label(part, row, features.label, value))
        if composed(str(value)) not in numbers:
            raise DataError(unknown("class", str(value), names, f"row {row} of the split '{part}'"))
    return np.array([numbers[composed(str(value))] for value in values], np.int64)


def _no_label(part: str, row: int, column: str, value: object) -> str:
    return f"Every image must have a label, but row {row} of the split '{part}' has {value} in '{column}': remove it."


def _files(root: Path, part: str, shards: Shards, features: Features, first: int) -> Iterator[ImageFile]:
    """Yield the images of a split: files of their own, or bytes inside the data set's files."""
    size, mtime_ns = shards.status()
    outside = _paths_outside(shards, features.image, root) if features.is_struct else {}
    for row in range(shards.n_rows):
        if row in outside:
            status = outside[row].stat()
            yield ImageFile(outside[row], part, first + row, status.st_size, status.st_mtime_ns)
        else:
            yield ImageFile(
                root / part / str(row), part, first + row, size, mtime_ns, content=_content(shards, features, row)
            )


def _content(shards: Shards, features: Features, row: int) -> Callable[[], bytes]:
    def content() -> bytes:
        value = shards.value(features.image, row)
        found = value["bytes"] if features.is_struct else value
        return found if isinstance(found, bytes) else b""

    return content


def _paths_outside(shards: Shards, column: str, root: Path) -> dict[int, Path]:
    """Return the files of the images whose bytes are elsewhere, by row. Raises: DataError for a missing file."""
    found = {}
    for row, path in shards.paths_without_bytes(column):
        if not path:
            raise DataError(f"Every row of {root} must have an image, but row {row} has none: remove the row.")
        places = [Path(path), root / path, shards.paths[0].parent / path]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise DataError(
                f"The images of {root} must lie in it or exist as files, but row {row} names '{shown(path)}', which "
                "does not exist."
            )
        found[row] = file
    return found


def _size(request: DataRequest, files: list[ImageFile]) -> tuple[int, list[str]]:
    """Return the size that images are read in: the requested one, that of the images if they agree, or the default."""
    if request.image_size is not None:
        return request.image_size, []
    from PIL import Image

    step = max(1, len(files) // _N_SIZES)
    sizes = set()
    for file in files[::step]:
        try:
            with Image.open(file.source) as image:
                sizes.add(image.size)
        except Exception:  # a damaged image raises anything; it is named when it is decoded
            continue
    if len(sizes) == 1 and max(max(size) for size in sizes) <= LARGEST:
        (size,) = sizes
        return max(4, *size), [] if size[0] == size[1] else [
            f"Images of {size[1]} x {size[0]} are stretched to a square."
        ]
    why = "differ in size" if len(sizes) > 1 else "are large"
    return DEFAULT_SIZE, [
        f"The images {why}, so they are resized to {DEFAULT_SIZE}x{DEFAULT_SIZE}: --image-size changes it."
    ]


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON object. Raises: DataError if it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} must be a JSON file of a saved data set, but cannot be read: {error}.") from None
    return found if isinstance(found, dict) else {}
