"""Weights of kernels larger than their map: only the core, which a smaller kernel has alone, ever met the map."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from nas_attn.model.build import AttentionModel


def core_shape(model: AttentionModel, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that a stored tensor has in the model: its core's where the model has a smaller kernel."""
    own = model.state_dict().get(key)
    if own is None or not any(key.startswith(f"attention.{site}.") for site in model.sites_of_cores):
        return shape
    excess = [theirs - ours for theirs, ours in zip(shape, own.shape, strict=False)]
    is_core = len(shape) == own.dim() and not any(excess[:2]) and all(n >= 0 and n % 2 == 0 for n in excess[2:])
    return tuple(own.shape) if is_core else shape


def cores(model: AttentionModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return stored weights with the cores of the kernels that the model has smaller, since no more meets the map."""
    found = dict(state)
    for key, tensor in state.items():
        shape = core_shape(model, key, tuple(tensor.shape))
        for axis, size in enumerate(shape):
            found[key] = found[key].narrow(axis, (tensor.shape[axis] - size) // 2, size)
    return found
