"""Attention over channels: one gate a channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_attn.attention.options import require_fit


class Bottleneck(nn.Module):
    """Two linear layers over the last axis with a ReLU between, C to `hidden` to C."""

    def __init__(self, channels: int, *, hidden: int, bias: bool = True) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, hidden, bias=bias)
        self.expand = nn.Linear(hidden, channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (..., C) -> the same."""
        expanded: Tensor = self.expand(torch.relu(self.reduce(x)))
        return expanded


class SE(nn.Module):
    """Gate each channel by a bottleneck over the means of all channels.

    Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507.
    Departs: none with `bias=True`, as the authors released their networks. Their text drops the biases: `bias=False`.
    `min_hidden` is not in the paper: other networks that contain SE keep 8 hidden channels or more.

    Args:
        reduction: Channels over the hidden width.
        bias: Whether the two layers have biases.
        min_hidden: Floor of the hidden width.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: 2*C*h weights and multiply-adds, h = max(min_hidden, C // reduction), and one global mean.
    Raises: SpaceError unless 1 <= reduction <= channels.
    """

    def __init__(self, channels: int, *, reduction: int = 16, bias: bool = True, min_hidden: int = 1) -> None:
        super().__init__()
        require_fit("se", channels, reduction=reduction, bias=bias, min_hidden=min_hidden)
        self.bottleneck = Bottleneck(channels, hidden=max(min_hidden, channels // reduction), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        gate = torch.sigmoid(self.bottleneck(x.mean((2, 3))))
        return x * gate[:, :, None, None]
