"""Traces the forward of a block into a graph: each child is one node, and in-place operations stay in place."""

from __future__ import annotations

import copy
import inspect
import linecache
import operator
import pickle
import random
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from nas_attn.backbones.modules import has_hooks, plain_attributes
from nas_attn.errors import SpaceError

OPENINGS = "attention_openings"
"""The child of an opened block that holds what its graph calls beside the block's own children."""
MODE = f"{OPENINGS}.mode"
"""The module that a graph calls for `self.training`."""

_LIBRARIES = ("torchvision.", "timm.")
_UNFIXED = "is no fixed sequence of steps"
_LONGEST = 60
"""Greatest number of characters of a line of code in a reason."""
_READ: dict[tuple[object, ...], fx.Graph] = {}
"""Graphs of the libraries' blocks traced in this process, by all that such a graph depends on (see `_likeness`)."""


def _writing_over(write: Callable[[Any, Any], Any]) -> Any:
    def written(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", write, (self, other), {})

    return written


def _no_number(self: fx.Proxy) -> Any:
    raise Unfaithful(f"its forward makes a number of {_words(self.node)}")


class _Proxy(fx.Proxy):
    """A value in a graph.

    Departs: torch.fx traces `x += y` as `x = x + y`; here such assignments stay in place.
    """

    __int__ = __float__ = __index__ = __len__ = _no_number

    __iadd__ = _writing_over(operator.iadd)
    __isub__ = _writing_over(operator.isub)
    __imul__ = _writing_over(operator.imul)
    __itruediv__ = _writing_over(operator.itruediv)
    __ifloordiv__ = _writing_over(operator.ifloordiv)
    __ipow__ = _writing_over(operator.ipow)
    __imod__ = _writing_over(operator.imod)


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

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Record the call of a child; a module without weights that is none, such as `nn.ReLU()(x)`, is a function.

        Raises: Unfaithful if such a module has weights or hooks, which the graph would lose.
        """
        if m in (self.submodule_paths or {}):
            return super().call_module(m, forward, args, kwargs)
        if any(True for _ in (*m.parameters(), *m.buffers())) or any(map(has_hooks, m.modules())):
            raise Unfaithful(f"its forward runs a {type(m).__name__} that is no part of the block")
        return forward(*args, **kwargs)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Return the forward and its arguments: a network passes one tensor, and the others have their defaults."""
        parameters = list(inspect.signature(root_fn).parameters.values())[is_module:]
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        needed = [one for one in parameters[1:] if one.default is one.empty and one.kind not in variable]
        if len(parameters) < 2 or needed:
            return super().create_args_for_root(root_fn, is_module, concrete_args)
        return root_fn, [self.root, self.create_proxy("placeholder", parameters[0].name, (), {})]

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Refuse a decision. Raises: Unfaithful."""
        raise Unfaithful(f"its forward decides by {_words(obj.node)}")

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Return the parts of a tensor that is split into a stated number of them. Raises: Unfaithful for others."""
        how = [*obj.node.args[1:], *obj.node.kwargs.values()][:1]
        if obj.node.target in (torch.chunk, "chunk") and how and isinstance(how[0], int):
            n_parts = how[0]
        elif obj.node.target in (torch.split, "split") and how and isinstance(how[0], tuple | list):
            n_parts = len(how[0])
        else:
            raise Unfaithful(f"its forward runs a loop over {_words(obj.node)}")
        return iter([self.create_proxy("call_function", operator.getitem, (obj, k), {}) for k in range(n_parts)])

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the symbolic result of a node."""
        return _Proxy(node, self)


def _words(node: fx.Node) -> str:
    """Return what a node's value is, in words."""
    return "the size of a tensor" if is_size(node) else "the values of a tensor"


def is_size(node: fx.Node) -> bool:
    """Return whether a value is a map's size, or computed from sizes alone."""
    if node.target in ("size", "dim", "numel") or (node.target is getattr and node.args[1] in ("shape", "ndim")):
        return True
    return bool(node.all_input_nodes) and all(map(is_size, node.all_input_nodes))


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

    Where the forward passes `self.training` on, the graph calls the module `MODE`.

    Raises: SpaceError if the forward depends on tensor values or random numbers, takes other steps in training than in
    evaluation, creates a tensor, or enters a context manager.
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
    if not is_of_library(block):
        return None
    parts: list[object] = [type(block).forward]
    for path, module in block.named_modules():
        plain = {name: value for name, value in plain_attributes(module).items() if name != "training"}
        if not all(map(is_plain, plain.values())):
            return None
        members = {**module._parameters, **module._buffers, **module._modules}
        parts += [path, type(module), *plain.items(), *((name, part is None) for name, part in members.items())]
    return tuple(parts)


def is_of_library(block: nn.Module) -> bool:
    """Return whether the class of a block is torchvision's or timm's."""
    return type(block).__module__.startswith(_LIBRARIES)


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
    trained, evaluated = graphs
    return _both(trained, evaluated, name)


def _both(trained: fx.Graph, evaluated: fx.Graph, name: str) -> fx.Graph:
    """Return one graph for both modes: they may differ in truth values that are `self.training`, or its opposite."""
    if str(trained) == str(evaluated):
        return trained
    pairs = list(zip(trained.nodes, evaluated.nodes, strict=False))
    if len(trained.nodes) != len(evaluated.nodes) or any(
        one.op != two.op or one.target != two.target for one, two in pairs
    ):
        raise refusal(name, "its forward takes other steps in training than in evaluation")
    with trained.inserting_before(next(node for node in trained.nodes if node.op != "placeholder")):
        mode = trained.call_module(MODE)
        opposite = trained.call_function(operator.not_, (mode,))
    for one, two in pairs:
        one.args = _merged(one.args, two.args, mode, opposite, name)
        one.kwargs = _merged(one.kwargs, two.kwargs, mode, opposite, name)
    if not opposite.users:
        trained.erase_node(opposite)
    return trained


def _merged(one: Any, two: Any, mode: fx.Node, opposite: fx.Node, name: str) -> Any:
    """Return the arguments of a step for both modes."""
    if isinstance(one, tuple | list) and isinstance(two, tuple | list) and len(one) == len(two):
        return type(one)([_merged(a, b, mode, opposite, name) for a, b in zip(one, two, strict=True)])
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return {key: _merged(one[key], two[key], mode, opposite, name) for key in one}
    if isinstance(one, bool) and isinstance(two, bool) and one != two:
        return mode if one else opposite
    if str(one) != str(two):  # nodes of two graphs are compared by their names
        raise refusal(name, "its forward computes with other numbers in training than in evaluation")
    return one


def _trace(block: nn.Module, name: str) -> fx.Graph:
    tracer = Tracer()
    try:
        with _direct_calls(block, tracer):
            graph = tracer.trace(block)
    except Unfaithful as error:
        raise refusal(name, f"{error}{_line_of(error)}") from error
    except Exception as error:  # the forward is the user's and may raise anything on symbolic values
        reason = "passes a tensor, or its size, where a number is needed" if isinstance(error, TypeError) else _UNFIXED
        raise refusal(name, f"its forward {reason}{_line_of(error)}") from error
    if any("_tensor_constant" in str(node.target) for node in graph.nodes):
        raise refusal(name, "its forward creates a tensor")
    return graph


@contextmanager
def _direct_calls(block: nn.Module, tracer: Tracer) -> Iterator[None]:
    """Context manager: `child.forward(x)` is traced as `child(x)`, which is the same for a child without hooks."""
    children = [child for child in block.modules() if child is not block and "forward" not in vars(child)]

    def call(child: nn.Module) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if has_hooks(child):
                raise Unfaithful("its forward runs a child past its hooks")
            return tracer.call_module(child, type(child).forward, args, kwargs)

        return forward

    for child in children:
        vars(child)["forward"] = call(child)
    try:
        yield
    finally:
        for child in children:
            del vars(child)["forward"]


def _line_of(error: Exception) -> str:
    """Return the line of a user's forward in which an error arose, in brackets; empty if it is not known."""
    ours = ("torch", __name__.partition(".")[0])
    for frame, number in reversed(list(traceback.walk_tb(error.__traceback__))):
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in ours:
            line = linecache.getline(frame.f_code.co_filename, number).strip()
            return f" ('{line if len(line) <= _LONGEST else line[:_LONGEST] + '...'}')" if line else ""
    return ""


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
