"""What the columns of a table of images mean: the file, the part, and one class or several labels per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas_attn.data.named_files import NamedFiles
from nas_attn.data.parts import EXACT, part_of
from nas_attn.data.table_cells import Table
from nas_attn.errors import DataError

BITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
"""Cells of a label, in lower case, and whether the image has it."""

SPLIT = "split"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FILE_NAMES = _words(
    "file filename filenames file_name filepath filepaths file_path path paths image images image_name image_path "
    "image_file image_id imageid img img_name img_path id name fname"
)
_CLASS_NAMES = _words(
    "label labels label_name class classes class_name classname category category_name target y species diagnosis "
    "class_id label_id class_index label_index"
)
_SPLIT_NAMES = frozenset({SPLIT, "subset", "set", "part", "partition", "phase", "usage", "dataset", "stage", "fold"})
_INDEX_NAMES = frozenset({"", "unnamed: 0", "index", "__index_level_0__"})
_N_ROWS = 20


@dataclass(frozen=True)
class Columns:
    """The meaning of a table's columns, by their numbers.

    Args:
        file: The files.
        split: The parts; None if the table has none.
        labels: One column of class names, or a column of 0 and 1 for each label.
        several: Whether an image may have several labels.
        unread: Columns without a meaning here.
    """

    file: int
    split: int | None
    labels: tuple[int, ...]
    several: bool
    unread: tuple[int, ...] = ()

    def in_words(self, table: Table) -> str:
        """Return one sentence on how the table is read."""
        name = [f"'{one}'" for one in table.header]
        split = f", its part in {name[self.split]}" if self.split is not None else ""
        if self.several:
            kind = f"several labels per image, a column of 0 and 1 for each of {len(self.labels)}"
        else:
            kind = f"one class per image, in column {name[self.labels[0]]}"
        unread = f"; not read: {', '.join(name[one] for one in self.unread)}" if self.unread else ""
        return f"{table.path.name} states {kind}, the file in {name[self.file]}{split}{unread}."


def is_called_file(name: str) -> bool:
    """Return whether a column has a name that is usual for files."""
    return _plain(name) in _FILE_NAMES


def is_called_class(name: str) -> bool:
    """Return whether a column has a name that is usual for classes."""
    return _plain(name) in _CLASS_NAMES


def without_index(table: Table) -> Table:
    """Return the table without a column that only numbers its rows, as pandas writes it."""
    numbered = [
        number
        for number, name in enumerate(table.header)
        if name.lower() in _INDEX_NAMES and table.column(number) == [str(row) for row in range(len(table.rows))]
    ]
    return table.without(numbered) if len(table.header) - len(numbered) > 1 else table


def find_columns(table: Table, files: NamedFiles) -> Columns:
    """Return what the columns mean.

    The file is the column whose cells name files; the part that called 'split', or one of nothing but part names; the
    rest is a column of 0 and 1 per label, or one column of class names, or the one that is called like a class.

    Raises: DataError that asks, if the columns may mean several things.
    """
    _refuse_names(table)
    file = _file_column(table, files)
    rest = [number for number in range(len(table.header)) if number != file]
    split = _split_column(table, rest)
    rest = [number for number in rest if number != split]
    if not rest:
        raise DataError(
            f"{table.path} must have a column of files and one of classes, with commas between them, but its first "
            f"line is {','.join(table.header)!r}. If the folders are the classes, rename this file."
        )
    called = [number for number in rest if is_called_class(table.header[number])]
    if len(rest) > 1 and all(_is_mostly_bits(table.column(number)) for number in rest):
        if called:
            names = " or ".join(f"'{table.header[number]}'" for number in called)
            raise DataError(
                f"Is {names} in {table.path} the class, or is each column of 0 and 1 a label? Remove the other "
                "columns, or give it another name."
            )
        return Columns(file, split, tuple(rest), several=True)
    chosen = rest[0] if len(rest) == 1 else _class_column(table, called, rest)
    unread = tuple(one for one in rest if one != chosen)
    for number in unread:
        if part_of(table.header[number]):
            raise DataError(
                f"Does '{table.header[number]}' of {table.path} state the parts? Write a column 'split' of train, val "
                "and test, or remove it."
            )
    return Columns(file, split, (chosen,), several=False, unread=unread)


def _refuse_names(table: Table) -> None:
    for number, name in enumerate(table.header, 1):
        if not name or name in table.header[: number - 1]:
            raise DataError(
                f"Every column of {table.path} must have its own name, but column {number} has {name!r}: rename it."
            )


def _file_column(table: Table, files: NamedFiles) -> int:
    """Return the column whose cells name files; the first one if none does, whose first cell is then refused."""
    numbers = range(len(table.header))

    def names_files(number: int) -> bool:
        cells = [cell for cell in table.column(number)[:_N_ROWS] if cell]
        return 2 * sum(map(files.is_file, cells)) > len(cells)

    found = [number for number in numbers if names_files(number)]
    if len(found) > 1:  # a label such as "1" may also be the name of a file
        found = [number for number in found if len(set(table.column(number))) == len(table.rows)] or found
    called = [number for number in found or numbers if is_called_file(table.header[number])]
    if len(found) > 1 and len(called) != 1:
        names = " or ".join(f"'{table.header[number]}'" for number in found)
        raise DataError(f"Does {names} of {table.path} name the images? Remove the other column.")
    return (called if len(called) == 1 else found or [0])[0]


def _split_column(table: Table, rest: Sequence[int]) -> int | None:
    """Return the column of parts; None if there is none."""
    stated = [number for number in rest if _plain(table.header[number]) == SPLIT]
    words = [number for number in rest if all(cell.lower() in EXACT for cell in table.column(number))]
    usual = [number for number in words if _plain(table.header[number]) in _SPLIT_NAMES]
    found = stated or usual or (words if len(rest) > 1 else [])
    if len(found) > 1:
        names = " or ".join(f"'{table.header[number]}'" for number in found)
        raise DataError(f"Does {names} of {table.path} state the parts? Remove the other column.")
    return found[0] if found else None


def _class_column(table: Table, called: Sequence[int], rest: Sequence[int]) -> int:
    """Return the column of classes among several; of a number and a name of the class, the name."""
    if len(called) > 1:
        pairs = {tuple(row[number] for number in called) for row in table.rows}
        if all(len({pair[place] for pair in pairs}) == len(pairs) for place in range(len(called))):
            called = [one for one in called if not all(cell.isdecimal() for cell in table.column(one))] or called[:1]
    if len(called) != 1:
        names = ", ".join(f"'{table.header[number]}'" for number in (called or rest))
        raise DataError(
            f"Which column of {table.path} is the class, of {names}? Call it 'label' and no other one so; or, for "
            "several labels per image, keep a column of 0 and 1 for each."
        )
    return called[0]


def _is_mostly_bits(cells: Sequence[str]) -> bool:
    return 2 * sum(cell.lower() in BITS for cell in cells) > len(cells)


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")
