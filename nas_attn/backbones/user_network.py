"""A network as its owner hands it over: copied, initialised, run on random images, or refused; for `build` too."""

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
"""Where each of torch's wrappers holds the network. Named, not imported: torch.compile alone loads for a second."""


def make_network(make: Callable[..., Any], what: str, options: Mapping[str, Any], shape: Shape) -> nn.Module:
    """Call a user's function with its options and initialise the result.

    Args:
        what: How sentences call the function.
        shape: Its fields that the function has as parameters are passed too, unless the options have them.
    Raises: SpaceError if it is none, has no such option, raises, gives no network, or one that is wrapped or has no
    weights.
    """
    if isinstance(make, nn.Module) or not callable(make):
        raise SpaceError(
            f"The {what} must be a function that makes a network, but is a {type(make).__name__}: every model gets a "
            "new one."
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
        raise SpaceError(f"The {what} must give a torch module, but gave {type(net).__name__}.")
    refuse_unready(net)
    initialise(net, shape)
    return net


def takes(make: Callable[..., Any], option: str) -> bool:
    """Tell whether a function takes an option by this name."""
    known = inspect.signature(make).parameters
    return option in known or any(word.kind is inspect.Parameter.VAR_KEYWORD for word in known.values())


def named(error: Exception) -> str:
    """Return an error's class and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error)}"


def copy_network(net: nn.Module) -> nn.Module:
    """Return a deep copy. Raises: SpaceError for a network that is wrapped, has no weights yet, or cannot be copied."""
    refuse_unready(net)
    _refuse_tied_functions(net)
    lazy = next((path for path, parameter in net.named_parameters() if is_lazy(parameter)), None)
    if lazy is not None:
        raise SpaceError(f"'{lazy}' of the network is lazy, and cannot be copied: run it once, or pass its maker.")
    try:
        return copy.deepcopy(net)
    except Exception as error:  # the network is the user's: its copying may raise anything
        raise SpaceError(f"The network {type(net).__name__} cannot be copied: {first_line(error)}.") from error


def refuse_unready(net: nn.Module) -> None:
    """Refuse a network that torch has wrapped, whole or in part, and one whose weights hold no numbers.

    Raises: SpaceError that says what to pass instead.
    """
    for path, module in net.named_modules():
        name = type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise SpaceError(
                f"{_part(path)} is compiled by torch.jit, whose copies cannot be trained: pass what was compiled."
            )
        if name in _WRAPPERS and type(module).__module__.startswith("torch."):
            raise SpaceError(
                f"{_part(path)} is wrapped in {name}: pass what it wraps (its .{_WRAPPERS[name]}), "
                "and wrap what is built."
            )
    for path, parameter in net.named_parameters():
        if parameter.is_meta:
            raise SpaceError(f"The network's weights must hold numbers, but '{path}' lies on the device meta.")


def _refuse_tied_functions(net: nn.Module) -> None:
    """Refuse functions that are kept in the network and hold modules of it: those of its copies hold the same ones."""
    own = set(net.modules())
    for path, module in net.named_modules():
        for name, value in vars(module).items():
            functions = value if isinstance(value, list | tuple) else [value]
            if any(held in own for function in functions for held in _modules_in(function)):
                place = f"{path}.{name}" if path else name
                raise SpaceError(
                    f"'{place}' of the network is a function that holds modules of the network itself, which a copy "
                    "would run in place of its own: make it a method."
                )


def _modules_in(function: object) -> Iterator[nn.Module]:
    """Yield the modules that a function brings along: from around its definition, or as its defaults."""
    if isinstance(function, FunctionType):
        yield from (held for held in function.__defaults__ or () if isinstance(held, nn.Module))
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # a cell may be empty
                if isinstance(cell.cell_contents, nn.Module):
                    yield cell.cell_contents


def _part(path: str) -> str:
    return f"Part '{path}' of the network" if path else "The network"


def initialise(net: nn.Module, shape: Shape) -> None:
    """Let the lazy modules of a network find their shapes by running it once; others are not run at all.

    Raises: SpaceError if the network does not take such images, or leaves a module lazy.
    """
    if not any(True for _ in _lazy(net)):
        return
    with evaluating(net):
        run(net, random_images(net, shape))
    path = next(_lazy(net), None)
    if path is not None:
        raise SpaceError(f"'{path}' of the network is lazy, and a run does not initialise it: leave it out.")


def random_images(net: nn.Module, shape: Shape) -> Tensor:
    """Return images that are the same in every process, of the type and on the device of the network's weights."""
    weight = next((weight for weight in net.parameters() if weight.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(N_IMAGES, shape.in_channels, shape.image_size, shape.image_size, generator=generator)
    return images.to(weight.device, weight.dtype)


def run(net: nn.Module, images: Tensor, *, gradients: bool = False) -> object:
    """Return what the network gives for these images. Raises: SpaceError if it does not take them."""
    try:
        with torch.set_grad_enabled(gradients):
            return net(images)
    except Exception as error:  # the network is the user's: its forward may raise anything
        mode = " in training" if net.training else ""
        raise SpaceError(
            f"The network {type(net).__name__} does not take images {tuple(images.shape)}{mode}: {first_line(error)}."
        ) from error


def check_logits(name: str, logits: object, num_classes: int, *, training: bool) -> None:
    """Check what the network gave for the random images. Raises: SpaceError unless it is `num_classes` for each."""
    given = described(logits)
    if given != str((N_IMAGES, num_classes)):
        mode = " in training" if training else ""
        raise SpaceError(
            f"The network {name} must give {(N_IMAGES, num_classes)} for {N_IMAGES} images of "
            f"{num_classes} classes{mode}, but gives {given}: change its last layer, or num_classes."
        )


def described(output: object) -> str:
    """Return a tensor's shape, or what else it is, in words.

    >>> described(torch.zeros(2, 3)), described((1, 2)), described({}), described(None)
    ('(2, 3)', '2 outputs (tuple)', '0 outputs (dict)', 'NoneType')
    """
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    name = type(output).__name__
    return f"{len(output)} outputs ({name})" if isinstance(output, tuple | list | Mapping) else name


def _lazy(net: nn.Module) -> Iterator[str]:
    """Yield the names of the parameters and buffers that have no shape yet."""
    return (name for name, value in (*net.named_parameters(), *net.named_buffers()) if is_lazy(value))


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and each of its modules back into its own."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def as_before(net: nn.Module) -> Iterator[None]:
    """Put the buffers, which a pass in training may change, and all random numbers back afterwards.

    Torch's, numpy's and Python's numbers are the same ones each time.
    """
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
