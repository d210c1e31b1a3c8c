"""Attention over channels and pixels together: scSE and BAM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_attn.attention.channel import Bottleneck, NormedLinear, means
from nas_attn.attention.norm import BatchNorm
from nas_attn.attention.options import require_fit


class SCSE(nn.Module):
    """Gate the channels by SE and the pixels by a 1x1 convolution, in parallel, and merge both maps.

    Source: Roy et al., "Concurrent Spatial and Channel Squeeze & Excitation", MICCAI 2018, arXiv:1803.02579. Layers
    have torch's default initialisation, as in the authors' code.
    Departs: none with `merge="max"`, as in the authors' code; `merge="add"` is the paper's sum.

    Args:
        reduction: Channels divided by the hidden width of the channel branch.
        merge: `max` or `add`.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: 2*C*h + h + 2*C + 1 weights, 2*C*h + C*H*W multiply-adds, h = C // reduction.
    Raises: SpaceError unless 1 <= reduction <= channels, or for an unknown merge.
    """

    def __init__(self, channels: int, *, reduction: int = 2, merge: str = "max") -> None:
        super().__init__()
        require_fit("scse", channels, reduction=reduction, merge=merge)
        self.merge = merge
        self.channel = Bottleneck(channels, hidden=channels // reduction)
        self.spatial = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        channels = x * torch.sigmoid(self.channel(means(x)))[:, :, None, None]
        pixels = x * torch.sigmoid(self.spatial(x))
        return torch.maximum(channels, pixels) if self.merge == "max" else channels + pixels


class BAM(nn.Module):
    """Gate every element by a bottleneck over the channels' means and by dilated convolutions over the pixels.

    Source: Park et al., "BAM: Bottleneck Attention Module", BMVC 2018, arXiv:1807.06514, and the authors' code (layers,
    biases, norms, and initialisation: convolutions by Kaiming's rule with fan out, biases at 0).
    Departs: the authors' code multiplies both branches, as here; the paper adds them: `merge="sum"`. Their code pools
    with a square window of the map's height, which fails or omits columns on rectangular maps: here the mean is over
    the whole map.

    Args:
        reduction: Channels divided by the hidden width of both branches.
        dilation: Dilation of the two 3x3 convolutions.
        merge: `product` or `sum`.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: (C + 18*h + 1)*h multiply-adds per pixel, 2*C*h for the means, and as many weights, h = C // reduction.
    Raises: SpaceError unless 1 <= reduction <= channels, or for an unknown merge.
    """

    def __init__(self, channels: int, *, reduction: int = 16, dilation: int = 4, merge: str = "product") -> None:
        super().__init__()
        require_fit("bam", channels, reduction=reduction, dilation=dilation, merge=merge)
        self.merge = merge
        hidden = channels // reduction
        self.channel = nn.Sequential(NormedLinear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.spatial = nn.Sequential(
            *(nn.Conv2d(channels, hidden, 1), BatchNorm(hidden), nn.ReLU()),
            *(nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation), BatchNorm(hidden), nn.ReLU()),
            *(nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation), BatchNorm(hidden), nn.ReLU()),
            nn.Conv2d(hidden, 1, 1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        channels = self.channel(means(x))[:, :, None, None]
        pixels = self.spatial(x)
        gate = torch.sigmoid(channels * pixels if self.merge == "product" else channels + pixels)
        return torch.addcmul(x, x, gate)  # x * (1 + gate), which stores one map less for the backward pass
