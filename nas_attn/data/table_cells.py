"""The cells of a table of images as text: from CSV, TSV and the like, from Parquet, and from Arrow files (Feather)."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_attn.errors import DataError

if TYPE_CHECKING:
    import pyarrow

TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
ARROW_SUFFIXES = (".parquet", ".pq", ".arrow", ".feather")

_DELIMITERS = ",\t;|"
_BOMS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_STATED = re.compile(r"sep=(.)\r?\n")
_N_LINES = 50


@dataclass(frozen=True)
class Table:
    """A table as text.

    Args:
        header: Names of the columns.
        rows: The cells of each row, without blanks around them.
        places: Where each row stands, such as "Line 3".
        is_named: Whether the file states the names of its columns; otherwise they are "column 1" and so on.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    places: tuple[str, ...]
    is_named: bool = True

    def column(self, number: int) -> list[str]:
        """Return the cells of a column."""
        return [row[number] for row in self.rows]

    def place(self, row: int) -> str:
        """Return where a row stands, for a message."""
        return f"{self.places[row]} of {self.path}"

    def without(self, dropped: Sequence[int]) -> Table:
        """Return the table without some of its columns."""
        kept = [number for number in range(len(self.header)) if number not in dropped]
        header = tuple(self.header[number] for number in kept)
        rows = tuple(tuple(row[number] for number in kept) for row in self.rows)
        return Table(self.path, header, rows, self.places, self.is_named)


def read_cells(path: Path, is_file: Callable[[str], bool]) -> Table:
    """Return the cells of a table.

    Args:
        is_file: Whether a cell names an image: a first line that names one is no header.
    Raises: DataError, in one sentence, if the file is missing, damaged, of another kind, or not rectangular.
    """
    if path.is_dir():
        raise DataError(f"A table of images must be a file, but {path} is a folder: write folder:{path}.")
    if not path.is_file():
        raise DataError(f"A table of images must exist, but there is none at {path.absolute()}: check the path.")
    suffix = path.suffix.lower()
    if suffix in ARROW_SUFFIXES:
        return _from_arrow(path)
    if suffix not in TEXT_SUFFIXES:
        known = ", ".join(TEXT_SUFFIXES + ARROW_SUFFIXES)
        raise DataError(f"A table of images must be a file of {known}, but is {path}: save it as CSV.")
    lines, rows = _text_rows(path)
    is_named = not any(is_file(cell) for cell in rows[0])
    header = tuple(rows[0]) if is_named else tuple(f"column {number}" for number in range(1, 1 + len(rows[0])))
    if is_named:
        lines, rows = lines[1:], rows[1:]
    for line, cells in zip(lines, rows, strict=True):
        if len(cells) != len(header):
            columns = "column" if len(header) == 1 else "columns"
            raise DataError(
                f"Line {line} of {path} must have {len(header)} {columns} like the first line, but has {len(cells)}: "
                "repair the line, or the first one, which names the columns."
            )
    if not rows:
        raise DataError(f"{path} must have a line of column names and a line per image, but has 1: add the images.")
    return Table(path, header, tuple(map(tuple, rows)), tuple(f"Line {line}" for line in lines), is_named)


def open_arrow(path: Path) -> Any:
    """Return a Parquet file, or the table of an Arrow file, which is mapped into memory.

    Raises: DataError if it is missing, damaged or of another kind.
    """
    import pyarrow
    import pyarrow.ipc
    import pyarrow.parquet

    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pyarrow.parquet.ParquetFile(path)
        source = pyarrow.memory_map(str(path))
        try:
            return pyarrow.ipc.open_file(source).read_all()
        except pyarrow.ArrowInvalid:  # the other form of the format, of which Hugging Face's files are
            source.seek(0)
            return pyarrow.ipc.open_stream(source).read_all()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"{path} must be a Parquet or Arrow file, but cannot be read ({reason}): write it again."
        ) from None


def _text_rows(path: Path) -> tuple[list[int], list[list[str]]]:
    """Return number and cells of every line that is not empty, the cells without blanks around them."""
    try:
        content = path.read_bytes()
        encoding = next((name for mark, name in _BOMS if content.startswith(mark)), "utf-8-sig")
        text = content.decode(encoding)
        stated = _STATED.match(text)  # a first line by which Excel states the separator
        text = text[stated.end() :] if stated else text
        between = stated[1] if stated else _delimiter(text, path)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=between, strict=True)
        found = [(reader.line_num + bool(stated), [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except (OSError, UnicodeError, csv.Error) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"{path} must be a table in UTF-8 with commas, semicolons or tabs, but cannot be read ({reason}): "
            "save it as UTF-8 text."
        ) from None
    if not found:
        raise DataError(f"{path} must have a line of column names and a line per image, but has 0: write them.")
    return [line for line, _ in found], [cells for _, cells in found]


def _delimiter(text: str, path: Path) -> str:
    """Return the character between the columns: that which gives all of the first lines the most columns."""
    lines = text.splitlines(keepends=True)[:_N_LINES]
    possible = _DELIMITERS + (" " if path.suffix.lower() == ".txt" else "")

    def n_columns(delimiter: str) -> tuple[bool, int]:
        try:
            rows = [cells for cells in csv.reader(lines, delimiter=delimiter) if any(cells)]
        except csv.Error:
            return False, 0
        widths = {len(cells) for cells in rows}
        return len(widths) == 1, len(rows[0]) if rows else 0

    return max((delimiter for delimiter in possible if n_columns(delimiter)[1] > 1), key=n_columns, default=",")


def _from_arrow(path: Path) -> Table:
    """Return the cells of a Parquet or Arrow file."""
    opened = open_arrow(path)
    table = opened.read() if path.suffix.lower() in (".parquet", ".pq") else opened
    if not table.num_rows:
        raise DataError(f"{path} must have a row per image, but has 0: write the images' rows.")
    columns = [_texts(path, name, table.column(number)) for number, name in enumerate(table.column_names)]
    places = tuple(f"Row {number}" for number in range(1, 1 + table.num_rows))
    return Table(path, tuple(table.column_names), tuple(zip(*columns, strict=True)), places)


def _texts(path: Path, name: str, column: pyarrow.ChunkedArray) -> list[str]:
    """Return the cells of a column as text; whole numbers have no decimal point, and nothing is empty."""
    import pyarrow.types as types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if types.is_struct(kind) or types.is_binary(kind) or types.is_large_binary(kind):
        raise DataError(
            f"Column '{name}' of {path} must name files, but holds the images themselves: write hf:{path.parent}."
        )
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        raise DataError(
            f"Column '{name}' of {path} must have one value per image, but holds lists: write a column of 0 and 1 for "
            "each label."
        )
    return [_text(value) for value in column.to_pylist()]


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
