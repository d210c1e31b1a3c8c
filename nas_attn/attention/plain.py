"""The operations of `nas_attn.attention.fused` as plain torch: the same results, without backward passes of their own.

A network that is written as a Python file contains these, because they are short. They are also what torch follows
where it records or transforms a network, see `is_followed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Dims = tuple[int, ...]

CHANNELS: Dims = (1,)
ROWS: Dims = (2,)
COLUMNS: Dims = (3,)
PIXELS: Dims = (2, 3)


def differentiable(
    step: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Sequence[Tensor], grads: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of a step by its inputs, computed by autograd, so that they can be differentiated in turn.

    Args:
        grads: Gradients of the step's outputs.
    """
    apart = [x.view_as(x) for x in inputs]  # otherwise the gradient of one input would include its way to another
    wanted = [x for x in apart if x.requires_grad]
    found = iter(torch.autograd.grad(step(*apart), wanted, grads, create_graph=True, allow_unused=True))
    return tuple(next(found) if x.requires_grad else None for x in apart)


def is_recorded(x: Tensor) -> bool:
    """Return whether torch records the computation instead of running it: torch.fx, torch.jit.trace, older ONNX export.

    Then a condition on values or sizes cannot be followed, or is fixed for ever.
    """
    jit: Any = torch.jit  # has no types
    return not isinstance(x, Tensor) or bool(jit.is_tracing())


def is_followed(x: Tensor) -> bool:
    """Return whether torch records the computation or transforms it (`torch.func`), so that it must see every step."""
    return is_recorded(x) or torch._C._are_functorch_transforms_active()


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None = None) -> Tensor:
    """Return torch's scaled dot product attention; where `torch.func` maps it, by steps that it can map."""
    if not torch._C._are_functorch_transforms_active():
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).to(value.dtype) @ value


def widened(x: Tensor) -> Tensor:
    """Return `x` in at least float32: squares, and sums over a map, overflow float16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


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
    return x, (widened(x).square().sum(PIXELS, keepdim=True) + eps).sqrt()


def stack_planes(maximum: Tensor, mean: Tensor) -> Tensor:
    """Return two planes as the channels of one map: (N, 1, A, B) twice -> (N, 2, A, B)."""
    return torch.cat([maximum, mean], 1)


def in_order(x: Tensor) -> Tensor:
    """Return x in contiguous memory."""
    return x.contiguous()


def is_channels_last(x: Tensor) -> bool:
    """Return whether a map is channels last and not also contiguous; where torch follows, that is not known."""
    if is_followed(x):
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def sum_over(x: Tensor, dims: Dims) -> Tensor:
    """Return the sum over dimensions, which are kept with size 1."""
    return x.sum(dims, keepdim=True)
