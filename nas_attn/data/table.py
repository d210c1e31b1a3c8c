"""A table of images: one class name per image, or several labels of 0 and 1, checked row by row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nas_attn.data.arrays import PARTS, ImageDataset, Labels
from nas_attn.data.decode import ImageFile
from nas_attn.data.entry import DataRequest
from nas_attn.data.file_images import dataset_of_files
from nas_attn.data.layout import alike_notes, missing_notes
from nas_attn.data.named_files import NamedFiles
from nas_attn.data.parts import EXACT
from nas_attn.data.table_cells import ARROW_SUFFIXES, TEXT_SUFFIXES, Table, read_cells
from nas_attn.data.table_columns import BITS, Columns, find_columns, is_called_file, without_index
from nas_attn.data.tree import composed, is_writable
from nas_attn.errors import DataError, unknown

TABLES = tuple(f"labels{suffix}" for suffix in (*TEXT_SUFFIXES, *ARROW_SUFFIXES))
"""Names of a table in an image folder."""


@dataclass(frozen=True)
class LabelTable:
    """The content of a table: its files in the order of the rows, and the labels of each.

    Args:
        files: One per row; the `label` of each is the index of its row, its `part` is `train` without a split column.

    Shape: labels (N,) class numbers, or (N, K) of 0 and 1.
    """

    label_names: tuple[str, ...]
    files: tuple[ImageFile, ...]
    labels: Labels
    notes: tuple[str, ...] = ()


def read_table(request: DataRequest) -> ImageDataset:
    """Return the images that a table names, in the requested size, each with its class or with all its labels.

    A column names files below the table's folder. Every other column is a label of 0 or 1, or one column is the class;
    a column `split` of train, val and test is optional.

    Raises: DataError, with the line, if the table is laid out otherwise, or if a file is missing or named twice; and
        for files that are no images, as `read_folder` does.
    """
    table = read_labels(request.path)
    request = replace(request, path=request.path.parent)
    return dataset_of_files(request, table.files, table.label_names, table.labels, table.notes)


def table_in(folder: Path) -> Path | None:
    """Return the table of a folder; None if it has none. Raises: DataError if it has several."""
    found = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"{folder} must have one table, but has {found[0].name} and {found[1].name}: move one away.")
    return found[0] if found else None


def read_labels(path: Path) -> LabelTable:
    """Read and check a table; no image is opened."""
    named = NamedFiles(path.parent)
    table = without_index(read_cells(path, lambda cell: not is_called_file(cell) and named.is_file(cell)))
    columns = find_columns(table, named)
    if columns.several and not table.is_named:
        raise DataError(f"{path} must begin with a line of column names, which are the names of its labels: add it.")
    files = _files(table, columns, named)
    if not any(file.part == "train" for file in files):
        raise DataError(
            f"{path} must name images of train, but has none among its {len(files)} rows: write train for some."
        )
    notes = [columns.in_words(table)]
    if named.n_by_name:
        notes.append(f"{named.n_by_name:,} of {len(files):,} files were found by their name anywhere in {path.parent}.")
    unnamed = named.unnamed([file.path for file in files])
    if unnamed:
        notes.append(f"Images below {path.parent} that the table does not name are not read: {unnamed:,}.")
    if columns.several:
        labels, more = _several_labels(table, columns)
        names = tuple(table.header[column] for column in columns.labels)
        return LabelTable(names, files, labels, (*notes, *more))
    names, labels = _classes(table, columns, files)
    return LabelTable(names, files, labels, (*notes, *alike_notes(names), *missing_notes(names)))


def _files(table: Table, columns: Columns, named: NamedFiles) -> tuple[ImageFile, ...]:
    """Return the file of each row, in the part that the row states. Raises: DataError for a file named twice."""
    first: dict[Path, int] = {}
    files = []
    for number, row in enumerate(table.rows):
        where = table.place(number)
        path = named.find(row[columns.file], where)
        if path in first:
            earlier = table.places[first[path]].lower()
            raise DataError(f"{where} names '{row[columns.file]}' again, after {earlier}: remove one of them.")
        first[path] = number
        part = "train" if columns.split is None else _part(row[columns.split], where)
        status = path.stat()
        files.append(ImageFile(path, part, number, status.st_size, status.st_mtime_ns))
    return tuple(files)


def _several_labels(table: Table, columns: Columns) -> tuple[Labels, list[str]]:
    """Return the labels of 0 and 1, and a note if every image has exactly one."""
    labels = np.zeros((len(table.rows), len(columns.labels)), np.int64)
    for number, row in enumerate(table.rows):
        for place, column in enumerate(columns.labels):
            labels[number, place] = _bit(row[column], table.header[column], table.place(number))
    exclusive = (
        "Every image has exactly one of its labels: if they exclude each other, write one column 'label' with the name "
        "of the class."
    )
    return labels, [exclusive] if (labels.sum(1) == 1).all() else []


def _classes(table: Table, columns: Columns, files: Sequence[ImageFile]) -> tuple[tuple[str, ...], Labels]:
    """Return the class names and the class number of each row: whole numbers in their order, names in the alphabet's.

    Raises: DataError for an empty cell, several names in a cell, fractions, and a class that train does not have.
    """
    (column,) = columns.labels
    words = [_class_name(cell) for cell in table.column(column)]
    for number, word in enumerate(words):
        if not word or not is_writable(word):
            raise DataError(
                f"{table.place(number)} must name a class in '{table.header[column]}', but has {word!r}: "
                "name it, or remove the line."
            )
    _refuse_fractions(table, column, words)
    _refuse_joined(table, column, words)
    found = {word for word, file in zip(words, files, strict=True) if file.part == "train"}
    whole = all(word.removeprefix("-").isdecimal() for word in found)
    names = tuple(sorted(found, key=(lambda word: (int(word), word)) if whole else None))
    numbers = {name: number for number, name in enumerate(names)}
    for number, word in enumerate(words):
        if word not in numbers:
            raise DataError(unknown("class", word, names, f"{table.place(number)}, which is none of train"))
    return names, np.array([numbers[word] for word in words], np.int64)


def _class_name(cell: str) -> str:
    """Return a class name in NFC; a whole number that was written with a decimal point is one without."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", composed(cell))


def _refuse_fractions(table: Table, column: int, words: Sequence[str]) -> None:
    """Refuse a column of numbers with fractions: it is a quantity and no class."""
    if all(re.fullmatch(r"-?\d*\.?\d+(e-?\d+)?", word, re.IGNORECASE) for word in words):
        fraction = next((number for number, word in enumerate(words) if not word.removeprefix("-").isdecimal()), None)
        if fraction is not None:
            raise DataError(
                f"{table.place(fraction)} must name a class in '{table.header[column]}', but has the number "
                f"{words[fraction]}: a quantity cannot be trained, so write classes."
            )


def _refuse_joined(table: Table, column: int, words: Sequence[str]) -> None:
    """Refuse cells that name several classes, such as "cat|dog" where others are "cat" or "cat|cow"."""
    whole = set(words)
    joined = {word: pieces for word in whole if len(pieces := _pieces(word, "|;")) > 1}
    uses = Counter(piece for pieces in joined.values() for piece in pieces)
    for number, word in enumerate(words):
        listed = [_pieces(word, ","), word.split()]
        is_joined = any(piece in whole or uses[piece] > 1 for piece in joined.get(word, ())) or any(
            len(pieces) > 1 and whole.issuperset(pieces) for pieces in listed
        )
        if is_joined:
            raise DataError(
                f"{table.place(number)} must name one class in '{table.header[column]}', but '{word}' may be several: "
                "for several labels per image write a column of 0 and 1 for each."
            )


def _pieces(word: str, separators: str) -> list[str]:
    return [piece.strip() for piece in re.split(f"[{separators}]", word) if piece.strip()]


def _part(word: str, where: str) -> str:
    if word.lower() not in EXACT:
        raise DataError(unknown("split", word, PARTS, where))
    return EXACT[word.lower()]


def _bit(word: str, label: str, where: str) -> int:
    if word.lower() not in BITS:
        raise DataError(f"{where} must have 0 or 1 for label '{label}', but has '{word}': write 0 or 1.")
    return BITS[word.lower()]
