"""Operations shared by attentions, each with a backward pass that stores or copies less than autograd's.

Every function takes maps (N, C, H, W), contiguous or channels last, keeps their memory format, and can be
differentiated twice. Where torch records the computation (torch.fx, torch.jit.trace, the older ONNX exporter) or
transforms it (`torch.func`), each is the function of its name in `nas_attn.attention.plain`, whose every step torch can
follow. On a CPU (one thread, 16 maps of 64x28x28 or 256x14x14), forward and backward of the modules that use them take
1.2 to 2.2 times as long by plain autograd; `scale_by_bottleneck` saves memory only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from math import prod
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from nas_attn.attention import plain
from nas_attn.attention.plain import differentiable, is_followed, widened

Dims = tuple[int, ...]

CHANNELS, ROWS, COLUMNS, PIXELS = plain.CHANNELS, plain.ROWS, plain.COLUMNS, plain.PIXELS

_Rest = ParamSpec("_Rest")
_Found = TypeVar("_Found")


def _or_plain(step: Callable[Concatenate[Tensor, _Rest], _Found]) -> Callable[Concatenate[Tensor, _Rest], _Found]:
    """Compute a step by the plain function of its name where torch follows the computation."""
    by_torch: Callable[Concatenate[Tensor, _Rest], _Found] = getattr(plain, step.__name__)

    @wraps(step)
    def chosen(x: Tensor, /, *rest: _Rest.args, **options: _Rest.kwargs) -> _Found:
        return by_torch(x, *rest, **options) if is_followed(x) else step(x, *rest, **options)

    return chosen


@_or_plain
def pool(x: Tensor, *over: Dims) -> tuple[Tensor, ...]:
    """Return x, then the maximum and the mean over each tuple of dimensions: x, max_1, mean_1, max_2, mean_2, ...

    Use the returned x from here on: the gradients of x and of all pools are then summed in one new map. The first of
    equal maxima gets the gradient.

    Shape: (N, C, H, W) -> the same, and the same with size 1 in the pooled dimensions.
    Cost: stores the positions of the maxima, and not x.
    """
    x = in_order(x)
    if torch.is_grad_enabled():
        found: tuple[Tensor, ...] = _Pool.apply(x, over)
        return found[: 1 + 2 * len(over)]
    pools: list[Tensor] = [x]
    for dims in over:
        folded = _folded(x, dims)
        maximum = folded.amax(1) if folded.shape[2] == 1 else _max_with_place(folded)[0]
        pools += [_unfolded(pooled, x, dims) for pooled in (maximum, folded.mean(1))]
    return tuple(pools)


@_or_plain
def scale(x: Tensor, *gates: Tensor) -> Tensor:
    """Return x times every gate.

    Shape: x is (N, C, H, W), a gate has size 1 where it does not vary -> (N, C, H, W).
    Cost: stores x and the gates, and no product of them; the backward pass allocates one map, or two for more than one
        gate.
    """
    scaled: Tensor = _apply(_Scale, in_order(x), *gates)
    return scaled


@_or_plain
def scale_again(scaled: Tensor, gate: Tensor, x: Tensor, first: Tensor) -> Tensor:
    """Return `scaled`, which is x times the gate `first`, times another gate.

    Shape: as `scale`.
    Cost: stores x, which `scale(x, first)` stores as well, and both gates, but not `scaled`.
    """
    twice: Tensor = _apply(_ScaleAgain, scaled, gate, in_order(x), first)
    return twice


@_or_plain
def scale_by_sum(x: Tensor, *gates: Tensor) -> Tensor:
    """Return x times the sum of the gates.

    Shape: as `scale`.
    Cost: stores x and the gates, and neither their sum nor any product; the backward pass allocates one map.
    """
    scaled: Tensor = _apply(_ScaleBySum, in_order(x), *gates)
    return scaled


@_or_plain
def scale_by_bottleneck(x: Tensor, layers: Sequence[Tensor], *, sigmoid: bool) -> Tensor:
    """Return x times the output of two linear layers, with a ReLU between, over the channels of each pixel.

    Args:
        layers: Weight and bias of the first layer, then of the second.
        sigmoid: Whether a sigmoid follows.

    Shape: (N, C, H, W) -> the same.
    Cost: stores x alone, one map less than autograd, and recomputes both layers in the backward pass.
    """
    by_pixel: Tensor = _apply(_ScaleByBottleneck, x.permute(0, 2, 3, 1), sigmoid, *layers)
    return by_pixel.permute(0, 3, 1, 2)


@_or_plain
def norm_over_pixels(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return x, and sqrt(sum of x * x over the pixels + eps).

    Use the returned x from here on: the gradients of x and of its norm are then summed in one new map.

    Shape: (N, C, H, W) -> the same, and (N, C, 1, 1), in float32 at least: squares overflow float16.
    Cost: stores x and the norm; the backward pass allocates one map, that of a map of squares four.
    """
    same, norm = _apply(_NormOverPixels, in_order(x), eps)
    return same, norm


@_or_plain
def stack_planes(maximum: Tensor, mean: Tensor) -> Tensor:
    """Return two planes as the channels of one map, in channels last.

    In that format the backward pass of a convolution with so few channels takes a third of the time.

    Shape: (N, 1, A, B) twice -> (N, 2, A, B).
    """
    return torch.cat([maximum, mean], 1).contiguous(memory_format=torch.channels_last)


@_or_plain
def in_order(x: Tensor) -> Tensor:
    """Return x if it is contiguous or channels last, else a contiguous copy."""
    return x if is_channels_last(x) else x.contiguous()


@_or_plain
def is_channels_last(x: Tensor) -> bool:
    """Return whether a map is channels last and not also contiguous."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


@_or_plain
def sum_over(x: Tensor, dims: Dims) -> Tensor:
    """Return the sum over dimensions, which are kept with size 1.

    In channels last, `Tensor.sum` over the height or the width takes seven times as long as over this view.
    """
    order = _memory_order(x)
    places = sorted([order.index(dim) for dim in dims])
    if places != list(range(places[0], places[0] + len(dims))):
        return x.sum(dims, keepdim=True)
    return _unfolded(_folded(x, dims).sum(1), x, dims)


def _apply(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    """Apply a function; without gradients call its forward pass directly, which is faster on small maps."""
    return function.apply(*inputs) if torch.is_grad_enabled() else function.forward(*inputs)


def _memory_order(x: Tensor) -> Dims:
    """Return the dimensions of a map in their order in memory, the outermost first."""
    return (0, 2, 3, 1) if is_channels_last(x) else (0, 1, 2, 3)


def _folded(x: Tensor, dims: Dims) -> Tensor:
    """View a map as (outer, reduced, inner), where the reduced ones are `dims`, which are adjacent in memory."""
    order = _memory_order(x)
    first = min([order.index(dim) for dim in dims])
    sizes = [x.shape[dim] for dim in order]
    parts = sizes[:first], sizes[first : first + len(dims)], sizes[first + len(dims) :]
    return x.permute(order).reshape([prod(part) for part in parts])


def _unfolded(pooled: Tensor, x: Tensor, dims: Dims) -> Tensor:
    """View (outer, inner) as a map in the memory format of x, (N, C, H, W) with size 1 in `dims`."""
    order = _memory_order(x)
    sizes = [1 if dim in dims else x.shape[dim] for dim in order]
    return pooled.reshape(sizes).permute([order.index(dim) for dim in range(4)])


def _max_with_place(folded: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maximum and its position over the middle one of three dimensions.

    On CPUs `Tensor.max` uses no vector instructions. Adaptive pooling does, and is up to seven times as fast, with
    (outer, reduced, inner) as `outer` images in channels last with `inner` channels and `reduced` pixels.

    Shape: (outer, reduced, inner) -> (outer, inner), twice.
    """
    if folded.device.type != "cpu" or folded.shape[2] == 1:
        maximum, place = folded.max(1)
        return maximum, place
    images = folded.transpose(1, 2).unsqueeze(2)
    maximum, place = functional.adaptive_max_pool2d_with_indices(images, 1)
    return maximum.flatten(1), place.flatten(1)


class _Pool(torch.autograd.Function):
    """See `pool`; also returns the positions of the maxima, so that they can be stored."""

    @staticmethod
    def forward(x: Tensor, over: tuple[Dims, ...]) -> tuple[Tensor, ...]:
        pools: list[Tensor] = []
        places: list[Tensor] = []
        for dims in over:
            folded = _folded(x, dims)
            maximum, place = _max_with_place(folded)
            pools += [_unfolded(pooled, x, dims) for pooled in (maximum, folded.mean(1))]
            places.append(place)
        return x.view_as(x), *pools, *places

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[Dims, ...]], output: tuple[Tensor, ...]) -> None:
        x, ctx.over = inputs
        places = output[1 + 2 * len(ctx.over) :]
        ctx.mark_non_differentiable(*places)
        ctx.save_for_backward(*places)
        ctx.memory_format = torch.channels_last if is_channels_last(x) else torch.contiguous_format

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *grads: Tensor) -> tuple[Tensor, None]:
        means = [
            mean / prod([grad.shape[dim] for dim in dims]) for mean, dims in zip(grads[1::2], ctx.over, strict=False)
        ]
        total = (grad + means[0]).contiguous(memory_format=ctx.memory_format)
        for mean in means[1:]:
            total.add_(mean)
        order = _memory_order(total)
        for maximum, place, dims in zip(grads[::2], ctx.saved_tensors, ctx.over, strict=False):
            sources = maximum.permute(order).reshape(place.shape)
            _folded(total, dims).scatter_add_(1, place.unsqueeze(1), sources.unsqueeze(1))
        return total, None


class _Scale(torch.autograd.Function):
    """See `scale`."""

    @staticmethod
    def forward(x: Tensor, *gates: Tensor) -> Tensor:
        return _product(x, gates)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, *gates = ctx.saved_tensors
        both = x * grad
        grad_gates = []
        for number, gate in enumerate(gates):
            others = gates[:number] + gates[number + 1 :]
            grad_gates.append(_sum_to(_product(both, others) if others else both, gate))
        return _product(grad, gates, out=both), *grad_gates


class _ScaleAgain(torch.autograd.Function):
    """See `scale_again`."""

    @staticmethod
    def forward(scaled: Tensor, gate: Tensor, x: Tensor, first: Tensor) -> Tensor:
        return scaled * gate

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        gate, x, first = ctx.saved_tensors
        both = _product(x, [grad, first])
        grad_gate = _sum_to(both, gate)
        return _product(grad, [gate], out=both), grad_gate, None, None


class _ScaleBySum(torch.autograd.Function):
    """See `scale_by_sum`."""

    @staticmethod
    def forward(x: Tensor, *gates: Tensor) -> Tensor:
        return _sum(gates, out=torch.empty_like(x)).mul_(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, *gates = ctx.saved_tensors
        both = x * grad
        grad_gates = [_sum_to(both, gate) for gate in gates]
        if torch.is_grad_enabled():
            return plain.scale_by_sum(grad, *gates), *grad_gates
        return _sum(gates, out=both).mul_(grad), *grad_gates


class _ScaleByBottleneck(torch.autograd.Function):
    """See `scale_by_bottleneck`; here the channels are the last dimension."""

    @staticmethod
    def forward(x: Tensor, sigmoid: bool, *layers: Tensor) -> Tensor:
        return _bottleneck(x, sigmoid, layers)[1].mul_(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.sigmoid, *layers = inputs
        ctx.save_for_backward(x, *layers)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *layers = ctx.saved_tensors
        if torch.is_grad_enabled():
            grad_x, *grad_layers = differentiable(partial(_scaled, ctx.sigmoid), (x, *layers), (grad,))
            return grad_x, None, *grad_layers
        hidden, gate = _bottleneck(x, ctx.sigmoid, layers)
        grad_gate = x * grad
        if ctx.sigmoid:
            grad_gate.mul_(gate).mul_(1 - gate)
        weight_1, weight_2 = [layer.to(x.dtype) for layer in layers[::2]]
        grad_hidden = (grad_gate @ weight_2).mul_(hidden > 0)
        grad_x = gate.mul_(grad).flatten(0, 2).addmm_(grad_hidden.flatten(0, 2), weight_1)
        grad_layers = []
        for into, out in ((x, grad_hidden), (hidden, grad_gate)):
            rows = out.flatten(0, 2)
            grad_layers += [rows.T @ into.flatten(0, 2), rows.sum(0)]
        return grad_x.view(x.shape), None, *grad_layers


class _NormOverPixels(torch.autograd.Function):
    """See `norm_over_pixels`."""

    @staticmethod
    def forward(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        if is_channels_last(x):  # torch's norm takes twice as long as a map of squares and its sum
            return x.view_as(x), widened(x).square().sum(PIXELS, keepdim=True).add_(eps).sqrt_()
        norm: Tensor = torch.linalg.vector_norm(widened(x), dim=PIXELS, keepdim=True)
        return x.view_as(x), norm.square_().add_(eps).sqrt_()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_norm: Tensor) -> tuple[Tensor, None]:
        x, norm = ctx.saved_tensors
        return torch.addcmul(grad, x, (grad_norm / norm).to(x.dtype)), None


def _bottleneck(x: Tensor, sigmoid: bool, layers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the hidden layer after its ReLU, and the output, of two linear layers over the last dimension.

    Both have the map's dtype, in the backward pass too, where autocast is off.
    """
    weight_1, bias_1, weight_2, bias_2 = [layer.to(x.dtype) for layer in layers]
    hidden = functional.linear(x, weight_1, bias_1).relu_().to(x.dtype)
    gate = functional.linear(hidden, weight_2, bias_2).to(x.dtype)
    return hidden, gate.sigmoid_() if sigmoid else gate


def _scaled(sigmoid: bool, x: Tensor, *layers: Tensor) -> Tensor:
    """Return what `_ScaleByBottleneck` does, by steps that can be differentiated."""
    return x * _bottleneck(x, sigmoid, layers)[1]


def _product(x: Tensor, gates: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """Return x times one or more gates, in one new map or in `out`; in a pass to be differentiated, in new maps."""
    if torch.is_grad_enabled():
        return plain.scale(x, *gates)
    product = x * gates[0] if out is None else torch.mul(x, gates[0], out=out)
    for gate in gates[1:]:
        product.mul_(gate)
    return product


def _sum(gates: Sequence[Tensor], out: Tensor) -> Tensor:
    """Write the sum of the gates to `out`."""
    total = out.copy_(gates[0])
    for gate in gates[1:]:
        total.add_(gate)
    return total


def _sum_to(x: Tensor, gate: Tensor) -> Tensor:
    """Return the sum of a map over the dimensions along which a gate does not vary."""
    dims = tuple(dim for dim in range(4) if gate.shape[dim] != x.shape[dim])
    return sum_over(x, dims) if dims else x.clone()
