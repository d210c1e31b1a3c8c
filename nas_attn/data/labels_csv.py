"""An image folder with a `labels.csv`: several labels per image, checked line by line."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas_attn.data.arrays import PART_WORDS, PARTS, ImageDataset, LabelledImages, Labels
from nas_attn.data.decode import ImageFile, decode_cached
from nas_attn.data.entry import DataRequest
from nas_attn.errors import DataError, unknown

TABLE = "labels.csv"
SPLIT = "split"

_BITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}


@dataclass(frozen=True)
class LabelTable:
    """The content of `labels.csv`: its files in the order of the rows, and the labels of each.

    Args:
        files: One per row; the `label` of each is the index of its row, its `part` is `train` without a split column.

    Shape: labels (N, K) of 0 and 1.
    """

    label_names: tuple[str, ...]
    files: tuple[ImageFile, ...]
    labels: Labels


def read_table(request: DataRequest) -> ImageDataset:
    """Return the images that `labels.csv` in the requested folder names, in the requested size, with all their labels.

    The first column is the path of a file below `root`. Every other column is a label of 0 or 1, except for an
    optional column `split` of train, val and test.

    Raises: DataError, with the line, if the table is laid out otherwise, or if a file is missing or named twice; and
        for files that are no images, as `read_folder` does.
    """
    assert request.image_size is not None, "the record of this source states a default size"
    table = read_labels(request.path)
    decoded, notes = decode_cached(
        request.path,
        table.files,
        request.image_size,
        channels=request.channels,
        strict=request.strict,
        progress=request.progress,
    )
    part_of = np.array([file.part for file in table.files])[decoded.kept]
    images = LabelledImages(decoded.pixels, table.labels[decoded.kept])
    parts = {part: images.take(np.flatnonzero(part_of == part)) for part in PARTS if part in set(part_of)}
    return ImageDataset(table.label_names, parts, notes=notes)


def read_labels(root: Path) -> LabelTable:
    """Read and check `root/labels.csv`; no image is opened."""
    path = root / TABLE
    (_, header), *rows = _rows(path)
    columns = _label_columns(path, header)
    split = header.index(SPLIT, 1) if SPLIT in header[1:] else None
    lines: dict[str, int] = {}
    files: list[ImageFile] = []
    labels = np.zeros((len(rows), len(columns)), np.int64)
    for number, (line, cells) in enumerate(rows):
        where = f"Line {line} of {path}"
        if len(cells) != len(header):
            raise DataError(f"{where} must have {len(header)} columns like the first line, but has {len(cells)}.")
        file = os.path.normpath(cells[0])
        if file in lines:
            raise DataError(f"{where} names '{cells[0]}' again, after line {lines[file]}: remove one of them.")
        lines[file] = line
        part = _part(cells[split], where) if split is not None else "train"
        files.append(_image_file(root, cells[0], part, number, where))
        labels[number] = [_bit(cells[column], header[column], where) for column in columns]
    if not any(file.part == "train" for file in files):
        raise DataError(f"{path} must name images of train, but has none among its {len(files)} rows.")
    return LabelTable(tuple(header[column] for column in columns), tuple(files), labels)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return number and cells of every line that is not empty, the cells without blanks around them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"{path} must be a table in UTF-8 with commas, but cannot be read: {reason}.") from None
    if len(rows) < 2:
        raise DataError(f"{path} must have a line of column names and a line per image, but has {len(rows)}.")
    return rows


def _label_columns(path: Path, header: Sequence[str]) -> list[int]:
    """Return the indices of the label columns: all except the first and `split`."""
    for number, name in enumerate(header[1:], 2):
        if not name or name in header[: number - 1]:
            raise DataError(f"Every column of {path} must have its own name, but column {number} has {name!r}.")
    columns = [number for number, name in enumerate(header) if number > 0 and name != SPLIT]
    if len(columns) < 2:
        raise DataError(
            f"{path} must have a column of files and two columns of labels or more, with commas between them, but its "
            f"first line is {','.join(header)!r}. If the folders are the classes, rename this file."
        )
    return columns


def _image_file(root: Path, file: str, part: str, number: int, where: str) -> ImageFile:
    """Return the file of a row. Raises: DataError if it is missing or outside the folder."""
    path = root / file
    inside = file and not os.path.isabs(file) and os.pardir not in Path(file).parts
    if not inside or not path.is_file():
        raise DataError(f"{where} must name a file below {root}, but there is no '{file}'.")
    status = path.stat()
    return ImageFile(path, part, number, status.st_size, status.st_mtime_ns)


def _part(word: str, where: str) -> str:
    if word.lower() not in PART_WORDS:
        raise DataError(unknown("split", word, PARTS, where))
    return PART_WORDS[word.lower()]


def _bit(word: str, label: str, where: str) -> int:
    if word not in _BITS:
        raise DataError(f"{where} must have 0 or 1 for label '{label}', but has '{word}'.")
    return _BITS[word]
