"""Attention along single axes of the map: triplet and coordinate attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.fused import CHANNELS, COLUMNS, ROWS, pool, scale, scale_by_sum, stack_planes, sum_over
from nas_attn.attention.norm import BatchNorm
from nas_attn.attention.options import require_fit


class PlaneGate(nn.Module):
    """Gate a plane by a convolution over two pooled planes, maximum and mean, followed by a norm and a sigmoid."""

    def __init__(self, *, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = BatchNorm(1, momentum=0.01)

    def forward(self, maximum: Tensor, mean: Tensor) -> Tensor:
        """Shape: (N, 1, A, B) twice -> the same."""
        return torch.sigmoid(self.norm(self.conv(stack_planes(maximum, mean))))


class Triplet(nn.Module):
    """Gate the planes (C, W), (H, C) and (H, W), each by a convolution over its maxima and means, and take the mean.

    Source: Misra et al., "Rotate to Attend: Convolutional Triplet Attention Module", WACV 2021, arXiv:2010.03045, and
    the authors' code: order [max, mean], no bias, batch norm with momentum 0.01.
    Departs: none in the result. The authors permute the map, gate it and permute it back; here the gates are permuted.

    Args:
        kernel_size: Kernel of the convolutions, odd.
        spatial: Whether to gate the plane (H, W) too.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: 3*(2*k*k + 2) weights, 2*k*k*(C*W + H*C + H*W) multiply-adds; stores x for the backward pass.
    Raises: SpaceError for an even kernel size.
    """

    def __init__(self, channels: int, *, kernel_size: int = 7, spatial: bool = True) -> None:
        super().__init__()
        require_fit("triplet", channels, kernel_size=kernel_size, spatial=spatial)
        self.over_rows = PlaneGate(kernel_size=kernel_size)
        self.over_columns = PlaneGate(kernel_size=kernel_size)
        self.over_channels = PlaneGate(kernel_size=kernel_size) if spatial else None

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        over = (ROWS, COLUMNS) if self.over_channels is None else (ROWS, COLUMNS, CHANNELS)
        x, *pooled = pool(x, *over)
        by_rows = self.over_rows(*[plane.transpose(1, 2) for plane in pooled[:2]])  # (N, 1, C, W)
        by_columns = self.over_columns(*[plane.transpose(1, 3) for plane in pooled[2:4]])  # (N, 1, H, C)
        gates = [by_rows.transpose(1, 2), by_columns.transpose(1, 3)]
        if self.over_channels is not None:
            gates.append(self.over_channels(*pooled[4:]))
        return scale_by_sum(x, *[gate / len(gates) for gate in gates])


class Coord(nn.Module):
    """Gate rows and columns by one bottleneck over their means.

    Source: Hou et al., "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021, arXiv:2103.02907, and
    the authors' code: convolutions with biases, h-swish.
    Departs: none. Convolutions have torch's default initialisation, as in the authors' module.

    Args:
        reduction: Channels divided by the hidden width.
        min_hidden: Minimum of the hidden width.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: 3*C*m + 3*m + 2*C weights, 2*C*m*(H + W) multiply-adds, m = max(min_hidden, C // reduction); stores x for the
        backward pass.
    Raises: SpaceError for options out of range.
    """

    def __init__(self, channels: int, *, reduction: int = 32, min_hidden: int = 8) -> None:
        super().__init__()
        require_fit("coord", channels, reduction=reduction, min_hidden=min_hidden)
        hidden = max(min_hidden, channels // reduction)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.norm = BatchNorm(hidden)
        self.expand_rows = nn.Conv2d(hidden, channels, 1)
        self.expand_columns = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        height, width = x.shape[2:]
        rows = sum_over(x, COLUMNS) / width  # (N, C, H, 1)
        columns = (sum_over(x, ROWS) / height).transpose(2, 3)  # (N, C, W, 1)
        hidden = functional.hardswish(self.norm(self.reduce(torch.cat([rows, columns], 2))))
        by_row = torch.sigmoid(self.expand_rows(hidden[:, :, :height]))
        by_column = torch.sigmoid(self.expand_columns(hidden[:, :, height:])).transpose(2, 3)
        return scale(x, by_row, by_column)
