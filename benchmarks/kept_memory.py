"""The memory that a forward pass stores for the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def kept_bytes(net: nn.Module, images: Tensor) -> int:
    """Return the bytes that a forward pass stores for the backward pass, without weights and statistics."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*net.parameters(), *net.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = net(images)
    del output
    return sum(kept.values())
