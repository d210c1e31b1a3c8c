"""Copies a network so that the copy and the original share no tensor and no module.

`copy.deepcopy` does not copy functions, so a hook that was written as a lambda goes on using the original network, and
it refuses tensors that were computed, such as the weight of `weight_norm`. Here functions get the copies of what they
hold, computed tensors are renewed, and the result is checked: what is still shared is an error.
"""

from __future__ import annotations

import copy
import dis
import functools
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import BuiltinMethodType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nas_attn.errors import SpaceError, first_line

_LIBRARIES = ("torch", "torchvision", "timm", "builtins")
_CONTAINERS = (list, tuple, set, frozenset, deque)
_OF_PARAMETERS = ("_backward_hooks", "_post_accumulate_grad_hooks")


@dataclass
class Reached:
    """All that can be reached from a network: each object by its identity, with a path of attributes that leads to it.

    Args:
        functions: Those that hold more than numbers, words and functions.
        storages: Memory of all tensors.
    """

    modules: dict[int, str] = field(default_factory=dict)
    tensors: dict[int, tuple[Tensor, str]] = field(default_factory=dict)
    functions: dict[int, FunctionType] = field(default_factory=dict)
    storages: dict[int, str] = field(default_factory=dict)

    def visit(self, root: object, where: str = "") -> Reached:
        """Follow attributes, containers, closures, methods and weak references, from one object on."""
        seen: set[int] = set()
        kept: list[object] = []  # so that no identity is used twice
        waiting = [(root, where)]
        while waiting:
            value, path = waiting.pop()
            if id(value) in seen or _is_plain(value):
                continue
            seen.add(id(value))
            kept.append(value)
            self._record(value, path)
            with suppress(Exception):  # a mapping of the user's, or a dead reference, may raise anything
                waiting += list(_parts(value, path))
        return self

    def _record(self, value: object, path: str) -> None:
        if isinstance(value, nn.Module):
            self.modules[id(value)] = path
        elif isinstance(value, Tensor):
            self.tensors[id(value)] = value, path
            if not value.is_meta and _address(value):
                self.storages[_address(value)] = path
        elif isinstance(value, FunctionType) and _holds_something(value):
            self.functions[id(value)] = value


def independent_copy(net: nn.Module) -> nn.Module:
    """Return a deep copy that shares no tensor and no module with the network.

    Raises: SpaceError if a part cannot be copied, or the copy would still use a part of the original.
    """
    reached = Reached().visit(net)
    memo: dict[int, Any] = {
        key: tensor.detach().clone() for key, (tensor, _) in reached.tensors.items() if not tensor.is_leaf
    }
    made = {key: _empty_function(function) for key, function in reached.functions.items()}
    memo.update(made)
    try:
        copied = copy.deepcopy(net, memo)
        _copy_hooks_of_parameters(net, copied, memo)
        for key, function in reached.functions.items():
            _fill(made[key], function, memo)
    except Exception as error:  # the network is the user's: copying it may raise anything
        raise SpaceError(
            f"The network {type(net).__name__} cannot be copied ({first_line(error)}): leave out what cannot be "
            "copied, or pass a function that makes the network."
        ) from error
    _refuse_shared(reached, copied)
    return copied


def refuse_outside(net: nn.Module) -> None:
    """Refuse a class whose methods use weights from outside: all its networks would share them.

    Raises: SpaceError that names the method and what it uses.
    """
    for kind in dict.fromkeys(type(module) for module in net.modules()):
        for base in kind.__mro__:
            if base.__module__.partition(".")[0] in _LIBRARIES:
                continue
            for function in (value for value in vars(base).values() if isinstance(value, FunctionType)):
                used = next((value for value in _held(function) if _has_weights(value)), None)
                if used is not None:
                    raise SpaceError(
                        f"'{base.__name__}.{function.__name__}' uses a {type(used).__name__} from outside the network, "
                        "which all copies would share: make it a part of the network."
                    )


def _has_weights(value: object) -> bool:
    return isinstance(value, nn.Parameter) or (
        isinstance(value, nn.Module) and type(value) not in weakref.ProxyTypes and any(True for _ in value.parameters())
    )


def _refuse_shared(original: Reached, copied: nn.Module) -> None:
    """Raises: SpaceError with the attribute of the copy that leads to a part of the original."""
    found = Reached().visit(copied)
    shared = [path for key, path in found.modules.items() if key in original.modules]
    shared += [path for address, path in found.storages.items() if address in original.storages]
    if shared:
        raise SpaceError(
            f"'{min(shared, key=len)}' of the network refers to a part of the network in a way that a copy does not "
            "follow, so a copy would still use the original: make it a method, or pass a function that makes the "
            "network."
        )


def _empty_function(function: FunctionType) -> FunctionType:
    """Return the function without what it holds."""
    cells = tuple(CellType() for _ in function.__closure__ or ())
    made = FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
    for name in ("__qualname__", "__module__", "__doc__", "__annotations__"):
        setattr(made, name, getattr(function, name))
    return made


def _fill(made: FunctionType, function: FunctionType, memo: dict[int, Any]) -> None:
    """Put copies of what a function holds into its copy."""
    for cell, original in zip(made.__closure__ or (), function.__closure__ or (), strict=True):
        if not _is_empty(original):
            cell.cell_contents = _copied(original.cell_contents, memo)
    made.__defaults__ = _copied(function.__defaults__, memo)
    made.__kwdefaults__ = _copied(function.__kwdefaults__, memo)
    vars(made).update(_copied(vars(function), memo))


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """Return a copy of what a function holds; what cannot be copied, such as an open file, is shared."""
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # a copy may raise anything; what is of the network is found afterwards
        return value


def _copy_hooks_of_parameters(net: nn.Module, copied: nn.Module, memo: dict[int, Any]) -> None:
    """Register the hooks of parameters on the copies, which torch leaves out."""
    for one, other in zip(net.parameters(), copied.parameters(), strict=True):
        registers: tuple[Any, ...] = (other.register_hook, other.register_post_accumulate_grad_hook)
        for name, register in zip(_OF_PARAMETERS, registers, strict=True):
            for hook in (getattr(one, name, None) or {}).values():
                register(copy.deepcopy(hook, memo))


def _is_plain(value: object) -> bool:
    kinds = type | str | bytes | int | float | complex | torch.dtype | torch.Size | ModuleType
    return value is None or isinstance(value, kinds)


def _holds_something(function: FunctionType, above: tuple[FunctionType, ...] = ()) -> bool:
    """Return whether a function holds more than plain values, and functions that hold no more."""
    held = [cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell)]
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *vars(function).values()]
    above = (*above, function)
    return any(
        _holds_something(value, above) if isinstance(value, FunctionType) else not _is_plain(value)
        for value in held
        if not any(value is other for other in above)
    )


def _parts(value: object, path: str) -> Iterator[tuple[object, str]]:
    """Yield what an object holds, with the path that leads there."""
    if isinstance(value, weakref.ref):
        yield value(), path
    elif type(value) in weakref.ProxyTypes:
        yield value.__repr__.__self__, path  # type: ignore[attr-defined]  # of the object behind the proxy
    elif isinstance(value, Mapping):
        yield from ((part, _below(path, key)) for key, part in value.items())
    elif isinstance(value, _CONTAINERS):
        yield from ((part, path) for part in value)
    elif isinstance(value, FunctionType):
        yield from ((part, path) for part in _held(value))
    elif isinstance(value, MethodType):
        yield from ((value.__self__, path), (value.__func__, path))
    elif isinstance(value, BuiltinMethodType):  # such as the `append` of a list
        yield value.__self__, path
    elif isinstance(value, functools.partial):
        yield from ((part, path) for part in (value.func, value.args, value.keywords))
    elif isinstance(value, Tensor):
        yield from ((getattr(value, hooks, None), path) for hooks in _OF_PARAMETERS)
    elif not isinstance(value, RemovableHandle):
        yield from ((part, _below(path, name)) for name, part in _attributes(value))


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    """Yield the attributes of an object, those in slots included."""
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            hidden = name.startswith("__") and not name.endswith("__")
            stored = f"_{kind.__name__.lstrip('_')}{name}" if hidden else name
            if name not in ("__dict__", "__weakref__") and hasattr(value, stored):
                yield name, getattr(value, stored)


def _below(path: str, name: object) -> str:
    """Return the path of an attribute; torch's own containers in a module have none."""
    if not isinstance(name, str) or name in ("_modules", "_parameters", "_buffers"):
        return path
    return f"{path}.{name}" if path else name


def _held(function: FunctionType) -> Iterator[object]:
    """Yield what a function holds: in its closure, its defaults, its attributes, and modules in globals that it reads.

    What else lies in a global, such as a dict that collects maps, is the user's own and stays one for all copies.
    """
    yield from (cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell))
    yield from (function.__defaults__, function.__kwdefaults__, vars(function))
    for value in map(function.__globals__.get, _globals_of(function.__code__)):
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        yield from (part for part in parts if isinstance(part, nn.Module | nn.Parameter))


def _globals_of(code: CodeType) -> Iterable[str]:
    """Return the global names that a piece of code reads, with the functions inside it."""
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    names = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*map(_globals_of, inner))


def _is_empty(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return True
    return False


def _address(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse tensors, and those of other layouts, have no storage
        return 0
