"""Attention over channels: one gate a channel, from the means of the channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_attn.attention.forms.pooled import eca_kernel
from nas_attn.attention.norm import BatchNorm
from nas_attn.attention.options import NO_CONTEXT, require_fit


def means(x: Tensor) -> Tensor:
    """Return the mean of each channel.

    The gradient of a sum is a view of one number a channel; that of `Tensor.mean` fills a map, which costs a gate a
    quarter of its time.

    Shape: (N, C, H, W) -> (N, C).
    """
    total = x.sum((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))  # half precision would overflow
    return (total / (x.shape[2] * x.shape[3])).to(x.dtype)


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


class NormedLinear(nn.Module):
    """A linear layer over vectors, dropout, and a batch norm, which has `eps` and `momentum`."""

    def __init__(
        self, channels: int, width: int, *, dropout: float = 0.0, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = BatchNorm(width, eps=eps, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C) -> (N, width)."""
        normed: Tensor = self.norm(self.dropout(self.linear(x))[:, :, None, None])
        return normed.flatten(1)


class SE(nn.Module):
    """Gate each channel by a bottleneck over the means of all channels.

    Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507. Layers start as torch has them,
    since the authors' files do not say.
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
        gate = torch.sigmoid(self.bottleneck(means(x)))
        return x * gate[:, :, None, None]


class SEBN(nn.Module):
    """Gate each channel as SE does, with dropout and a batch norm behind both layers.

    Source: the `SELayer` of a Keras tutorial on cats and dogs, after Hu et al., CVPR 2018, arXiv:1709.01507. Weights
    start as Keras has them: Glorot's uniform rule, biases at 0; the norms have Keras's eps 1e-3, and its momentum 0.99,
    which torch calls 0.01.
    Departs: the running variance is torch's, from the unbiased variance of a batch where Keras takes the biased one.
    One image in train mode goes by the running statistics; normalising it by itself would set every gate to one half.

    Args:
        reduction: Channels over the hidden width.
        dropout: Share of hidden and gate values that is dropped in training.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: 2*C*h + 3*h + 3*C weights, 2*C*h multiply-adds, h = C // reduction, and one global mean.
    Raises: SpaceError unless 1 <= reduction <= channels and 0 <= dropout <= 0.95.
    """

    def __init__(self, channels: int, *, reduction: int = 16, dropout: float = 0.5) -> None:
        super().__init__()
        require_fit("se_bn", channels, reduction=reduction, dropout=dropout)
        hidden = channels // reduction
        self.reduce = NormedLinear(channels, hidden, dropout=dropout, eps=1e-3, momentum=0.01)
        self.expand = NormedLinear(hidden, channels, dropout=dropout, eps=1e-3, momentum=0.01)
        for layer in (self.reduce.linear, self.expand.linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        gate = torch.sigmoid(self.expand(torch.relu(self.reduce(means(x)))))
        return x * gate[:, :, None, None]


class ECA(nn.Module):
    """Gate each channel by a 1-d convolution over the means of the channels beside it.

    Source: Wang et al., "ECA-Net", CVPR 2020, arXiv:1910.03151. The kernel starts as torch has it, as in their code.
    Departs: the authors' code takes the kernel size by hand, 3 by default; `kernel_size=None` follows the paper's rule.

    Args:
        kernel_size: Channels that a gate sees, odd, zeros beyond the first and the last channel; None is
            |log2(C) / 2 + 1 / 2| without its fraction, or the next number if that is even.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: k weights, C*k multiply-adds and one global mean.
    Raises: SpaceError for an even kernel size.
    """

    def __init__(self, channels: int, *, kernel_size: int | None = None) -> None:
        super().__init__()
        require_fit("eca", channels, kernel_size=kernel_size)
        size = eca_kernel(channels, NO_CONTEXT) if kernel_size is None else kernel_size
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        gate = torch.sigmoid(self.conv(means(x)[:, None]))  # (N, 1, C)
        return x * gate[:, 0, :, None, None]
