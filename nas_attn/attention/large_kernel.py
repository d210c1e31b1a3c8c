"""LKA: a gate from a large kernel, decomposed into a depthwise, a dilated depthwise and a 1x1 convolution."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.forms.projected import LKA_KERNELS
from nas_attn.attention.norm import BatchNorm
from nas_attn.attention.options import require_fit


class LKA(nn.Module):
    """Gate every element by a large kernel, decomposed into a depthwise, a dilated depthwise and a 1x1 convolution.

    Source: Guo et al., "Visual Attention Network", Computational Visual Media 2023, arXiv:2202.09741, and the authors'
    code: all convolutions with biases, no activation of the gate. Weights are initialised as in their networks: normal,
    with variance 2 / (kernel area * output channels / groups); biases by 0, the layer scale by 0.01.
    Departs: none. `form="gate"` is their `LKA`; `form="attention"` their `Attention`, with a 1x1 convolution and a GELU
    before it, a 1x1 convolution behind it, and the input added; `form="block"` the first half of their `Block`, with a
    batch norm before that, a layer scale behind it, and its input added. The gate has no bound: at many sites, the
    first two forms diverge at usual learning rates. 21 is the authors' kernel; 7, 11 and 35 are those of the separable
    `lska`, whose authors call the kernel of 21 one of 23.

    Args:
        form: `block`, `attention` or `gate`.
        kernel_size: Size of the whole kernel: 7, 11, 21 or 35.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: C + local^2 + dilated^2 multiply-adds per element, C times that and 3*C weights; the other forms add 2*C per
        element and 2*C*C + 2*C weights, a block 3*C more. Slow on a CPU: a block of 21 takes 7 to 16 times CBAM's time
        on maps of 64x28x28 and 256x14x14, the gate 5 to 12 times.
    Raises: SpaceError for an unknown form or kernel size.
    """

    def __init__(self, channels: int, *, form: str = "block", kernel_size: int = 21) -> None:
        super().__init__()
        require_fit("lka", channels, form=form, kernel_size=kernel_size)
        local, dilated, dilation = LKA_KERNELS[kernel_size]
        is_block, is_gate = form == "block", form == "gate"
        self.scale = nn.Parameter(torch.full((channels,), 0.01)) if is_block else None
        self.norm = BatchNorm(channels) if is_block else None
        self.project = None if is_gate else nn.Conv2d(channels, channels, 1)
        self.kernel = nn.Sequential(
            nn.Conv2d(channels, channels, local, padding=local // 2, groups=channels),
            nn.Conv2d(channels, channels, dilated, padding=dilated // 2 * dilation, dilation=dilation, groups=channels),
            nn.Conv2d(channels, channels, 1),
        )
        self.out = None if is_gate else nn.Conv2d(channels, channels, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=sqrt(2 / (layer.weight[0, 0].numel() * channels / layer.groups)))
                nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        if self.norm is None or self.scale is None:
            return self.attend(x)
        return x + self.scale[:, None, None] * self.attend(self.norm(x))

    def attend(self, x: Tensor) -> Tensor:
        """Apply the gate, between two 1x1 convolutions and with the input added unless the form is the gate alone.

        Shape: (N, C, H, W) -> the same.
        """
        embedded = self.embed(x)
        gate: Tensor = self.kernel(embedded)
        gated = embedded * gate
        return gated if self.out is None else x + self.out(gated)

    def embed(self, x: Tensor) -> Tensor:
        """Return what the gate multiplies: the map, or its projection after a GELU. Shape: (N, C, H, W) -> the same."""
        return x if self.project is None else functional.gelu(self.project(x))
