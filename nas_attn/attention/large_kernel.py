"""LKA: a gate from a large kernel, decomposed into a depthwise, a dilated depthwise and a 1x1 convolution."""

from __future__ import annotations

from math import sqrt

from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.forms.projected import LKA_KERNELS
from nas_attn.attention.options import require_fit


class LKA(nn.Module):
    """Gate every element by a large kernel, decomposed into a depthwise, a dilated depthwise and a 1x1 convolution.

    Source: Guo et al., "Visual Attention Network", Computational Visual Media 2023, arXiv:2202.09741, and the authors'
    code: all convolutions with biases, no activation of the gate. Weights are initialised as in their networks: normal,
    with variance 2 / (kernel area * output channels / groups); biases by 0.
    Departs: none. `form="gate"` is their `LKA`, `form="block"` their `Attention`, which has a 1x1 convolution and a
    GELU before it, a 1x1 convolution behind it, and adds the input; the norm before and the layer scale behind that
    belong to their network. 21 is the authors' kernel; 7, 11 and 35 are those of the separable `lska`, whose authors
    call the kernel of 21 one of 23.

    Args:
        form: `gate`, or `block` with two 1x1 convolutions, a GELU and the shortcut.
        kernel_size: Size of the whole kernel: 7, 11, 21 or 35.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: C + local^2 + dilated^2 multiply-adds per element, C times that and 3*C weights; a block adds 2*C per element
        and 2*C*C + 2*C weights.
    Raises: SpaceError for an unknown form or kernel size.
    """

    def __init__(self, channels: int, *, form: str = "gate", kernel_size: int = 21) -> None:
        super().__init__()
        require_fit("lka", channels, form=form, kernel_size=kernel_size)
        local, dilated, dilation = LKA_KERNELS[kernel_size]
        is_block = form == "block"
        self.project = nn.Conv2d(channels, channels, 1) if is_block else None
        self.kernel = nn.Sequential(
            nn.Conv2d(channels, channels, local, padding=local // 2, groups=channels),
            nn.Conv2d(channels, channels, dilated, padding=dilated // 2 * dilation, dilation=dilation, groups=channels),
            nn.Conv2d(channels, channels, 1),
        )
        self.out = nn.Conv2d(channels, channels, 1) if is_block else None
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=sqrt(2 / (layer.weight[0, 0].numel() * channels / layer.groups)))
                nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        if self.project is None or self.out is None:
            gate: Tensor = self.kernel(x)
            return x * gate
        embedded = functional.gelu(self.project(x))
        added: Tensor = self.out(embedded * self.kernel(embedded))
        return x + added
