"""Arrow and Parquet files of one table, of which rows are read when they are asked for."""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_attn.data.table_cells import open_arrow
from nas_attn.errors import DataError

if TYPE_CHECKING:
    import pyarrow

_PARQUET = (".parquet", ".pq")


class Shards:
    """The rows of one or several files with the same columns, in the order of the files.

    Args:
        paths: At least one; Arrow files are mapped into memory, Parquet files read by their groups of rows.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        names = [self._schema(path).names for path in self.paths]
        for path, found in zip(self.paths, names, strict=True):
            if found != names[0]:
                raise DataError(
                    f"{path} must have the columns of {self.paths[0].name}, {', '.join(names[0])}, but has "
                    f"{', '.join(found) or 'none'}."
                )

    @property
    def schema(self) -> pyarrow.Schema:
        """Names and types of the columns."""
        return self._schema(self.paths[0])

    @cached_property
    def features(self) -> Mapping[str, Any]:
        """What Hugging Face's `datasets` wrote about each column; empty for a file of another origin."""
        stated = (self.schema.metadata or {}).get(b"huggingface")
        try:
            found = json.loads(stated)["info"]["features"] if stated else {}
        except (ValueError, KeyError, TypeError):
            return {}
        return found if isinstance(found, dict) else {}

    @cached_property
    def n_rows(self) -> int:
        """Number of rows of all files."""
        return self._ends[-1]

    def column(self, name: str) -> list[Any]:
        """Return all values of a column."""
        return [value for path in self.paths for value in _column(path, name)]

    def value(self, name: str, row: int) -> Any:
        """Return one value of a column; of Parquet, with the rows around it."""
        number = bisect.bisect_right(self._ends, row)
        path, within = self.paths[number], row - (self._ends[number - 1] if number else 0)
        if path.suffix.lower() not in _PARQUET:
            return _arrow(path)[name][within].as_py()
        starts = _group_starts(path)
        group = bisect.bisect_right(starts, within) - 1
        return _group(path, group, name)[within - starts[group]].as_py()

    def paths_without_bytes(self, name: str) -> Iterator[tuple[int, str]]:
        """Yield row and path of the images whose bytes are missing, of a column of bytes and paths."""
        import pyarrow.compute

        first = 0
        for path in self.paths:
            for column, n_rows in _pictures(path, name):
                if column is not None:
                    missing = pyarrow.compute.struct_field(column, "bytes").is_null().to_pylist()
                    paths = pyarrow.compute.struct_field(column, "path").to_pylist() if any(missing) else []
                    yield from ((first + row, paths[row] or "") for row, gone in enumerate(missing) if gone)
                first += n_rows

    def status(self) -> tuple[int, int]:
        """Return bytes and latest time of change, in nanoseconds, of the files."""
        found = [path.stat() for path in self.paths]
        return sum(one.st_size for one in found), max(one.st_mtime_ns for one in found)

    @cached_property
    def _ends(self) -> list[int]:
        ends, end = [], 0
        for path in self.paths:
            is_parquet = path.suffix.lower() in _PARQUET
            end += open_arrow(path).metadata.num_rows if is_parquet else _arrow(path).num_rows
            ends.append(end)
        return ends

    @staticmethod
    def _schema(path: Path) -> pyarrow.Schema:
        found = open_arrow(path)
        return found.schema_arrow if path.suffix.lower() in _PARQUET else found.schema


@lru_cache(maxsize=64)
def _arrow(path: Path) -> pyarrow.Table:
    """Return a mapped table: no more of it is in memory than is used."""
    return open_arrow(path)


def _column(path: Path, name: str) -> list[Any]:
    if path.suffix.lower() in _PARQUET:
        found: list[Any] = open_arrow(path).read([name])[name].to_pylist()
        return found
    values: list[Any] = _arrow(path)[name].to_pylist()
    return values


@lru_cache(maxsize=64)
def _group_starts(path: Path) -> list[int]:
    """Return the first row of each group of rows of a Parquet file."""
    metadata = open_arrow(path).metadata
    starts = [0]
    for group in range(metadata.num_row_groups - 1):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return starts


@lru_cache(maxsize=8)
def _group(path: Path, group: int, name: str) -> pyarrow.ChunkedArray:
    return open_arrow(path).read_row_group(group, [name])[name]


def _pictures(path: Path, name: str) -> Iterator[tuple[pyarrow.ChunkedArray | None, int]]:
    """Yield a column of bytes and paths in groups of rows, with their number; None where no bytes are missing."""
    opened = open_arrow(path)
    if path.suffix.lower() not in _PARQUET:
        yield opened[name], opened.num_rows
        return
    for group in range(opened.num_row_groups):
        rows = opened.metadata.row_group(group)
        columns = (rows.column(number) for number in range(rows.num_columns))
        statistics = next(one.statistics for one in columns if one.path_in_schema == f"{name}.bytes")
        whole = statistics is not None and statistics.has_null_count and statistics.null_count == 0
        yield None if whole else opened.read_row_group(group, [name])[name], rows.num_rows
