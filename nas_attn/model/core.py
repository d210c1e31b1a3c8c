"""Weights of kernels larger than their map: only the core, which a smaller kernel has alone, ever met the map."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from nas_attn.model.build import AttentionModel


def core_shapes(model: AttentionModel, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that stored tensors have in the model: their cores' where the model has smaller kernels."""
    prefixes = tuple(f"attention.{site}." for site in model.sites_of_cores)
    own = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items() if key.startswith(prefixes)}
    return {key: _core_shape(shape, own[key]) if key in own else shape for key, shape in shapes.items()}


def cores(model: AttentionModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return stored weights with the cores of the kernels that the model has smaller, since no more meets the map."""
    found = dict(state)
    for key, shape in core_shapes(model, {key: tuple(tensor.shape) for key, tensor in state.items()}).items():
        for axis, size in enumerate(shape):
            found[key] = found[key].narrow(axis, (state[key].shape[axis] - size) // 2, size)
    return found


def _core_shape(shape: tuple[int, ...], own: tuple[int, ...]) -> tuple[int, ...]:
    """Return the model's own shape of a kernel if that is the core of the stored one, or else the stored one."""
    excess = [theirs - ours for theirs, ours in zip(shape, own, strict=False)]
    is_core = len(shape) == len(own) and not any(excess[:2]) and all(n >= 0 and n % 2 == 0 for n in excess[2:])
    return own if is_core else shape
