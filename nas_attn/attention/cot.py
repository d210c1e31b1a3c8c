"""CoTNet's contextual transformer: a kernel for every pixel, computed from the pixel and its surroundings."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.channel import means
from nas_attn.attention.entry import Context
from nas_attn.attention.forms.fusion import replaced_by
from nas_attn.attention.forms.replacing import cot_groups, cot_hidden, cot_shared
from nas_attn.attention.norm import BatchNorm, GroupNorm
from nas_attn.attention.options import NO_CONTEXT, require_fit
from nas_attn.attention.plain import differentiable, is_followed


class CoT(nn.Module):
    """Weigh the surroundings of a pixel, as a grouped convolution sees them, against their mean by a kernel of its own.

    Source: Li et al., "Contextual Transformer Networks for Visual Recognition", TPAMI 2022, arXiv:2107.12292, and the
    authors' code (`CotLayer`): channels that share a kernel are C / 8 apart; behind a strided layer's input 3x3 average
    pooling; convolutions start from Kaiming's normal rule with fan out, biases from torch's default.
    Departs: none where 8 divides the channels; elsewhere the 4 groups and the 8 channels of a kernel are the most below
    that divide them. The layer replaces a 3x3 convolution with its norm, as published, where the authors drop the ReLU
    behind it too and ours stays; or it takes the map of any site that keeps the shape.

    Args:
        kernel_size: Of the grouped convolution and of the kernels.
        context: Names the replaced convolution, if any.

    Shape: (N, C, H, W) -> the same; in place of a convolution, (N, C, H / stride, W / stride), rounded up.
    Cost: k*k*C*C / 4 + C*C + C*h + k*k*C*h / 8 + 3*C*a weights and a few per channel, h = C / 2, a = max(C / 2, 32); as
        many multiply-adds per pixel, but 3*C*a once. The k*k products of each element are no matrix product.
    Raises: SpaceError if the replaced convolution changes the channels, is depthwise, or is dilated.
    """

    def __init__(self, channels: int, *, kernel_size: int = 3, context: Context | None = None) -> None:
        super().__init__()
        require_fit("cot", channels, context=context, kernel_size=kernel_size)
        stride = replaced_by(channels, context or NO_CONTEXT).stride
        self.kernel_size, self.n_kernels = kernel_size, channels // cot_shared(channels)
        embedded, hidden = max(1, channels // 2), cot_hidden(channels)
        taps = kernel_size**2 * self.n_kernels
        self.pool = nn.AvgPool2d(3, stride, 1) if stride > 1 else nn.Identity()
        self.key = nn.Sequential(
            nn.Conv2d(
                channels, channels, kernel_size, padding=kernel_size // 2, groups=cot_groups(channels), bias=False
            ),
            *(BatchNorm(channels), nn.ReLU()),
        )
        self.kernels = nn.Sequential(
            *(nn.Conv2d(2 * channels, embedded, 1, bias=False), BatchNorm(embedded), nn.ReLU()),
            *(nn.Conv2d(embedded, taps, 1), GroupNorm(self.n_kernels, taps)),
        )
        self.value = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), BatchNorm(channels))
        self.norm = BatchNorm(channels)
        self.select = nn.Sequential(
            *(nn.Conv2d(channels, hidden, 1), BatchNorm(hidden), nn.ReLU(), nn.Conv2d(hidden, 2 * channels, 1)),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> (N, C, H / stride, W / stride), both rounded up."""
        dynamic, static = self.contexts(x)
        shares = self.shares(dynamic, static)[:, :, :, None, None]
        return torch.addcmul(dynamic * shares[:, :, 0], static, shares[:, :, 1])

    def contexts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the dynamic context, by each pixel's own kernel, and the static one, by one kernel for all."""
        x = self.pool(x)
        static: Tensor = self.key(x)
        kernels = self.kernels(torch.cat([x, static], 1))
        mixed = weighted_sum(self.value(x), kernels, self.n_kernels, self.kernel_size)
        return functional.silu(self.norm(mixed)), static

    def shares(self, dynamic: Tensor, static: Tensor) -> Tensor:
        """Return the share of each context in each channel. Shape: (N, C, H, W) twice -> (N, C, 2), 1 over the last."""
        pooled = means(dynamic) + means(static)
        logits: Tensor = self.select(pooled[:, :, None, None])
        return logits.view(pooled.shape[0], -1, 2).softmax(2)


def weighted_sum(x: Tensor, kernels: Tensor, n_kernels: int, size: int) -> Tensor:
    """Return the sum over the neighbours of each pixel, weighted by the pixel's own kernels; outside the map is 0.

    Args:
        kernels: Taps of a kernel, row by row, are consecutive channels. Channel c of the map has kernel c % n_kernels.
        size: Height and width of a kernel.

    Shape: (N, C, H, W), (N, n_kernels * size * size, H, W) -> (N, C, H, W).
    """
    if is_followed(x) or not torch.is_grad_enabled():
        return _weighted_sum(x, kernels, n_kernels, size)
    summed: Tensor = _WeightedSum.apply(x, kernels, n_kernels, size)
    return summed


def _weighted_sum(x: Tensor, kernels: Tensor, n_kernels: int, size: int) -> Tensor:
    maps, taps = _padded_and_taps(x, kernels, n_kernels, size)
    height, width = x.shape[2], x.shape[3]
    total = maps[:, :, :, :height, :width] * taps[0]
    for place in range(1, size * size):
        row, column = divmod(place, size)
        total = torch.addcmul(total, maps[:, :, :, row : row + height, column : column + width], taps[place])
    return total.flatten(1, 2)


def _padded_and_taps(x: Tensor, kernels: Tensor, n_kernels: int, size: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the padded map, (N, C / n_kernels, n_kernels, H', W'), and each tap, (N, 1, n_kernels, H, W)."""
    n_images, height, width, border = x.shape[0], x.shape[2], x.shape[3], size // 2
    padded = functional.pad(x, [border] * 4)
    maps = padded.view(n_images, -1, n_kernels, height + 2 * border, width + 2 * border)
    return maps, kernels.view(n_images, 1, n_kernels, size * size, height, width).unbind(3)


class _WeightedSum(torch.autograd.Function):
    """`_weighted_sum`, whose gradients are accumulated in one map each; autograd makes a new one for each tap."""

    @staticmethod
    def forward(x: Tensor, kernels: Tensor, n_kernels: int, size: int) -> Tensor:
        return _weighted_sum(x, kernels, n_kernels, size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
        x, kernels, ctx.n_kernels, ctx.size = inputs
        ctx.save_for_backward(x, kernels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, kernels = ctx.saved_tensors
        if torch.is_grad_enabled():
            step = partial(_weighted_sum, n_kernels=ctx.n_kernels, size=ctx.size)
            return (*differentiable(step, (x, kernels), (grad,)), None, None)
        maps, taps = _padded_and_taps(x, kernels, ctx.n_kernels, ctx.size)
        height, width, border = x.shape[2], x.shape[3], ctx.size // 2
        grad = grad.view(x.shape[0], -1, ctx.n_kernels, height, width)
        grad_maps, grad_taps = torch.zeros_like(maps), []
        for place, tap in enumerate(taps):
            row, column = divmod(place, ctx.size)
            window = (..., slice(row, row + height), slice(column, column + width))
            grad_taps.append((maps[window] * grad).sum(1))
            grad_maps[window].addcmul_(grad, tap)
        inner = (..., slice(border, border + height), slice(border, border + width))
        return grad_maps[inner].flatten(1, 2), torch.stack(grad_taps, 2).flatten(1, 2), None, None
