"""Reads a block's own forward as a graph: each of its children is one step, what writes over a tensor stays so."""

from __future__ import annotations

import copy
import inspect
import operator
import pickle
import random
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from nas_attn.errors import SpaceError, first_line

_IN_PLACE = ("iadd", "isub", "imul", "itruediv")
_LIBRARIES = ("torchvision.", "timm.")
_READ: dict[tuple[object, ...], fx.Graph] = {}
"""What was read of the libraries' blocks in this process, by what it depends on."""


class _Proxy(fx.Proxy):
    """A value in a graph.

    Departs: torch.fx takes `x += y` for `x = x + y`; here it writes over x, as its author has it.
    """


def _writing_over(name: str) -> Any:
    def written(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", getattr(operator, name), (self, other), {})

    return written


for _name in _IN_PLACE:
    setattr(_Proxy, f"__{_name}__", _writing_over(_name))


class Unfaithful(Exception):
    """A graph would do less than the forward that it is read from."""


class Tracer(fx.Tracer):
    """Reads a block's own forward only: each of its children is one step. Copies of the block are read by it too.

    A graph knows no contexts: a forward that enters some is refused.
    """

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
    """Return what a library's forward is decided by: its class, its plain attributes, the classes of its children.

    None for a block of the user's own, whose forward may read anything.
    """
    plain = {key: value for key, value in vars(block).items() if key[0] != "_" and key != "training"}
    is_plain = all(isinstance(value, int | float | str | None) for value in plain.values())
    if not type(block).__module__.startswith(_LIBRARIES) or not is_plain:
        return None
    return (type(block), *plain.items(), *((child, type(module)) for child, module in block._modules.items()))


def _read(block: nn.Module, name: str) -> fx.Graph:
    """Read the block's forward in both modes. The block's own flag is set only: its children are leaves."""
    mode, drawn = block.training, _drawn()
    graphs = []
    try:
        for training in (True, False):
            block.training = training
            graphs.append(Tracer().trace(block))
    except Unfaithful as error:
        raise refusal(name, str(error)) from error
    except Exception as error:  # the forward is the user's: run on symbols, it may raise anything
        raise refusal(name, f"its forward depends on the values that pass it ({first_line(error)})") from error
    finally:
        block.training = mode
    if _drawn() != drawn:
        raise refusal(name, "its forward draws random numbers")
    if any("_tensor_constant" in str(node.target) for graph in graphs for node in graph.nodes):
        raise refusal(name, "its forward makes a tensor of its own")
    if str(graphs[0]) != str(graphs[1]):
        raise refusal(name, "its forward reads self.training")
    return graphs[0]


def _drawn() -> tuple[bytes, ...]:
    """Return how far the generators are whose numbers a forward may draw."""
    states = (torch.get_rng_state().numpy(), np.random.get_state(), random.getstate())
    return tuple(pickle.dumps(state) for state in states)
