"""Attention over channels and pixels together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.catalog import require_fit
from nas_attn.attention.channel import Bottleneck
from nas_attn.attention.spatial import DenseSpatial, Padding, PooledSpatial

GATES: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "hard_sigmoid": functional.hardsigmoid}
ORDERS = {
    "channel_first": ("channel", "spatial"),
    "spatial_first": ("spatial", "channel"),
    "parallel": ("channel", "spatial"),
}


class PooledChannel(nn.Module):
    """CBAM's channel branch: one bottleneck over the means and over the maxima, added up, without the squashing."""

    def __init__(self, channels: int, *, reduction: int) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(channels, hidden=channels // reduction)
        nn.init.zeros_(self.bottleneck.reduce.bias)
        nn.init.zeros_(self.bottleneck.expand.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> (N, C, 1, 1)."""
        pooled = torch.stack([x.mean((2, 3)), functional.adaptive_max_pool2d(x, 1).flatten(1)])  # (2, N, C)
        logits: Tensor = self.bottleneck(pooled).sum(0)
        return logits[:, :, None, None]


class CBAM(nn.Module):
    """Gate the channels, then the pixels, each by means and maxima over the other.

    Source: Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv:1807.06521, and the authors' code
    (layers, biases, the norm behind the spatial convolution, and how they start).
    Departs: the paper names an ablation "parallel" and gives no formula: here both gates see the input and
    multiply it. `spatial_norm=False` follows the paper's formula, which shows no norm. `gate="hard_sigmoid"`,
    relu6(x + 3) / 6, is not in the paper.

    Args:
        reduction: Channels over the hidden width of the channel branch.
        kernel_size: Kernel of the spatial branch, odd.
        order: `channel_first` (the paper's best), `spatial_first` or `parallel`.
        branches: `both`, `channel` or `spatial`.
        gate: `sigmoid` or `hard_sigmoid`.
        spatial_norm: Whether a batch norm follows the spatial convolution. It needs more than one value a channel in
            train mode: a batch of one image with a 1x1 map is refused by torch.

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
        squash = GATES[self.gate]
        gated = x
        for branch in self.children():
            gated = gated * squash(branch(x if self.parallel else gated))
        return gated


class GAM(nn.Module):
    """Gate every element by a bottleneck over its channels, then by two large convolutions; nothing is pooled.

    Source: Liu et al., "Global Attention Mechanism", 2021, arXiv:2112.05561. No authors' code is known; the layers
    follow the widespread reimplementation dengbuqi/GAM_Pytorch.
    Departs: that code reduces by 4; the paper's parameter counts fit 16, the default here. It pads by replication,
    others by zeros, the default here. The paper's figure shows a sigmoid behind the channel branch, popular code has
    none: `channel_gate`. With `groups` above 1 both convolutions are grouped and the gate's channels are shuffled just
    before it multiplies, as the widespread variant does; the paper does not say where.

    Args:
        reduction: Channels over the hidden width of both branches.
        kernel_size: Kernel of both convolutions, odd.
        groups: Groups of both convolutions; divides the channels and the hidden width.
        branches: `both`, `channel` or `spatial`.
        padding_mode: `zeros` or `replicate`.
        channel_gate: Whether a sigmoid squashes the channel branch.

    Shape: (N, C, H, W) -> the same; H and W are free. The batch norms need more than one value a channel in train mode.
    Cost: 2*C*h + 2*k*k*C*h / groups multiply-adds a pixel and as many weights, h = C // reduction.
    Raises: SpaceError unless 1 <= reduction <= channels, for groups that do not divide, an even kernel size, or an
        unknown word.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        kernel_size: int = 7,
        groups: int = 1,
        branches: str = "both",
        padding_mode: Padding = "zeros",
        channel_gate: bool = False,
    ) -> None:
        super().__init__()
        require_fit(
            "gam",
            channels,
            reduction=reduction,
            kernel_size=kernel_size,
            groups=groups,
            branches=branches,
            padding_mode=padding_mode,
            channel_gate=channel_gate,
        )
        hidden = channels // reduction
        self.channel_gate = channel_gate
        self.channel = Bottleneck(channels, hidden=hidden) if branches != "spatial" else None
        self.spatial = None
        if branches != "channel":
            self.spatial = DenseSpatial(
                channels, hidden=hidden, kernel_size=kernel_size, groups=groups, padding_mode=padding_mode
            )

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        if self.channel is not None:
            gate = self.channel(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # by way of (N, H, W, C)
            x = x * (torch.sigmoid(gate) if self.channel_gate else gate)
        return x if self.spatial is None else x * self.spatial(x)
