"""The operations of `nas_attn.attention.fused` as plain torch: the same results, without backward passes of their own.

A network that is written as a Python file contains these, because they are short.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

Dims = tuple[int, ...]

CHANNELS: Dims = (1,)
ROWS: Dims = (2,)
COLUMNS: Dims = (3,)
PIXELS: Dims = (2, 3)


def pool(x: Tensor, *over: Dims) -> tuple[Tensor, ...]:
    """Return x, then the maximum and the mean over each tuple of dimensions: x, max_1, mean_1, max_2, mean_2, ...

    Shape: (N, C, H, W) -> the same, and the same with size 1 in the pooled dimensions.
    """
    pools = [x]
    for dims in over:
        pools += [x.amax(dims, keepdim=True), x.mean(dims, keepdim=True)]
    return tuple(pools)


def scale(x: Tensor, *gates: Tensor) -> Tensor:
    """Return x times every gate; a gate has size 1 where it does not vary."""
    for gate in gates:
        x = x * gate
    return x


def scale_again(scaled: Tensor, gate: Tensor, x: Tensor, first: Tensor) -> Tensor:
    """Return `scaled`, which is x times the gate `first`, times another gate."""
    return scaled * gate


def scale_by_sum(x: Tensor, *gates: Tensor) -> Tensor:
    """Return x times the sum of the gates."""
    first, *others = gates
    return x * sum(others, first)


def scale_by_bottleneck(x: Tensor, layers: Sequence[Tensor], *, sigmoid: bool) -> Tensor:
    """Return x times the output of two linear layers, with a ReLU between, over the channels of each pixel.

    Args:
        layers: Weight and bias of the first layer, then of the second.
        sigmoid: Whether a sigmoid follows.
    """
    weight_1, bias_1, weight_2, bias_2 = layers
    hidden = torch.relu(functional.linear(x.permute(0, 2, 3, 1), weight_1, bias_1))
    gate = functional.linear(hidden, weight_2, bias_2).permute(0, 3, 1, 2)
    return x * (torch.sigmoid(gate) if sigmoid else gate)


def norm_over_pixels(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return x, and sqrt(sum of x * x over the pixels + eps), of shape (N, C, 1, 1)."""
    return x, (x.square().sum(PIXELS, keepdim=True) + eps).sqrt()


def stack_planes(maximum: Tensor, mean: Tensor) -> Tensor:
    """Return two planes as the channels of one map: (N, 1, A, B) twice -> (N, 2, A, B)."""
    return torch.cat([maximum, mean], 1)


def in_order(x: Tensor) -> Tensor:
    """Return x in contiguous memory."""
    return x.contiguous()


def is_channels_last(x: Tensor) -> bool:
    """Return whether a map is channels last and not also contiguous."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def sum_over(x: Tensor, dims: Dims) -> Tensor:
    """Return the sum over dimensions, which are kept with size 1."""
    return x.sum(dims, keepdim=True)
