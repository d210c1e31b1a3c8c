"""Reads a block's own forward as a graph: each of its children is one step, what writes over a tensor stays so."""

from __future__ import annotations

import copy
import inspect
import operator
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from nas_attn.backbones.modules import plain_attributes
from nas_attn.errors import SpaceError, first_line

_LIBRARIES = ("torchvision.", "timm.")
_READ: dict[tuple[object, ...], fx.Graph] = {}
"""What was read of the libraries' blocks in this process, by what it depends on."""


def _writing_over(write: Callable[[Any, Any], Any]) -> Any:
    def written(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", write, (self, other), {})

    return written


class _Proxy(fx.Proxy):
    """A value in a graph.

    Departs: torch.fx takes `x += y` for `x = x + y`; here +=, -=, *= and /= write over x, as their author has it.
    """

    __iadd__ = _writing_over(operator.iadd)
    __isub__ = _writing_over(operator.isub)
    __imul__ = _writing_over(operator.imul)
    __itruediv__ = _writing_over(operator.itruediv)


class Unfaithful(Exception):
    """A graph would do less than the forward that it is read from."""


class Tracer(fx.Tracer):
    """Reads a block's own forward only: each of its children is one step.

    A graph knows no contexts: a forward that enters some is refused. By this class, too, torch reads an opened block
    again that was pickled.
    """

    proxy_buffer_attributes = True  # what a buffer holds may change: no decision on it is taken while reading
    _outside: tuple[object, ...] = ()

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Return the graph. Raises: Unfaithful if a step runs in a context that the graph would lose."""
        self._outside = _contexts()
        return super().trace(root, concrete_args)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Note a step."""
        if _contexts() != self._outside:
            raise Unfaithful("a part of its forward runs without gradients, or in another precision")
        if _is_checkpointed():
            raise Unfaithful("a part of its forward runs by torch.utils.checkpoint")
        return super().create_node(*args, **kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Take every child as one step."""
        return True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the value that stands for a step's result."""
        return _Proxy(node, self)


def _contexts() -> tuple[object, ...]:
    """Return what decides how an operation is computed besides its arguments."""
    precision = [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")]
    return (torch.is_grad_enabled(), *precision)


def _is_checkpointed() -> bool:
    """Tell whether a function runs whose steps are computed once more for the gradient."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            return True
        frame = frame.f_back
    return False


def refusal(name: str, reason: str) -> SpaceError:
    """Return the error that says why a block cannot be opened."""
    return SpaceError(f"Block '{name}' cannot be opened: {reason}.")


def read_forward(block: nn.Module, name: str) -> fx.Graph:
    """Return the block's forward as a graph of its own; blocks of torchvision and timm that are alike are read once.

    Raises: SpaceError if the forward depends on values, on chance or on the mode, makes a tensor of its own, or enters
    a context.
    """
    key = _likeness(block)
    if key is None:
        return _read(block, name)
    if key not in _READ:
        _READ[key] = _read(block, name)
    return copy.deepcopy(_READ[key])


def _likeness(block: nn.Module) -> tuple[object, ...] | None:
    """Return what a library's forward is decided by: the classes and the plain attributes of it and all below it.

    None for a block of the user's own, whose forward may read anything, and for one that holds what is not plain.
    """
    if not type(block).__module__.startswith(_LIBRARIES):
        return None
    parts: list[object] = [type(block).forward]
    for path, module in block.named_modules():
        plain = {name: value for name, value in plain_attributes(module).items() if name != "training"}
        if not all(map(_is_plain, plain.values())):
            return None
        held = {**module._parameters, **module._buffers, **module._modules}
        parts += [path, type(module), *plain.items(), *((name, part is None) for name, part in held.items())]
    return tuple(parts)


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, int | float | str | None)


def _read(block: nn.Module, name: str) -> fx.Graph:
    """Read the block's forward in both modes, and leave the block as it was."""
    drawn = _drawn()
    graphs = []
    for training in (True, False):
        with _kept(block, name):
            block.training = training  # its own flag only: its children are leaves
            graphs.append(_trace(block, name))
    if _drawn() != drawn:
        raise refusal(name, "its forward draws random numbers")
    if str(graphs[0]) != str(graphs[1]):
        raise refusal(name, "its forward reads self.training")
    return graphs[0]


def _trace(block: nn.Module, name: str) -> fx.Graph:
    try:
        graph = Tracer().trace(block)
    except Unfaithful as error:
        raise refusal(name, str(error)) from error
    except Exception as error:  # the forward is the user's: run on symbols, it may raise anything
        raise refusal(name, f"its forward cannot be read as a graph ({first_line(error)})") from error
    if any("_tensor_constant" in str(node.target) for node in graph.nodes):
        raise refusal(name, "its forward makes a tensor of its own")
    return graph


@contextmanager
def _kept(block: nn.Module, name: str) -> Iterator[None]:
    """Put back what the block itself holds. Raises: SpaceError if its forward put something else there."""
    before = dict(vars(block))
    contents = {key: copy.copy(value) for key, value in before.items() if isinstance(value, list | dict | set)}
    changed: list[str] = []
    try:
        yield
        now = vars(block)
        changed = [key for key in {**before, **now} if now.get(key, _kept) is not before.get(key, _kept)]
        changed += [key for key, held in contents.items() if _parts(before[key]) != _parts(held)]
    finally:
        vars(block).clear()
        vars(block).update(before)
        for key, held in contents.items():
            before[key].clear()
            (before[key].extend if isinstance(held, list) else before[key].update)(held)
    lost = next((key for key in changed if key != "training"), None)
    if lost:
        raise refusal(name, f"its forward keeps something on the block itself ('{lost}')")


def _parts(container: Any) -> list[int]:
    """Return which objects a list, dict or set holds."""
    return [id(part) for part in (*container, *(container.values() if isinstance(container, dict) else ()))]


def _drawn() -> tuple[bytes, ...]:
    """Return how far the generators are whose numbers a forward may draw."""
    states = (torch.get_rng_state().numpy(), np.random.get_state(), random.getstate())
    return tuple(pickle.dumps(state) for state in states)
