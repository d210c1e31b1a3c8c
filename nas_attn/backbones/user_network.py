"""Copies, initialises and validates a user-supplied network."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from nas_attn.backbones.copying import independent_copy, refuse_outside
from nas_attn.backbones.modules import seeded
from nas_attn.errors import SpaceError, first_line
from nas_attn.placement import Shape

N_IMAGES = 2

_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
}
"""torch's wrappers, and the attribute with the wrapped network. Not imported: torch.compile alone takes a second."""

_QUANTISED = ("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.")
_PREPARED = (
    *("torch.ao.nn.qat.", "torch.ao.nn.intrinsic.qat."),
    *("torch.ao.quantization.fake_quantize", "torch.ao.quantization.observer"),
)
_FLOAT = ("FloatFunctional",)
"""Classes among those of quantised networks that compute in float."""

_MADE: MutableMapping[int, nn.Parameter] = WeakValueDictionary()
"""Parameters of the networks that functions returned, as long as they are in use, by identity."""


def make_network(make: Callable[..., Any], what: str, options: Mapping[str, Any], shape: Shape) -> nn.Module:
    """Call a user's function with its options and initialise the result.

    Args:
        what: The function in messages.
        shape: Its fields that the function has as parameters are passed too, unless the options have them.
    Raises: SpaceError if it is no function, has no such option, raises, or does not return a network that is ready to
    use (see `refuse_unready`).
    """
    if isinstance(make, nn.Module) or not callable(make):
        raise SpaceError(
            f"The {what} must be a function that returns a network, but is a {type(make).__name__}: every model needs "
            "a new network."
        )
    known = inspect.signature(make).parameters
    stated = {key: value for key, value in vars(shape).items() if value}
    needed = known.get("num_classes")
    if not shape.num_classes and needed is not None and needed.default is needed.empty and "num_classes" not in options:
        raise SpaceError(f"The {what} needs num_classes, which is not stated: state it.")
    stray = next((key for key in options if not takes(make, key)), None)
    if stray is not None:
        raise SpaceError(f"The {what} has no option '{stray}': it takes {', '.join(known) or 'none'}.")
    try:
        net = make(**{key: value for key, value in stated.items() if key in known and key not in options}, **options)
    except Exception as error:  # the function is the user's: it may raise anything
        raise SpaceError(f"The {what} raised {named(error)}.") from error
    if not isinstance(net, nn.Module):
        raise SpaceError(f"The {what} must return a torch module, but returned {type(net).__name__}.")
    refuse_unready(net)
    _refuse_returned_again(net, what)
    initialise(net, shape)
    return net


def _refuse_returned_again(net: nn.Module, what: str) -> None:
    """Refuse a network with a parameter that an earlier call returned: two models would train one weight."""
    for path, parameter in net.named_parameters():
        if _MADE.get(id(parameter)) is parameter:
            raise SpaceError(
                f"The {what} must return a new network in every call, but '{path}' is of the one that it returned "
                "before: make all parts inside it."
            )
    _MADE.update((id(parameter), parameter) for parameter in net.parameters())


def takes(make: Callable[..., Any], option: str) -> bool:
    """Return whether a function has a parameter of this name, or takes any keyword."""
    known = inspect.signature(make).parameters
    return option in known or any(word.kind is inspect.Parameter.VAR_KEYWORD for word in known.values())


def named(error: Exception) -> str:
    """Return an error's class and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error)}"


def copy_network(net: nn.Module) -> nn.Module:
    """Return a copy that shares nothing. Raises: SpaceError for a network that is wrapped or lazy, or not copied."""
    refuse_unready(net)
    lazy = next((path for path, parameter in net.named_parameters() if is_lazy(parameter)), None)
    if lazy is not None:
        raise SpaceError(
            f"'{lazy}' of the network is lazy and cannot be copied: run the network once, or pass a function that "
            "makes it."
        )
    return independent_copy(net)


def refuse_unready(net: nn.Module) -> None:
    """Refuse a network that is wrapped by torch or quantised, or whose weights are from outside or not finite.

    Raises: SpaceError that says what to pass instead.
    """
    for path, module in net.named_modules():
        name = type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise SpaceError(
                f"{_part(path)} is compiled by torch.jit, and its copies cannot be trained: pass the original module."
            )
        kind = f"{type(module).__module__}.{name}"
        if kind.startswith(_QUANTISED) and name not in _FLOAT:
            raise SpaceError(
                f"{_part(path)} is quantised ({name}), and whole numbers cannot be trained: pass the float network."
            )
        if kind.startswith(_PREPARED):
            raise SpaceError(
                f"{_part(path)} is prepared for quantisation ({name}), which would leave out the attention: pass the "
                "network before prepare_qat, and prepare the model that is built."
            )
        if name in _WRAPPERS and type(module).__module__.startswith("torch."):
            raise SpaceError(
                f"{_part(path)} is wrapped in {name}: pass the wrapped module (its .{_WRAPPERS[name]}), and wrap the "
                "model that is built."
            )
    _refuse_other_inputs(net)
    refuse_outside(net)
    for path, parameter in net.named_parameters():
        if parameter.is_meta:
            raise SpaceError(f"The network's weights must have values, but '{path}' is on the meta device: load them.")
        if not is_lazy(parameter) and parameter.is_floating_point() and not _is_finite(parameter):
            raise SpaceError(
                f"The network's weights must be finite, but '{path}' has NaN or infinite values: pass weights from "
                "before its training diverged."
            )


def _is_finite(weights: Tensor) -> bool:
    """Return whether all values are finite: both extremes are NaN where one value is."""
    return not weights.numel() or all(bool(extreme.isfinite()) for extreme in weights.detach().aminmax())


def _refuse_other_inputs(net: nn.Module) -> None:
    """Refuse a network whose forward does not take images alone."""
    try:
        signature = inspect.signature(net.forward)
    except (TypeError, ValueError):  # of a function that is not written in Python
        return
    try:
        signature.bind(None)
    except TypeError:
        raise SpaceError(
            f"The network {type(net).__name__} must take images alone, but its forward takes {signature}: give its "
            "other arguments defaults, or wrap the network in a module that passes them."
        ) from None


def _part(path: str) -> str:
    return f"Part '{path}' of the network" if path else "The network"


def initialise(net: nn.Module, shape: Shape) -> None:
    """Run a network with lazy modules once, so that they get their shapes; any other network is not run.

    Raises: SpaceError if the network does not accept such images, or a module is still lazy afterwards.
    """
    if not any(True for _ in _lazy(net)):
        return
    with evaluating(net):
        run(net, random_images(net, shape))
    path = next(_lazy(net), None)
    if path is not None:
        raise SpaceError(f"'{path}' of the network is lazy, and a pass does not initialise it: leave it out.")


def random_images(net: nn.Module, shape: Shape) -> Tensor:
    """Return images, equal in every process, with the type and device of the network's weights."""
    weight = next((weight for weight in net.parameters() if weight.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(N_IMAGES, shape.in_channels, shape.image_size, shape.image_size, generator=generator)
    return images.to(weight.device, weight.dtype)


def run(net: nn.Module, images: Tensor, *, gradients: bool = False) -> object:
    """Return the network's output for these images. Raises: SpaceError if it raises."""
    try:
        with torch.set_grad_enabled(gradients):
            return net(images)
    except Exception as error:  # the network is the user's: its forward may raise anything
        mode = " in training" if net.training else ""
        raise SpaceError(
            f"The network {type(net).__name__} does not accept images {tuple(images.shape)}{mode}: {first_line(error)}."
        ) from error


def check_output(name: str, output: object, num_classes: int, *, training: bool) -> None:
    """Check the output for the random images.

    Args:
        num_classes: 0 accepts any nesting of tensors.
    Raises: SpaceError unless it is a tensor of shape (N_IMAGES, num_classes).
    """
    found, mode = described(output), " in training" if training else ""
    if not num_classes and not any(isinstance(leaf, Tensor) for leaf in tree_leaves(output)):
        raise SpaceError(
            f"The network {name} must return tensors{mode}, but returns {found}: return a tensor, or a tuple, list or "
            "dict of them."
        )
    if num_classes and found != str((N_IMAGES, num_classes)):
        raise SpaceError(
            f"The network {name} must return {(N_IMAGES, num_classes)} for {N_IMAGES} images of "
            f"{num_classes} classes{mode}, but returns {found}: change its last layer, or num_classes, which a "
            "training of your own may leave out."
        )


def described(output: object) -> str:
    """Return a tensor's shape, or the type of any other object, in words.

    >>> described(torch.zeros(2, 3)), described((1, 2)), described({}), described(None)
    ('(2, 3)', '2 outputs (tuple)', '0 outputs (dict)', 'NoneType')
    """
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    name = type(output).__name__
    return f"{len(output)} outputs ({name})" if isinstance(output, tuple | list | Mapping) else name


def _lazy(net: nn.Module) -> Iterator[str]:
    """Yield the names of the parameters and buffers without a shape."""
    return (name for name, value in (*net.named_parameters(), *net.named_buffers()) if is_lazy(value))


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Context manager: the network is in evaluation mode; the mode of each module is restored afterwards."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def as_before(net: nn.Module) -> Iterator[None]:
    """Context manager: seeds torch, numpy and Python; restores their generators and the buffers afterwards."""
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers() if not is_lazy(buffer)]
    states = np.random.get_state(), random.getstate()
    np.random.seed(0)
    random.seed(0)
    try:
        with seeded(0, "survey"):
            yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
        with torch.no_grad():
            for buffer, before in buffers:
                if buffer.shape != before.shape:  # a buffer that gets its shape in the first pass
                    buffer.resize_(before.shape)
                buffer.copy_(before)
