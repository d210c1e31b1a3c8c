"""Files that a table names: by a path below its folder, or by a name without folder or suffix."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path, PurePosixPath

from nas_attn.data.tree import composed, scan, shown
from nas_attn.errors import DataError


class NamedFiles:
    """Finds the files that the cells of a table name, below the table's folder.

    A cell is a path below the folder, which may begin with the folder's own name and may lack its suffix; or the name
    of a file anywhere below it, with or without suffix, if only one file has it. `n_by_name` counts the latter.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.n_by_name = 0

    def is_file(self, cell: str) -> bool:
        """Return whether a cell names a file, or several."""
        return bool(self._candidates(cell)[0])

    def find(self, cell: str, where: str) -> Path:
        """Return the file of a cell. Raises: DataError, which begins with `where`, if there is none, or several."""
        found, by_name = self._candidates(cell)
        if len(found) > 1:
            listed = " and ".join(shown(os.path.relpath(path, self.root)) for path in found[:2])
            raise DataError(
                f"{where} must name one file below {self.root}, but '{shown(cell)}' may be {listed}: write its path."
            )
        if not found:
            raise DataError(
                f"{where} must name a file below {self.root}, but there is no '{shown(cell)}': correct or remove it."
            )
        self.n_by_name += by_name
        return found[0]

    def unnamed(self, found: Collection[Path]) -> int:
        """Return how many images below the folder are not among those found."""
        real = {os.path.realpath(path) for path in found}
        return sum(os.path.realpath(path) not in real for _, path in self._images)

    def _candidates(self, cell: str) -> tuple[list[Path], bool]:
        """Return the files that a cell may name, and whether they were found by name."""
        written = cell.replace("\\", "/") if "\\" in cell and not os.path.isfile(self.root / cell) else cell
        path = Path(written)
        if path.is_absolute() and path.is_relative_to(self.root.absolute()):
            path = path.relative_to(self.root.absolute())
        if not written or path.is_absolute() or os.pardir in path.parts:
            return [], False
        for direct in (path, Path(*path.parts[1:]) if path.parts[:1] == (self.root.absolute().name,) else path):
            if direct.parts and os.path.isfile(self.root / direct):  # False for what is too long for a name, too
                return [self.root / direct], False
        key = composed(path.as_posix())
        for index in self._by_path:
            if key in index:
                return index[key], False
        if len(path.parts) == 1:
            for index in self._by_name:
                if key in index:
                    return index[key], True
        return [], False

    @cached_property
    def _images(self) -> list[tuple[PurePosixPath, Path]]:
        tree = scan(self.root)
        relative = ((found.path.relative_to(self.root), found.path) for found in tree.root.all_images())
        return [(PurePosixPath(composed(path.as_posix())), real) for path, real in relative]

    @cached_property
    def _by_path(self) -> list[dict[str, list[Path]]]:
        """Files by their path, and by their path without suffix."""
        return [self._index(str), self._index(lambda path: str(path.with_suffix("")))]

    @cached_property
    def _by_name(self) -> list[dict[str, list[Path]]]:
        """Files by their name, and by their name without suffix."""
        return [self._index(lambda path: path.name), self._index(lambda path: path.stem)]

    def _index(self, key_of: Callable[[PurePosixPath], str]) -> dict[str, list[Path]]:
        index: dict[str, list[Path]] = defaultdict(list)
        for path, real in self._images:
            index[key_of(path)].append(real)
        return dict(index)
