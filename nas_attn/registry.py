"""A table of records by name that installed packages and notebooks can extend; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from nas_attn.errors import Refused, SpaceError, in_one_line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


class Named(Protocol):
    """A record with a name."""

    @property
    def name(self) -> str:
        """Its key in the table."""


E = TypeVar("E", bound=Named)


class Catalogue(Mapping[str, E], Generic[E]):
    """Records by name: built-in ones, then registered ones, then those of installed packages.

    An installed package declares its records in an entry-point group: the entry point's name is that of the record, and
    its object is the record. It is imported on the first look-up of its name, so a broken plug-in affects only its own
    entry; built-in names never import a plug-in.

    Args:
        group: The entry-point group.
        noun: The noun for a record in messages.
        record: The class of the records, as exported by `nas_attn`.
        reserved: Names that are not allowed.
        error: The class of the errors that refuse a record.
    """

    def __init__(
        self,
        *entries: E,
        group: str,
        noun: str,
        record: type[E],
        reserved: tuple[str, ...] = (),
        error: type[Refused] = SpaceError,
    ) -> None:
        self._own = {entry.name: entry for entry in entries}
        assert len(self._own) == len(entries), f"names must be unique, but got {[entry.name for entry in entries]}"
        self._group, self._noun, self._record, self._reserved, self._error = group, noun, record, reserved, error
        self._registered: dict[str, E] = {}
        self._loaded: dict[str, E] = {}

    def __getitem__(self, name: str) -> E:
        """Return the record. Raises: KeyError if there is none, `error` if its package cannot be loaded."""
        for table in (self._own, self._registered, self._loaded):
            if name in table:
                return table[name]
        if name not in self._points:
            raise KeyError(name)
        self._loaded[name] = self._load(self._points[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._own, *self._registered, *self._points]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._registered or name in self._points

    @property
    def own(self) -> tuple[str, ...]:
        """The names of the built-in records."""
        return tuple(self._own)

    @property
    def registered(self) -> tuple[E, ...]:
        """The records that `register` added; another process can register them too."""
        return tuple(self._registered.values())

    def register(self, entry: E) -> None:
        """Add a record, or replace a registered one of the same name.

        Raises: SpaceError for what is no such record, and for a name that is taken or that cannot be a key in a space
        file.
        """
        if not isinstance(entry, self._record):
            raise self._error(
                f"What is registered as {self._a_noun} must be a nas_attn.{self._record.__name__}, but is "
                f"{type(entry).__name__}."
            )
        self._check_name(entry.name)
        if entry.name in self._own or entry.name in self._points:
            raise self._error(
                f"{self._a_noun.capitalize()}'s name must be free, but '{entry.name}' is one of "
                f"{self.origin(entry.name)}: call it 'my_{entry.name}'."
            )
        self._registered[entry.name] = entry

    def unregister(self, name: str) -> None:
        """Remove a registered record, if there is one of this name."""
        self._registered.pop(name, None)

    def loadable(self) -> tuple[E, ...]:
        """Return all records that can be loaded; imports the plug-ins."""
        broken = self.problems()
        return tuple(self[name] for name in self if name not in broken)

    def problems(self) -> dict[str, str]:
        """Return the plug-ins that cannot be loaded, with the reasons; imports all of them."""
        found: dict[str, str] = {}
        for name in self._points:
            try:
                self[name]
            except self._error as error:
                found[name] = str(error)
        return found | self._shadowed

    def origin(self, name: str) -> str:
        """Return the origin of the record of this name, in words."""
        if name in self._own:
            return "this package"
        return "this process" if name in self._registered else _package(self._points[name])

    @cached_property
    def _points(self) -> dict[str, EntryPoint]:
        """The installed entry points by name; built-in names, and the first package of a name, take precedence."""
        found: dict[str, EntryPoint] = {}
        for point in self._all_points:
            if point.name not in self._own:
                found.setdefault(point.name, point)
        return found

    @cached_property
    def _shadowed(self) -> dict[str, str]:
        """The entry points whose name is taken: `name (package)` -> the message."""
        found: dict[str, str] = {}
        for point in self._all_points:
            first = self._points.get(point.name)
            if first is not point:
                owner = "this package" if first is None else _package(first)
                found[f"{point.name} ({_package(point)})"] = (
                    f"{self._described(point)} must have a free name, but {owner} has it: call it 'my_{point.name}'."
                )
        return found

    @cached_property
    def _all_points(self) -> tuple[EntryPoint, ...]:
        from importlib.metadata import entry_points  # takes 20 ms, which a help text need not

        return tuple(sorted(entry_points(group=self._group), key=lambda point: (point.name, _package(point))))

    def _load(self, point: EntryPoint) -> E:
        """Import the object of an entry point. Raises: `error` with the package and the reason."""
        start = self._described(point)
        try:
            entry = point.load()
        except Exception as error:  # somebody else's code, which runs at import and may raise anything
            raise self._error(f"{start} cannot be loaded: {type(error).__name__}: {in_one_line(error)}.") from error
        if not isinstance(entry, self._record):
            raise self._error(f"{start} must be a nas_attn.{self._record.__name__}, but is {type(entry).__name__}.")
        if entry.name != point.name:
            raise self._error(
                f"{start} must have the name of its entry point, but the record's name is '{entry.name}'."
            )
        self._check_name(entry.name)
        return entry

    def _described(self, point: EntryPoint) -> str:
        return f"{self._noun.capitalize()} '{point.name}' of {_package(point)} ({point.value})"

    def _check_name(self, name: str) -> None:
        if not isinstance(name, str) or not name.isidentifier() or name != name.lower() or name in self._reserved:
            law = " and none of ".join(filter(None, ("a lower-case identifier", ", ".join(self._reserved))))
            raise self._error(f"{self._a_noun.capitalize()}'s name must be {law}, but got '{name}'.")

    @property
    def _a_noun(self) -> str:
        return f"{'an' if self._noun[0] in 'aeiou' else 'a'} {self._noun}"


def _package(point: EntryPoint) -> str:
    return f"the installed package '{point.dist.name}'" if point.dist is not None else "an installed package"
