"""GAM: attention for every element, by two branches without pooling."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from nas_attn.attention.channel import Bottleneck
from nas_attn.attention.fused import in_order, is_channels_last, scale_by_bottleneck
from nas_attn.attention.norm import BatchNorm
from nas_attn.attention.options import require_fit
from nas_attn.attention.plain import is_followed

Padding = Literal["zeros", "replicate"]


class DenseSpatial(nn.Module):
    """GAM's spatial branch: two large convolutions, C (or two pooled planes) to hidden to C, without the sigmoid.

    Source: Liu et al., 2021, arXiv:2112.05561; see `GAM` for the details.
    """

    def __init__(
        self, channels: int, *, hidden: int, kernel_size: int, groups: int, padding_mode: Padding, pooled: bool
    ) -> None:
        super().__init__()
        self.groups, self.pooled = groups, pooled
        padding = kernel_size // 2
        seen = 2 if pooled else channels
        self.conv1 = nn.Conv2d(seen, hidden, kernel_size, padding=padding, groups=groups, padding_mode=padding_mode)
        self.norm1 = BatchNorm(hidden)
        self.conv2 = nn.Conv2d(hidden, channels, kernel_size, padding=padding, groups=groups, padding_mode=padding_mode)
        self.norm2 = BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        if self.pooled:
            x = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        logits: Tensor = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return shuffle_channels(logits, self.groups) if self.groups > 1 else logits


def in_float16(x: Tensor) -> bool:
    """Return whether float16 autocast is on, whose largest number is 65,504."""
    if not isinstance(x, Tensor) or x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return False
    return torch.get_autocast_dtype(x.device.type) is torch.float16


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of `groups` groups: a1 a2 b1 b2 becomes a1 b1 a2 b2.

    Shape: (N, C, H, W) -> the same; `groups` divides C.
    """
    n_images, channels, height, width = x.shape
    dealt = x.reshape(n_images, groups, channels // groups, height, width).transpose(1, 2)
    return dealt.reshape(x.shape)


class GAM(nn.Module):
    """Gate every element by a bottleneck over its channels, then by two large convolutions, without pooling.

    Source: Liu et al., "Global Attention Mechanism", 2021, arXiv:2112.05561. No authors' code is known; the layers
    follow the widespread reimplementation dengbuqi/GAM_Pytorch.
    Departs: that code reduces by 4; the paper's parameter counts fit 16, the default here. It pads by replication,
    others by zeros, the default here. The paper's figure shows a sigmoid after the channel branch, popular code has
    none: `channel_gate`. With `groups` above 1 both convolutions are grouped and the gate's channels are shuffled just
    before the product, as in the widespread variant; the paper does not say where. The paper's
    ablation with pooling has no formula: `pooling="channels"` pools as CBAM does. Under float16 autocast it computes
    in float32: the channel branch multiplies the map by a multiple of itself, and squares overflow float16 from 256 on.

    Args:
        reduction: Channels divided by the hidden width of both branches.
        kernel_size: Kernel of both convolutions, odd.
        groups: Groups of both convolutions; must divide the channels and the hidden width.
        branches: `both`, `channel` or `spatial`.
        padding_mode: `zeros` or `replicate`.
        channel_gate: Whether a sigmoid follows the channel branch.
        pooling: `none`, or `channels`: the spatial branch sees the maximum and the mean of the channels alone.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: 2*C*h + 2*k*k*C*h / groups multiply-adds per pixel and as many weights, h = C // reduction.
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
        pooling: str = "none",
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
            pooling=pooling,
        )
        hidden = channels // reduction
        self.channel_gate = channel_gate
        self.channel = Bottleneck(channels, hidden=hidden) if branches != "spatial" else None
        self.spatial = None
        if branches != "channel":
            pooled = pooling == "channels"
            self.spatial = DenseSpatial(
                channels,
                hidden=hidden,
                kernel_size=kernel_size,
                groups=1 if pooled else groups,
                padding_mode=padding_mode,
                pooled=pooled,
            )

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        if not in_float16(x):
            return self._gated(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._gated(x.float()).to(x.dtype)

    def _gated(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        gated = in_quick_order(x)
        if self.channel is not None:
            layers = [*self.channel.reduce.parameters(), *self.channel.expand.parameters()]
            gated = scale_by_bottleneck(gated, layers, sigmoid=self.channel_gate)
        if self.spatial is not None:
            gated = gated * torch.sigmoid(in_quick_order(self.spatial(gated)))
        return gated if is_channels_last(x) else gated.contiguous()


def in_quick_order(x: Tensor) -> Tensor:
    """Return x in the memory format in which large convolutions with few channels are fastest.

    On CPUs that is channels last: forward and backward take about half the time, which saves more than two copies cost.
    """
    if is_followed(x):
        return x
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else in_order(x)
