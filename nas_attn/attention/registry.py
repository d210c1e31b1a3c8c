"""A table of attention modules that installed packages and notebooks can add to; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from nas_attn.attention.entry import Entry
from nas_attn.errors import SpaceError

GROUP = "nas_attn.attentions"
_RESERVED = ("none", "name", "wiring", "start")


class Catalogue(Mapping[str, Entry]):
    """The attention modules by name: our own, then registered ones, then those of installed packages.

    An installed package names its entries in the entry-point group `nas_attn.attentions`: the point's name is the
    attention's, its object an `Entry`. It is imported when its name is asked for, so that one broken package takes
    nothing but its own attention away.
    """

    def __init__(self, *entries: Entry) -> None:
        self._own = {entry.name: entry for entry in entries}
        assert len(self._own) == len(entries), f"names must be unique, but got {[entry.name for entry in entries]}"
        self._registered: dict[str, Entry] = {}
        self._loaded: dict[str, Entry] = {}

    def __getitem__(self, name: str) -> Entry:
        """Return the entry. Raises: KeyError if there is none, SpaceError if its package cannot give it."""
        for table in (self._own, self._registered, self._loaded):
            if name in table:
                return table[name]
        if name not in self._points:
            raise KeyError(name)
        self._loaded[name] = _load(self._points[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._own, *self._registered, *self._points]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._registered or name in self._points

    @property
    def own(self) -> tuple[str, ...]:
        """The names that come with this package."""
        return tuple(self._own)

    @property
    def registered(self) -> tuple[Entry, ...]:
        """The entries that `register` added, for another process."""
        return tuple(self._registered.values())

    def register(self, entry: Entry) -> None:
        """Add an entry, or put it in the place of one that was registered before by the same name.

        Raises: SpaceError for a name that is taken, or that cannot be a key in a space file.
        """
        _check_name(entry.name)
        taken = "this package" if entry.name in self._own else self._origin(entry.name)
        if taken:
            raise SpaceError(
                f"An attention's name must be free, but '{entry.name}' is one of {taken}: call it 'my_{entry.name}'."
            )
        self._registered[entry.name] = entry

    def unregister(self, name: str) -> None:
        """Take a registered entry out again; nothing happens if there is none."""
        self._registered.pop(name, None)

    def loadable(self) -> tuple[Entry, ...]:
        """Return every entry that can be had; loads the installed ones."""
        broken = self.problems()
        return tuple(self[name] for name in self if name not in broken)

    def problems(self) -> dict[str, str]:
        """Return the installed attentions that cannot be had, each with the reason; loads all of them."""
        found: dict[str, str] = {}
        for name in self._points:
            try:
                self[name]
            except SpaceError as error:
                found[name] = str(error)
        return found | self._shadowed

    def _origin(self, name: str) -> str:
        point = self._points.get(name)
        return "" if point is None else _package(point)

    @cached_property
    def _points(self) -> dict[str, EntryPoint]:
        """The installed entry points, without those whose name is taken; the first package of a name has it."""
        found: dict[str, EntryPoint] = {}
        for point in self._all_points:
            if point.name not in self._own:
                found.setdefault(point.name, point)
        return found

    @cached_property
    def _shadowed(self) -> dict[str, str]:
        """The entry points whose name is taken: `name (package)` -> the sentence."""
        found: dict[str, str] = {}
        for point in self._all_points:
            owner = "this package" if point.name in self._own else self._origin(point.name)
            if self._points.get(point.name) is not point:
                found[f"{point.name} ({_package(point)})"] = (
                    f"Attention '{point.name}' of {_package(point)} ({point.value}) must bear a name that is free, but "
                    f"{owner} has it: call it 'my_{point.name}'."
                )
        return found

    @cached_property
    def _all_points(self) -> tuple[EntryPoint, ...]:
        return tuple(sorted(entry_points(group=GROUP), key=lambda point: (point.name, _package(point))))


def load_class(cls: str | type[Any]) -> type[Any]:
    """Return a class, imported if it is given as `module:name`. Raises: SpaceError if it is not to be had."""
    if isinstance(cls, type):
        return cls
    module, _, name = cls.partition(":")
    try:
        loaded = getattr(import_module(module), name)
    except Exception as error:  # somebody else's code, which runs at import and may raise anything
        raise SpaceError(f"The class {cls} of an attention cannot be loaded: {_one_line(error)}.") from error
    if not isinstance(loaded, type):
        raise SpaceError(f"The class {cls} of an attention must be a class, but is {loaded!r}.")
    return loaded


def _load(point: EntryPoint) -> Entry:
    """Import what an entry point names. Raises: SpaceError that names the package and what is wrong with it."""
    start = f"Attention '{point.name}' of {_package(point)} ({point.value})"
    try:
        entry = point.load()
    except Exception as error:  # somebody else's code, which runs at import and may raise anything
        raise SpaceError(f"{start} cannot be loaded: {_one_line(error)}.") from error
    if not isinstance(entry, Entry):
        raise SpaceError(f"{start} must be a nas_attn.Entry, but is {type(entry).__name__}.")
    if entry.name != point.name:
        raise SpaceError(f"{start} must bear one name, but its entry is called '{entry.name}'.")
    _check_name(entry.name)
    return entry


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(".")


def _check_name(name: str) -> None:
    if not name.isidentifier() or name != name.lower() or name in _RESERVED:
        raise SpaceError(
            f"An attention's name must be a lower-case identifier and none of {', '.join(_RESERVED)}, but got '{name}'."
        )


def _package(point: EntryPoint) -> str:
    return f"the installed package '{point.dist.name}'" if point.dist is not None else "an installed package"
