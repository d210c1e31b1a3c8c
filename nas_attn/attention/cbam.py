"""CBAM: attention over channels, then over pixels, each from means and maxima over the other axis."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nas_attn.attention.channel import Bottleneck, hard_sigmoid, keras2_hard_sigmoid
from nas_attn.attention.fused import CHANNELS, PIXELS, pool, scale, scale_again, stack_planes
from nas_attn.attention.norm import BatchNorm
from nas_attn.attention.options import require_fit

GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": hard_sigmoid,
    "hard_sigmoid_keras2": keras2_hard_sigmoid,
}
ORDERS = {
    "channel_first": ("channel", "spatial"),
    "spatial_first": ("spatial", "channel"),
    "parallel": ("channel", "spatial"),
}


class PooledChannel(nn.Module):
    """CBAM's channel branch: the sum of one bottleneck over the means and over the maxima, without the activation."""

    over = PIXELS

    def __init__(self, channels: int, *, reduction: int) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(channels, hidden=channels // reduction)
        nn.init.zeros_(self.bottleneck.reduce.bias)
        nn.init.zeros_(self.bottleneck.expand.bias)

    def forward(self, maximum: Tensor, mean: Tensor) -> Tensor:
        """Shape: (N, C, 1, 1) twice -> the same."""
        logits: Tensor = self.bottleneck(torch.stack([mean, maximum]).flatten(2)).sum(0)
        return logits[:, :, None, None]


class PooledSpatial(nn.Module):
    """CBAM's spatial branch: a convolution over the maximum and the mean of the channels, without the activation.

    Source: Woo et al., ECCV 2018, arXiv:1807.06521, and the authors' code: order [max, mean], no bias, batch norm with
    momentum 0.01 whose weight starts at 0, so that the gate is constant at the start.
    """

    over = CHANNELS

    def __init__(self, *, kernel_size: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        self.norm: nn.Module = nn.Identity()
        if norm:
            batch_norm = BatchNorm(1, momentum=0.01)
            nn.init.zeros_(batch_norm.weight)
            self.norm = batch_norm

    def forward(self, maximum: Tensor, mean: Tensor) -> Tensor:
        """Shape: (N, 1, H, W) twice -> the same."""
        logits: Tensor = self.norm(self.conv(stack_planes(maximum, mean)))
        return logits


class CBAM(nn.Module):
    """Gate the channels, then the pixels, each by means and maxima over the other axis.

    Source: Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv:1807.06521, and the authors' code
    (layers, biases, the norm after the spatial convolution, and the initialisation).
    Departs: the paper names an ablation "parallel" without a formula: here both gates are computed from the input and
    multiply it. `spatial_norm=False` follows the paper's formula, which shows no norm. Hard
    sigmoids are not in the paper: `gate="hard_sigmoid"` is that of torch and of Keras 3, relu6(x + 3) / 6,
    `gate="hard_sigmoid_keras2"` that of tf.keras 2, 0.2 * x + 0.5 within 0 and 1, which a tutorial on CBAM ran.

    Args:
        reduction: Channels divided by the hidden width of the channel branch.
        kernel_size: Kernel of the spatial branch, odd.
        order: `channel_first` (the paper's best), `spatial_first` or `parallel`.
        branches: `both`, `channel` or `spatial`.
        gate: `sigmoid`, `hard_sigmoid` or `hard_sigmoid_keras2`.
        spatial_norm: Whether a batch norm follows the spatial convolution.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: 2*C*h + C + h + 2*k*k (+ 2) weights, 4*C*h + 2*k*k*H*W multiply-adds, h = C // reduction.
    Raises: SpaceError unless 1 <= reduction <= channels, for an even kernel size, or for an unknown word.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        kernel_size: int = 7,
        order: str = "channel_first",
        branches: str = "both",
        gate: str = "sigmoid",
        spatial_norm: bool = True,
    ) -> None:
        super().__init__()
        require_fit(
            "cbam",
            channels,
            reduction=reduction,
            kernel_size=kernel_size,
            order=order,
            branches=branches,
            gate=gate,
            spatial_norm=spatial_norm,
        )
        self.gate = gate
        self.parallel = order == "parallel"
        for name in [name for name in ORDERS[order] if branches in ("both", name)]:
            if name == "channel":
                self.channel = PooledChannel(channels, reduction=reduction)
            else:
                self.spatial = PooledSpatial(kernel_size=kernel_size, norm=spatial_norm)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        activation = GATES[self.gate]
        branches = [branch for branch in self.children() if isinstance(branch, PooledChannel | PooledSpatial)]
        if self.parallel:
            x, *pools = pool(x, *[branch.over for branch in branches])
            return scale(x, *[activation(branch(*pools[2 * k : 2 * k + 2])) for k, branch in enumerate(branches)])
        x, *pools = pool(x, branches[0].over)
        first = activation(branches[0](*pools))
        if len(branches) == 1:
            return scale(x, first)
        scaled, *pools = pool(scale(x, first), branches[1].over)
        return scale_again(scaled, activation(branches[1](*pools)), x, first)
