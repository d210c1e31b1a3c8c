"""Attention over pixels: SimAM and LSKA."""

from __future__ import annotations

from math import prod, sqrt

import torch
from torch import Tensor, nn

from nas_attn.attention.channel import means, n_degrees
from nas_attn.attention.forms.grouped import LSKA_KERNELS
from nas_attn.attention.options import require_fit
from nas_attn.attention.plain import widened


class SimAM(nn.Module):
    """Gate each element by its squared distance from the mean of its channel; there are no parameters.

    Source: Yang et al., "SimAM: A Simple, Parameter-Free Attention Module", ICML 2021,
    proceedings.mlr.press/v139/yang21o.
    Departs: the variance of a map of one pixel is 0; in the authors' code it is nan.

    Args:
        lam: Added to the variance of a channel. The authors train some of their networks with 0.1.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: no weights; two means of every channel.
    Raises: SpaceError unless 1e-12 <= lam <= 100.
    """

    def __init__(self, channels: int, *, lam: float = 1e-4) -> None:
        super().__init__()
        require_fit("simam", channels, lam=lam)
        self.lam = lam

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        return x * self.gate(x)

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate of every element. Shape: (N, C, H, W) -> the same."""
        distance = widened(x - means(x)[:, :, None, None]).square()  # squares overflow float16
        variance = distance.sum((2, 3), keepdim=True) / n_degrees(x)
        return torch.sigmoid(distance * (0.25 / (variance + self.lam)) + 0.5).to(x.dtype)


class LSKA(nn.Module):
    """Gate every element by a large kernel, decomposed into four 1-d depthwise convolutions and a 1x1.

    Source: Lau et al., "Large Separable Kernel Attention", Expert Systems with Applications 2024, arXiv:2309.01439, and
    the authors' code: all convolutions with biases, no activation of the gate. Weights are initialised as in their
    networks: normal, with variance 2 / (taps * channels / groups); biases by 0.
    Departs: this is the gate alone; the authors put it between two 1x1 convolutions and add the input.

    Args:
        kernel_size: Size of the whole kernel: 7, 11, 23, 35, 41 or 53.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: C + 2*(local + dilated taps) multiply-adds per element, C times that and 5*C weights.
    Raises: SpaceError for another kernel size.
    """

    def __init__(self, channels: int, *, kernel_size: int = 7) -> None:
        super().__init__()
        require_fit("lska", channels, kernel_size=kernel_size)
        local, dilated, dilation = LSKA_KERNELS[kernel_size]
        self.kernel = nn.Sequential(
            _convolution(channels, (1, local), groups=channels),
            _convolution(channels, (local, 1), groups=channels),
            _convolution(channels, (1, dilated), groups=channels, dilation=dilation),
            _convolution(channels, (dilated, 1), groups=channels, dilation=dilation),
            _convolution(channels, (1, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        gate: Tensor = self.kernel(x)
        return x * gate


def _convolution(channels: int, size: tuple[int, int], *, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the map's size, initialised as in the authors' networks."""
    padding = (size[0] // 2 * dilation, size[1] // 2 * dilation)
    layer = nn.Conv2d(channels, channels, size, padding=padding, dilation=dilation, groups=groups)
    nn.init.normal_(layer.weight, std=sqrt(2 * groups / (prod(size) * channels)))
    assert layer.bias is not None, "a convolution has a bias by default"
    nn.init.zeros_(layer.bias)
    return layer
