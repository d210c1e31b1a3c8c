"""What a user's function or object is, by content: its code, defaults, closure, arguments, state and globals.

Two processes that make the same function find the same content: no address, order of a set or place in a file enters.
"""

from __future__ import annotations

import argparse
import enum
import functools
import hashlib
import pathlib
import re
import sys
import sysconfig
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

from nas_attn.user_code.source_code import Code, closure_of, code_of, defaults_of, names_in_code, same_code

MOST_OBJECTS = 200_000
"""Number of objects that are read at most; what holds more is named as not read."""

_MOST_SHOWN, _MOST_ITEMS, _DEEPEST = 60, 50, 3
_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = tuple(
    Path(path).resolve() for path in {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")} if path
)
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))
_BY_TEXT = (pathlib.PurePath, range, slice)
_HOLDERS = (dict, list, tuple, set, frozenset, deque, bytearray, argparse.Namespace, SimpleNamespace)
_SECRET = re.compile("key|token|secret|passw|credential", re.IGNORECASE)
_HASHED = "sha256:"


@dataclass(frozen=True)
class Content:
    """What a function or an object is.

    Args:
        parts: Each value that it depends on by name: the value itself if it is short and plain, otherwise its digest.
        code: The digests of each function that it consists of, by name.
        unread: What could not be read, each with its name and type.
        state: Names of parts that changed while it was used; they are not compared.
    """

    parts: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, Code] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    state: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the content in plain JSON."""
        code = {name: dict(found) for name, found in self.code.items()}
        return {"parts": dict(self.parts), "code": code, "unread": list(self.unread), "state": list(self.state)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Content:
        """Read the output of `to_dict`. Raises: KeyError or TypeError for anything else."""
        return cls(dict(record["parts"]), dict(record["code"]), tuple(record["unread"]), tuple(record["state"]))

    def changes(self, now: Content) -> list[str]:
        """Return how another content differs from this one, each difference in a few words."""
        aside = {*self.state, *now.state}
        found = [
            f"the body of {name} was changed"
            for name in self.code.keys() & now.code.keys()
            if same_code(self.code[name], now.code[name]) is False
        ]
        found += [f"{name} is no longer used" for name in self.code.keys() - now.code.keys()]
        found += [f"{name} is new" for name in now.code.keys() - self.code.keys()]
        for name in sorted((self.parts.keys() | now.parts.keys()) - aside):
            before, after = self.parts.get(name), now.parts.get(name)
            if before != after:
                found.append(_change(name, before, after))
        return sorted(found, key=lambda words: (not words.startswith("the body"), words))

    def unknown(self, now: Content) -> list[str]:
        """Return what cannot be compared with another content, by name."""
        code = [
            f"the body of {name}"
            for name in sorted(self.code.keys() & now.code.keys())
            if same_code(self.code[name], now.code[name]) is None
        ]
        return [*code, *dict.fromkeys((*self.unread, *now.unread))]

    def used(self, after: Content) -> Content:
        """Return this content with what differs after use as state."""
        names = [name for name in self.parts if self.parts[name] != after.parts.get(name)]
        names += [name for name in after.parts if name not in self.parts]
        return Content(self.parts, self.code, self.unread, tuple(dict.fromkeys([*self.state, *names])))


def content_of(source: Any) -> Content:
    """Return what a function, a partial, a bound method, an object that can be called, or any value is."""
    walk = _Walk()
    walk.root(source)
    return Content(walk.parts, walk.code, tuple(walk.unread))


def content_of_classes(classes: Iterable[type]) -> Content:
    """Return the code of classes, as far as they are the user's own, with all that it uses."""
    walk = _Walk()
    for cls in classes:
        walk.cls(cls)
    return Content(walk.parts, walk.code, tuple(walk.unread))


class _Walk:
    """Reads an object and all that it consists of, each once."""

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        self.code: dict[str, Code] = {}
        self.unread: list[str] = []
        self._n_objects = 0
        self._seen: dict[int, str] = {}
        self._names: Counter[str] = Counter()
        self._kept: list[Any] = []  # so that no id is used twice

    def root(self, source: Any) -> None:
        """Read the object itself; its parts get names of their own."""
        if isinstance(source, functools.partial):
            self.root(source.func)
            for index, value in enumerate(source.args):
                self.add(f"argument {index + 1}", value)
            for name, value in source.keywords.items():
                self.add(f"argument {name!r}", value)
        elif isinstance(source, MethodType):
            self.root(source.__func__)
            self.state(source.__self__)
        elif isinstance(source, FunctionType):
            self.read(source, self._named(source, source.__qualname__), "")
        elif isinstance(getattr(source, "__wrapped__", None), FunctionType):  # such as of functools.lru_cache
            self.root(source.__wrapped__)
        elif isinstance(source, type):
            self.cls(source)
        elif isinstance(source, BuiltinFunctionType):
            self.parts["function"] = _path(source)
        else:
            self.state(source)

    def function(self, function: FunctionType) -> str:
        """Read a function; return its name among those that were read."""
        if id(function) in self._seen:
            return self._seen[id(function)]
        name = self._named(function, function.__qualname__)
        self.read(function, name, f" of {name}")
        return name

    def read(self, function: FunctionType, name: str, of: str) -> None:
        """Read a function's closure and, of the user's own, its code, defaults and globals.

        Args:
            of: What follows the names of its parts; empty for the function that is looked at, which counts as own.
        """
        if self._is_own(function) or not of:
            self.code[name] = code_of(function)
            for label, value in defaults_of(function):
                self.add(f"default {label!r}{of}", value)
            self._globals(function, of)
        for label, value in closure_of(function):
            self.add(f"closure {label!r}{of}", value)

    def cls(self, cls: type) -> str:
        """Read a class of the user's own with its bases; return its name."""
        if id(cls) in self._seen or not self._is_own(cls):
            return _path(cls)
        name = self._named(cls, cls.__qualname__)
        for base in cls.__bases__:
            self.cls(base)
        for label, value in sorted(vars(cls).items()):
            for part in _functions_of(value):
                self.function(part)
            if not label.startswith("__") and isinstance(value, (*_PLAIN, *_HOLDERS)):
                self.add(f"{name}.{label}", value)
        return name

    def state(self, source: Any) -> None:
        """Read the class and the attributes of an object."""
        self._named(source, type(source).__qualname__)
        self.cls(type(source))
        state = self._reduced(source, f"the {type(source).__name__}")
        if state is not None:
            attributes = state[2] if len(state) > 2 and isinstance(state[2], dict) else None
            rest = state if attributes is None else (*state[:2], *state[3:])
            for label, value in (attributes or {}).items():
                self.add(f"attribute {label!r}", value)
            self.parts["object"] = self._digest(rest, "the object")

    def add(self, label: str, value: Any, depth: int = 0) -> None:
        """Read a value under a name; the items of a small mapping get names of their own."""
        is_small = isinstance(value, dict) and 0 < len(value) <= _MOST_ITEMS and depth < _DEEPEST
        if is_small and all(isinstance(key, str) for key in value):
            for key, item in value.items():
                self.add(f"{label}[{key!r}]", item, depth + 1)
            return
        shown = _shown(label, value)
        self.parts[label] = _HASHED + self._digest(value, label)[:32] if shown is None else shown

    def _globals(self, function: FunctionType, of: str) -> None:
        """Read the globals that a function names: plain values, and what is the user's own."""
        names = names_in_code(function.__code__)
        for label in names:
            if label not in function.__globals__:
                continue
            value = function.__globals__[label]
            if isinstance(value, ModuleType):
                inside = vars(value) if self._is_own_module(value.__name__) else {}
                for inner in names:
                    if inner in inside and not isinstance(inside[inner], ModuleType):
                        self._global(f"global '{label}.{inner}'{of}", inside[inner])
            else:
                self._global(f"global {label!r}{of}", value)

    def _global(self, label: str, value: Any) -> None:
        if isinstance(value, FunctionType):
            self.parts[label] = self.function(value)
        elif isinstance(value, type):
            self.parts[label] = self.cls(value)
        elif _is_data(value) or self._is_own(type(value)):
            self.add(label, value)
        else:
            self.parts[label] = f"a {_path(type(value))}"

    def _named(self, found: Any, name: str) -> str:
        self._names[name] += 1
        self._seen[id(found)] = name if self._names[name] == 1 else f"{name} ({self._names[name]})"
        self._kept.append(found)
        return self._seen[id(found)]

    def _is_own(self, found: Any) -> bool:
        return self._is_own_module(str(getattr(found, "__module__", None)))

    def _is_own_module(self, name: str) -> bool:
        """Return whether a module is the user's own: not installed."""
        if name == "__main__":
            return True
        file = getattr(sys.modules.get(name), "__file__", None)
        if not isinstance(file, str):
            return False
        return not any(Path(file).resolve().is_relative_to(place) for place in (_PACKAGE, *_INSTALLED))

    def _digest(self, value: Any, where: str) -> str:
        """Return the digest of a value; what cannot be read is named in `unread`."""
        return hashlib.sha256(self._words(value, where).encode("utf-8", "surrogatepass")).hexdigest()

    def _words(self, value: Any, where: str) -> str:
        """Return a value as text without any address: plain values, and digests of what is inside the others."""
        if isinstance(value, enum.Enum):
            return f"{_path(type(value))}.{value.name}"
        if type(value) in _PLAIN or isinstance(value, _BY_TEXT):
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, FunctionType):
            return f"function {self.function(value)}"
        if isinstance(value, type):
            return f"class {self.cls(value)}"
        if isinstance(value, BuiltinFunctionType | ModuleType):
            return _path(value)
        if id(value) in self._seen:
            return f"again {self._seen[id(value)]}"
        self._n_objects += 1
        if self._n_objects > MOST_OBJECTS:
            return self._refused(where, "with very many objects")
        if type(value) is not tuple:  # equal ones may be one object
            self._seen[id(value)] = f"object {len(self._kept)}"
            self._kept.append(value)
        return self._inside(value, where)

    def _inside(self, value: Any, where: str) -> str:
        """Return what a value holds as text."""
        if isinstance(value, dict):
            items = [f"{self._digest(key, where)} {self._digest(item, where)}" for key, item in value.items()]
            return f"{_path(type(value))} {sorted(items)}"
        if type(value) in (list, tuple, deque):
            return f"{type(value).__name__} {[self._digest(item, where) for item in value]}"
        if isinstance(value, set | frozenset):
            return f"{type(value).__name__} {sorted(self._digest(item, where) for item in value)}"
        try:
            array = _array_of(value)
        except Exception:  # a tensor without memory of its own, or of a kind that no array has
            return self._refused(where, f"a {type(value).__name__}")
        if array is not None:
            return array
        self.cls(type(value))
        state = self._reduced(value, where)
        return "" if state is None else f"{_path(type(value))} {[self._digest(part, where) for part in state]}"

    def _reduced(self, value: Any, where: str) -> tuple[Any, ...] | None:
        """Return what pickle takes of an object, without its class if that is plain; None if there is nothing."""
        try:
            found = value.__reduce_ex__(4)
        except Exception:  # `__reduce__` and `__getstate__` are code of the user, and may raise anything
            found = None
        if found is None and isinstance(getattr(value, "__dict__", None), dict):
            return (type(value), (), vars(value))
        if found is None:
            self._refused(where, f"a {type(value).__name__}")
            return None
        if isinstance(found, str):
            return (found,)
        return tuple(list(part) if index > 2 and part is not None else part for index, part in enumerate(found))

    def _refused(self, where: str, what: str) -> str:
        sentence = f"{where} ({what})"
        if sentence not in self.unread:
            self.unread.append(sentence)
        return what


def _array_of(value: Any) -> str | None:
    """Return the content of a tensor or an array as text; None for anything else."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        shape = f"tensor {value.dtype} {tuple(value.shape)} {value.requires_grad}"
        if value.device.type == "meta":
            return shape
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return f"{shape} {hashlib.sha256(flat.numpy()).hexdigest()}"
    if torch is not None and isinstance(value, torch.dtype | torch.device | torch.memory_format | torch.layout):
        return str(value)
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic) and not value.dtype.hasobject:
        content = numpy.ascontiguousarray(value).tobytes()
        return f"array {value.dtype.str} {value.shape} {hashlib.sha256(content).hexdigest()}"
    return None


def _is_data(value: Any) -> bool:
    """Return whether a global is a value that a training depends on, and no tool that it uses."""
    return isinstance(value, (*_PLAIN, *_HOLDERS, *_BY_TEXT, functools.partial)) or _array_of(value) is not None


def _shown(label: str, value: Any) -> str | None:
    """Return a short plain value as text; None for another one, and for one that may be a secret."""
    items = value if type(value) in (list, tuple) else [value]
    if len(items) > _MOST_ITEMS or any(type(item) not in _PLAIN for item in items) or _SECRET.search(label):
        return None
    shown = repr(value)
    return shown if len(shown) <= _MOST_SHOWN else None


def _change(name: str, before: str | None, after: str | None) -> str:
    if before is None or after is None:
        return f"{name} is {'new' if before is None else 'no longer there'}"
    if before.startswith(_HASHED) and after.startswith(_HASHED):
        return f"{name} has another content"
    before, after = ("another value" if text.startswith(_HASHED) else text for text in (before, after))
    return f"{name} was {before}, now {after}"


def _functions_of(value: Any) -> list[FunctionType]:
    """Return the functions of an attribute of a class: a method, a property, a class or static method."""
    found = [value, getattr(value, "__func__", None), getattr(value, "__wrapped__", None)]
    if isinstance(value, property):
        found += [value.fget, value.fset]
    return [one for one in found if isinstance(one, FunctionType)]


def _path(found: Any) -> str:
    """Return the path of a function, class or module."""
    if isinstance(found, ModuleType):
        return f"module {found.__name__}"
    return f"{getattr(found, '__module__', None) or 'builtins'}:{getattr(found, '__qualname__', type(found).__name__)}"
