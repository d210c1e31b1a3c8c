"""Attention over pixels: one gate a pixel, or one an element, from the pixel's surroundings."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Padding = Literal["zeros", "replicate"]


class PooledSpatial(nn.Module):
    """CBAM's spatial branch: a convolution over the maximum and the mean of the channels, without the squashing.

    Source: Woo et al., ECCV 2018, arXiv:1807.06521, and the authors' code: order [max, mean], no bias, batch norm with
    momentum 0.01 that starts at 0, so that the gate starts flat.
    """

    def __init__(self, *, kernel_size: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        self.norm: nn.Module = nn.Identity()
        if norm:
            batch_norm = nn.BatchNorm2d(1, momentum=0.01)
            nn.init.zeros_(batch_norm.weight)
            self.norm = batch_norm

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> (N, 1, H, W)."""
        pooled = torch.cat([x.max(1, keepdim=True).values, x.mean(1, keepdim=True)], 1)
        logits: Tensor = self.norm(self.conv(pooled))
        return logits


class DenseSpatial(nn.Module):
    """GAM's spatial branch: two large convolutions, C to hidden to C, that end in a gate for every element.

    Source: Liu et al., 2021, arXiv:2112.05561; see `GAM` for what is known of it.
    """

    def __init__(self, channels: int, *, hidden: int, kernel_size: int, groups: int, padding_mode: Padding) -> None:
        super().__init__()
        self.groups = groups
        padding = kernel_size // 2
        self.conv1 = nn.Conv2d(channels, hidden, kernel_size, padding=padding, groups=groups, padding_mode=padding_mode)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, channels, kernel_size, padding=padding, groups=groups, padding_mode=padding_mode)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        gate = torch.sigmoid(self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))
        return shuffle_channels(gate, self.groups) if self.groups > 1 else gate


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Deal the channels of `groups` groups out in turn: a1 a2 b1 b2 becomes a1 b1 a2 b2.

    Shape: (N, C, H, W) -> the same; `groups` divides C.
    """
    n_images, channels, height, width = x.shape
    dealt = x.reshape(n_images, groups, channels // groups, height, width).transpose(1, 2)
    return dealt.reshape(x.shape)
