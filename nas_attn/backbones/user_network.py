"""Copies, initialises and validates a user-supplied network."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

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
    stray = next((key for key in options if not takes(make, key)), None)
    if stray is not None:
        raise SpaceError(f"The {what} has no option '{stray}': it takes {', '.join(known) or 'none'}.")
    try:
        net = make(
            **{key: value for key, value in vars(shape).items() if key in known and key not in options}, **options
        )
    except Exception as error:  # the function is the user's: it may raise anything
        raise SpaceError(f"The {what} raised {named(error)}.") from error
    if not isinstance(net, nn.Module):
        raise SpaceError(f"The {what} must return a torch module, but returned {type(net).__name__}.")
    refuse_unready(net)
    initialise(net, shape)
    return net


def takes(make: Callable[..., Any], option: str) -> bool:
    """Return whether a function has a parameter of this name, or takes any keyword."""
    known = inspect.signature(make).parameters
    return option in known or any(word.kind is inspect.Parameter.VAR_KEYWORD for word in known.values())


def named(error: Exception) -> str:
    """Return an error's class and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error)}"


def copy_network(net: nn.Module) -> nn.Module:
    """Return a deep copy. Raises: SpaceError for a network that is wrapped or lazy, or that cannot be copied."""
    refuse_unready(net)
    _refuse_tied_functions(net)
    lazy = next((path for path, parameter in net.named_parameters() if is_lazy(parameter)), None)
    if lazy is not None:
        raise SpaceError(
            f"'{lazy}' of the network is lazy and cannot be copied: run the network once, or pass a function that "
            "makes it."
        )
    try:
        return copy.deepcopy(net)
    except Exception as error:  # the network is the user's: copying it may raise anything
        raise SpaceError(f"The network {type(net).__name__} cannot be copied: {first_line(error)}.") from error


def refuse_unready(net: nn.Module) -> None:
    """Refuse a network with a wrapper of torch's in it, and one whose weights have no values.

    Raises: SpaceError that says what to pass instead.
    """
    for path, module in net.named_modules():
        name = type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise SpaceError(
                f"{_part(path)} is compiled by torch.jit, and its copies cannot be trained: pass the original module."
            )
        if name in _WRAPPERS and type(module).__module__.startswith("torch."):
            raise SpaceError(
                f"{_part(path)} is wrapped in {name}: pass the wrapped module (its .{_WRAPPERS[name]}), and wrap the "
                "model that is built."
            )
    for path, parameter in net.named_parameters():
        if parameter.is_meta:
            raise SpaceError(f"The network's weights must have values, but '{path}' is on the meta device.")


def _refuse_tied_functions(net: nn.Module) -> None:
    """Refuse functions in attributes of the network that refer to its modules: a copy would share those modules."""
    own = set(net.modules())
    for path, module in net.named_modules():
        for name, value in vars(module).items():
            functions = value if isinstance(value, list | tuple) else [value]
            if any(module in own for function in functions for module in _modules_in(function)):
                place = f"{path}.{name}" if path else name
                raise SpaceError(
                    f"'{place}' of the network is a function that refers to modules of the network, and a copy of it "
                    "would still run those: make it a method."
                )


def _modules_in(function: object) -> Iterator[nn.Module]:
    """Yield the modules in a function's closure and among its defaults."""
    if isinstance(function, FunctionType):
        yield from (module for module in function.__defaults__ or () if isinstance(module, nn.Module))
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # a cell may be empty
                if isinstance(cell.cell_contents, nn.Module):
                    yield cell.cell_contents


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


def check_logits(name: str, logits: object, num_classes: int, *, training: bool) -> None:
    """Check the output for the random images. Raises: SpaceError unless its shape is (N_IMAGES, num_classes)."""
    found = described(logits)
    if found != str((N_IMAGES, num_classes)):
        mode = " in training" if training else ""
        raise SpaceError(
            f"The network {name} must return {(N_IMAGES, num_classes)} for {N_IMAGES} images of "
            f"{num_classes} classes{mode}, but returns {found}: change its last layer, or num_classes."
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
                buffer.copy_(before)
