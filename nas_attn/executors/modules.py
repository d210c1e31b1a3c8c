"""The user's own modules on their way to a worker: by their name, or by their content where it would find none."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

MOST_BYTES = 2**20
"""Largest source file that is sent."""


@dataclass(frozen=True)
class Source:
    """The source of a module.

    Args:
        file: Its path where it was written, for tracebacks.
        is_package: Whether it is the `__init__.py` of a package.
    """

    text: bytes
    file: str
    is_package: bool


def own_sources() -> dict[str, Source]:
    """Return the source of every imported module that is neither installed nor of Python nor of this package."""
    return {
        name: Source(file.read_bytes(), str(file), hasattr(module, "__path__"))
        for name, module, file in _own_modules()
        if file.stat().st_size <= MOST_BYTES
    }


def pickled(content: object) -> bytes:
    """Return an object for the workers, with the functions and classes of modules that they cannot import.

    Such a module is the script of a child process (`__mp_main__`), or one that was loaded from a file by its path.
    """
    from ray import cloudpickle

    known = cloudpickle.list_registry_pickle_by_value()
    own = [module for name, module, _ in _own_modules() if module.__name__ == name and name not in known]
    modules = [module for module in own if not _is_found(module.__name__)]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        found: bytes = cloudpickle.dumps(content)
        return found
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _own_modules() -> Iterator[tuple[str, ModuleType, Path]]:
    """Yield name, module and file of what is imported and neither installed nor of Python nor of this package."""
    installed = [Path(path) for path in {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix}]
    installed += [Path(path) for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    for name, module in list(sys.modules.items()):
        file = _file(module)
        if file is None or name == "__main__" or name.partition(".")[0] == __name__.partition(".")[0]:
            continue
        if not any(file.is_relative_to(folder) for folder in installed):
            yield name, module, file


def _is_found(name: str) -> bool:
    """Return whether a new process would find a module, judged by its package."""
    finders: list[Any] = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
    return any(finder.find_spec(name.partition(".")[0], None) is not None for finder in finders)


def _file(module: ModuleType) -> Path | None:
    """Return the source file of a module, or None if it has none."""
    name = getattr(module, "__file__", None)
    if not isinstance(name, str) or not name.endswith(".py"):
        return None
    return Path(name) if Path(name).is_file() else None


def install(sources: Mapping[str, Source]) -> None:
    """Let this process import modules from the sources of another machine, which go before other files of the name."""
    if sources:
        sys.meta_path[:] = [_Finder(sources), *(one for one in sys.meta_path if not isinstance(one, _Finder))]


class _Finder(MetaPathFinder):
    """Finds modules in the sources, but leaves those to Python that lie on this machine with the same content."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a module is found; None leaves it to the next finder."""
        source = self._sources.get(fullname)
        if source is None or _lies_here(PathFinder.find_spec(fullname, path), source):
            return None
        spec = spec_from_loader(fullname, _Loader(source), origin=source.file, is_package=source.is_package)
        if spec is not None:
            spec.has_location = True
        return spec


def _lies_here(spec: ModuleSpec | None, source: Source) -> bool:
    """Return whether a module that Python finds on this machine has the same source."""
    if spec is None or spec.origin is None:
        return False
    try:
        return Path(spec.origin).read_bytes() == source.text
    except OSError:
        return False


class _Loader(InspectLoader):
    """Loads a module from its source."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def get_source(self, fullname: str) -> str:
        """Return the source as text."""
        from importlib.util import decode_source

        return decode_source(self._source.text)

    def get_code(self, fullname: str) -> CodeType:
        """Return the compiled source, whose tracebacks name the file where it was written."""
        return self.source_to_code(self._source.text, self._source.file)

    def is_package(self, fullname: str) -> bool:
        """Return whether it is a package."""
        return self._source.is_package
