"""The weights of a trained network as the plain network takes them: what a training changed is undone, or named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from nas_attn.errors import in_one_line
from nas_attn.records import NOT_EXPORTED

Plain = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of each parameter and buffer of a network as it was built."""

_WRAPPERS = ("module", "_orig_mod")
"""Names of the network inside DataParallel, AveragedModel and a compiled module."""

_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}


@dataclass(frozen=True)
class Exported:
    """What can be exported of a trained network.

    Args:
        state: The weights of the plain network; None if there are none that compute the same.
        remark: What was changed, in a sentence; None if nothing was.
    """

    state: Mapping[str, Tensor] | None
    remark: str | None = None


class _Cannot(Exception):
    """The network cannot be exported; the message is the reason, for use within a sentence."""


def plain_of(model: nn.Module) -> Plain:
    """Return shape and type of each parameter and buffer."""
    return {name: (tuple(value.shape), value.dtype) for name, value in model.state_dict().items()}


def exported(model: nn.Module, plain: Plain, fresh: Callable[[], nn.Module], size: tuple[int, int]) -> Exported:
    """Return the weights of a trained network as the plain network takes them.

    A wrapper is taken off. A parametrisation, such as spectral norm, weight norm or pruning, is replaced by the weight
    that it computes, and further parts are left out; both only if the plain network then returns the same outputs.

    Args:
        plain: Of the network as it was built.
        fresh: Returns the plain network.
        size: Channels, and height and width, of the images.
    """
    try:
        found = model.state_dict()
        if found.keys() == plain.keys():
            _check_shapes(found, plain)
            return Exported(_as_plain(found, plain), _remark_on_types(found, plain))
        state = _unwrapped(found, plain)
        if state is None:
            state = _proved(model, plain, fresh, size)
        return Exported(_as_plain(state, plain), _remark(found, plain))
    except _Cannot as error:
        reason = str(error)
    except Exception as error:  # the network is the user's: a hook of its state dict or its forward may raise anything
        reason = in_one_line(error)[:200]
    return Exported(
        None,
        f"{NOT_EXPORTED}, since {reason}. The search goes on and its report stands, but the exported models have no "
        "weights: train a copy of the network and put its weights back, or undo the change at the end of the "
        "training. With the mended training, the same command and --same-training train these arms again for their "
        "weights.",
    )


def _unwrapped(found: Mapping[str, Tensor], plain: Plain) -> dict[str, Tensor] | None:
    """Return the weights without the names of wrappers, or None if these are not the whole difference."""
    state = {}
    for name, value in found.items():
        inner = name if name in plain else ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        state[inner] = value
    rest = state.keys() - plain.keys()
    is_whole = not plain.keys() - state.keys() and all(name.endswith("n_averaged") for name in rest)
    fits = is_whole and all(tuple(state[name].shape) == shape for name, (shape, _) in plain.items())
    return {name: state[name] for name in plain} if fits else None


def _proved(model: nn.Module, plain: Plain, fresh: Callable[[], nn.Module], size: tuple[int, int]) -> dict[str, Tensor]:
    """Return the weights that the network computes with.

    Raises: _Cannot unless the plain network returns the same with them.
    """
    some = next((value for value in model.state_dict().values() if value.is_floating_point()), torch.zeros(()))
    images = torch.rand((2, size[0], size[1], size[1]), generator=torch.Generator().manual_seed(0))
    images = images.to(some.device, some.dtype)
    with torch.no_grad():
        theirs = model.eval()(images)  # hooks, such as of pruning, compute the weights here
        state = {name: _at(model, name) for name in plain}
        _check_shapes(state, plain)
        built = fresh()
        built.load_state_dict(dict(_as_plain(state, plain)))
        ours = built.eval().to(some.device, some.dtype)(images)
    pairs = list(zip(_tensors(theirs), _tensors(ours), strict=False))
    worst = max((float((a.double() - b.double()).abs().max()) for a, b in pairs if a.shape == b.shape), default=0.0)
    largest = max((float(b.double().abs().max()) for _, b in pairs), default=0.0)
    same_kind = len(_tensors(theirs)) == len(_tensors(ours)) and all(a.shape == b.shape for a, b in pairs)
    if not same_kind or not worst <= _TOLERANCE.get(some.dtype, 0.05) * max(1.0, largest):
        raise _Cannot(f"the plain network with its weights returns something else (largest difference {worst:.2g})")
    return state


def _at(model: nn.Module, name: str) -> Tensor:
    """Return the tensor at a path of the plain network, through wrappers."""
    found: Any = model
    for part in name.split("."):
        while not hasattr(found, part):
            inner = next((getattr(found, one) for one in _WRAPPERS if hasattr(found, one)), None)
            if inner is None:
                raise _Cannot(f"it has no '{name}' any more")
            found = inner
        found = getattr(found, part)
    if not isinstance(found, Tensor):
        raise _Cannot(f"'{name}' is no tensor any more")
    return found


def _check_shapes(state: Mapping[str, Tensor], plain: Plain) -> None:
    for name, (shape, _) in plain.items():
        if tuple(state[name].shape) != shape:
            raise _Cannot(f"'{name}' must be {shape}, but is {tuple(state[name].shape)}")


def _as_plain(state: Mapping[str, Tensor], plain: Plain) -> dict[str, Tensor]:
    """Return the weights on the CPU, in the types of the plain network, each with memory of its own."""
    return {name: state[name].detach().cpu().to(dtype).contiguous().clone() for name, (_, dtype) in plain.items()}


def _remark(found: Mapping[str, Tensor], plain: Plain) -> str:
    new = sorted(found.keys() - plain.keys())
    more = f" and {len(new) - 1} more" if len(new) > 1 else ""
    what = f"it adds '{new[0]}'{more}" if new else "it takes parts away"
    return (
        f"The training changes the network ({what}), so its weights are exported as the plain network has them, with "
        "the same outputs."
    )


def _remark_on_types(found: Mapping[str, Tensor], plain: Plain) -> str | None:
    other = {found[name].dtype: dtype for name, (_, dtype) in plain.items() if found[name].dtype != dtype}
    if not other:
        return None
    was, dtype = next(iter(other.items()))
    return f"The training leaves weights of {was}, which are exported as {dtype}."


def _tensors(output: Any) -> list[Tensor]:
    return [value for value in _pytree.tree_leaves(output) if isinstance(value, Tensor)]
