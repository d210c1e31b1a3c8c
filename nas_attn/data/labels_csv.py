"""An image folder with a `labels.csv`: any number of labels an image, read once and checked line by line."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas_attn.data.arrays import PARTS, Labels, Part, Progress, Source
from nas_attn.data.folder import PART_NAMES, Entry, decode_once
from nas_attn.errors import DataError, unknown

TABLE = "labels.csv"
SPLIT = "split"

_BITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}


@dataclass(frozen=True)
class LabelTable:
    """What `labels.csv` says: the files in its order, and the labels of each.

    Args:
        entries: One a row; its `label` is the row's number, and its `part` is `train` where there is no split column.

    Shape: labels (N, K) of 0 and 1.
    """

    label_names: tuple[str, ...]
    entries: tuple[Entry, ...]
    labels: Labels


def read_table(root: Path, size: int, *, strict: bool = False, progress: Progress | None = None) -> Source:
    """Return the images that `root/labels.csv` names, stretched to `size` x `size`, each with all its labels.

    The first column is a file's path below `root`; every other one is a label that holds 0 or 1, but for an optional
    `split` with train, val or test. Raises: DataError, with the line, if the table is laid out otherwise, if a file
    is missing or named twice; if files are no images as `read_folder` says.
    """
    table = read_labels(root)
    decoded, notes = decode_once(root, table.entries, size, strict=strict, progress=progress)
    part_of = np.array([entry.part for entry in table.entries])[decoded.kept]
    labels = table.labels[decoded.kept]
    parts = {
        part: Part(decoded.pixels[part_of == part], labels[part_of == part]) for part in PARTS if part in set(part_of)
    }
    return Source(table.label_names, parts, notes=notes)


def read_labels(root: Path) -> LabelTable:
    """Read and check `root/labels.csv`; no image is opened."""
    path = root / TABLE
    (_, header), *rows = _rows(path)
    columns = _label_columns(path, header)
    split = header.index(SPLIT, 1) if SPLIT in header[1:] else None
    lines: dict[str, int] = {}
    entries: list[Entry] = []
    labels = np.zeros((len(rows), len(columns)), np.int64)
    for number, (line, cells) in enumerate(rows):
        where = f"Line {line} of {path}"
        if len(cells) != len(header):
            raise DataError(f"{where} must have {len(header)} columns as the first line has, but has {len(cells)}.")
        file = os.path.normpath(cells[0])
        if file in lines:
            raise DataError(f"{where} names '{cells[0]}' again, which line {lines[file]} has: leave one of them out.")
        lines[file] = line
        entries.append(
            _entry(root, cells[0], _part(cells[split], where) if split is not None else "train", number, where)
        )
        labels[number] = [_bit(cells[column], header[column], where) for column in columns]
    if not any(entry.part == "train" for entry in entries):
        raise DataError(f"{path} must name images of train, but has {len(entries)} rows, none of it.")
    return LabelTable(tuple(header[column] for column in columns), tuple(entries), labels)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the number and the cells of every line that has any, blanks around them cut off."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"{path} must be a table in UTF-8 with commas, but cannot be read: {reason}.") from None
    if len(rows) < 2:
        raise DataError(f"{path} must hold a line of column names and a line for each image, but holds {len(rows)}.")
    return rows


def _label_columns(path: Path, header: Sequence[str]) -> list[int]:
    """Return which columns are labels: all but the file's, and `split`."""
    for number, name in enumerate(header[1:], 2):
        if not name or name in header[: number - 1]:
            raise DataError(f"Every column of {path} must have a name of its own, but column {number} has {name!r}.")
    columns = [number for number, name in enumerate(header) if number > 0 and name != SPLIT]
    if len(columns) < 2:
        raise DataError(
            f"{path} must have a column of files and two columns of labels or more, with commas between them, but its "
            f"first line is {','.join(header)!r}. If the folders are the classes, call this file otherwise."
        )
    return columns


def _entry(root: Path, file: str, part: str, number: int, where: str) -> Entry:
    """Return the file of a row, which must lie below the folder."""
    path = root / file
    inside = file and not os.path.isabs(file) and os.pardir not in Path(file).parts
    if not inside or not path.is_file():
        raise DataError(f"{where} must name a file below {root}, but there is no '{file}'.")
    status = path.stat()
    return Entry(path, part, number, status.st_size, status.st_mtime_ns)


def _part(word: str, where: str) -> str:
    if word.lower() not in PART_NAMES:
        raise DataError(unknown("split", word, PARTS, where))
    return PART_NAMES[word.lower()]


def _bit(word: str, label: str, where: str) -> int:
    if word not in _BITS:
        raise DataError(f"{where} must hold 0 or 1 for label '{label}', but holds '{word}'.")
    return _BITS[word]
