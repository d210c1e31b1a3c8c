"""Traces the forward of a block into a graph: each child is one node, and in-place operations stay in place."""

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
"""Graphs of the libraries' blocks traced in this process, by all that such a graph depends on (see `_likeness`)."""


def _writing_over(write: Callable[[Any, Any], Any]) -> Any:
    def written(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", write, (self, other), {})

    return written


class _Proxy(fx.Proxy):
    """A value in a graph.

    Departs: torch.fx traces `x += y` as `x = x + y`; here +=, -=, *= and /= stay in place.
    """

    __iadd__ = _writing_over(operator.iadd)
    __isub__ = _writing_over(operator.isub)
    __imul__ = _writing_over(operator.imul)
    __itruediv__ = _writing_over(operator.itruediv)


class Unfaithful(Exception):
    """The graph would lose a part of the forward that it is traced from."""


class Tracer(fx.Tracer):
    """Trace the forward of a block alone: each child is one node.

    A graph does not record context managers, so a forward that enters one is refused. torch also uses this class to
    restore the pickle of an opened block.
    """

    proxy_buffer_attributes = True  # the values of a buffer may change: they are not read while tracing
    _outside: tuple[object, ...] = ()

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Return the graph. Raises: Unfaithful if a node runs inside a context manager."""
        self._outside = _contexts()
        return super().trace(root, concrete_args)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Record a node."""
        if _contexts() != self._outside:
            raise Unfaithful("a part of its forward runs without gradients, or in another precision")
        if _is_checkpointed():
            raise Unfaithful("a part of its forward runs by torch.utils.checkpoint")
        return super().create_node(*args, **kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Trace every child as one node."""
        return True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the symbolic result of a node."""
        return _Proxy(node, self)


def _contexts() -> tuple[object, ...]:
    """Return the torch settings that affect an operation besides its arguments."""
    precision = [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")]
    return (torch.is_grad_enabled(), *precision)


def _is_checkpointed() -> bool:
    """Return whether the caller runs inside torch.utils.checkpoint, which repeats the forward for the gradient."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            return True
        frame = frame.f_back
    return False


def refusal(name: str, reason: str) -> SpaceError:
    """Return the error for a block that cannot be opened."""
    return SpaceError(f"Block '{name}' cannot be opened: {reason}.")


def read_forward(block: nn.Module, name: str) -> fx.Graph:
    """Return the graph of a block's forward; equal blocks of torchvision and timm are traced once.

    Raises: SpaceError if the forward depends on tensor values, random numbers or the training mode, creates a tensor,
    or enters a context manager.
    """
    key = _likeness(block)
    if key is None:
        return _read(block, name)
    if key not in _READ:
        _READ[key] = _read(block, name)
    return copy.deepcopy(_READ[key])


def _likeness(block: nn.Module) -> tuple[object, ...] | None:
    """Return the key of a library's block: blocks with equal keys have equal graphs.

    The key holds the classes and the plain attributes of the block and its descendants. It is None for a block of the
    user's own, whose forward may read anything, and for a block with an attribute that is not plain.
    """
    if not type(block).__module__.startswith(_LIBRARIES):
        return None
    parts: list[object] = [type(block).forward]
    for path, module in block.named_modules():
        plain = {name: value for name, value in plain_attributes(module).items() if name != "training"}
        if not all(map(is_plain, plain.values())):
            return None
        members = {**module._parameters, **module._buffers, **module._modules}
        parts += [path, type(module), *plain.items(), *((name, part is None) for name, part in members.items())]
    return tuple(parts)


def is_plain(value: object) -> bool:
    """Return whether a value is a number, a word, None, or a tuple of them."""
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    return isinstance(value, int | float | str | None)


def _read(block: nn.Module, name: str) -> fx.Graph:
    """Trace the forward in both modes and leave the block unchanged."""
    drawn = _drawn()
    graphs = []
    for training in (True, False):
        with _kept(block, name):
            block.training = training  # its own flag only: its children are not traced
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
    except Exception as error:  # the forward is the user's and may raise anything on symbolic values
        raise refusal(name, f"its forward cannot be traced as a graph ({first_line(error)})") from error
    if any("_tensor_constant" in str(node.target) for node in graph.nodes):
        raise refusal(name, "its forward creates a tensor")
    return graph


@contextmanager
def _kept(block: nn.Module, name: str) -> Iterator[None]:
    """Restore the attributes of the block. Raises: SpaceError if its forward changed one."""
    before = dict(vars(block))
    contents = {key: copy.copy(value) for key, value in before.items() if isinstance(value, list | dict | set)}
    changed: list[str] = []
    try:
        yield
        now = vars(block)
        changed = [key for key in {**before, **now} if now.get(key, _kept) is not before.get(key, _kept)]
        changed += [key for key, copied in contents.items() if _parts(before[key]) != _parts(copied)]
    finally:
        vars(block).clear()
        vars(block).update(before)
        for key, copied in contents.items():
            before[key].clear()
            (before[key].extend if isinstance(copied, list) else before[key].update)(copied)
    lost = next((key for key in changed if key != "training"), None)
    if lost:
        raise refusal(name, f"its forward changes an attribute of the block ('{lost}')")


def _parts(container: Any) -> list[int]:
    """Return the identities of the objects in a list, dict or set."""
    return [id(part) for part in (*container, *(container.values() if isinstance(container, dict) else ()))]


def _drawn() -> tuple[bytes, ...]:
    """Return the states of the random number generators that a forward may use."""
    states = (torch.get_rng_state().numpy(), np.random.get_state(), random.getstate())
    return tuple(pickle.dumps(state) for state in states)
