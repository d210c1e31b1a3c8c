"""Attention over channels: one gate per channel, from the means of the channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.forms.pooled import eca_kernel
from nas_attn.attention.norm import BatchNorm
from nas_attn.attention.options import NO_CONTEXT, require_fit


def means(x: Tensor) -> Tensor:
    """Return the mean of each channel.

    The gradient of a sum is a view of one number per channel; that of `Tensor.mean` fills a map, which would take a
    quarter of a gate's time.

    Shape: (N, C, H, W) -> (N, C).
    """
    total = x.sum((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))  # half precision would overflow
    return (total / (x.shape[2] * x.shape[3])).to(x.dtype)


def hard_sigmoid(x: Tensor) -> Tensor:
    """Return relu6(x + 3) / 6, as torch's function of that name, which has no second derivative."""
    return functional.relu6(x + 3) / 6


def keras2_hard_sigmoid(x: Tensor) -> Tensor:
    """Return 0.2 * x + 0.5 within 0 and 1, the hard sigmoid of tf.keras 2."""
    return (0.2 * x + 0.5).clamp(0, 1)


def n_degrees(x: Tensor) -> int:
    """Return the number of pixels minus 1, at least 1, by arithmetic alone, which a trace can follow."""
    n = x.shape[2] * x.shape[3] - 1
    return n + 1 // (n + 1)


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
    """A linear layer over vectors, dropout, and a batch norm with `eps` and `momentum`."""

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

    Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507. Layers have torch's default
    initialisation, since the authors' files do not state one.
    Departs: none with `bias=True`, as in the authors' released networks. Their text drops the biases: `bias=False`.
    `min_hidden` is not in the paper: other networks that contain SE have at least 8 hidden channels. `layers=0` is a
    structure that a tutorial on the paper calls wrong, for study: nothing is learned, and the means are the gate. (Its
    other one, a gate from the block's input, is `se_parallel`.)

    Args:
        reduction: Channels divided by the hidden width.
        bias: Whether the two layers have biases.
        min_hidden: Minimum of the hidden width.
        layers: 2, or 0 for y = x * mean_hw(x).

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: 2*C*h weights and multiply-adds, h = max(min_hidden, C // reduction), and one global mean.
    Raises: SpaceError unless 1 <= reduction <= channels.
    """

    def __init__(
        self, channels: int, *, reduction: int = 16, bias: bool = True, min_hidden: int = 1, layers: int = 2
    ) -> None:
        super().__init__()
        require_fit("se", channels, reduction=reduction, bias=bias, min_hidden=min_hidden, layers=layers)
        self.bottleneck = None
        if layers:
            self.bottleneck = Bottleneck(channels, hidden=max(min_hidden, channels // reduction), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        return x * self.gate(x)[:, :, None, None]

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate of each channel. Shape: (N, C, H, W) -> (N, C)."""
        return means(x) if self.bottleneck is None else torch.sigmoid(self.bottleneck(means(x)))


class SEBN(nn.Module):
    """Gate each channel as SE does, with dropout and a batch norm after both layers.

    Source: the `SELayer` of a Keras tutorial on cats and dogs, after Hu et al., CVPR 2018, arXiv:1709.01507. Weights
    have Keras's initialisation: Glorot's uniform rule, biases at 0; the norms have Keras's eps 1e-3 and its momentum
    0.99, which is 0.01 in torch.
    Departs: the running variance is torch's, from the unbiased variance of a batch; Keras uses the biased one. In train
    mode a single image is normalised by the running statistics; its own would set every gate to one half.

    Args:
        reduction: Channels divided by the hidden width.
        dropout: Fraction of hidden and gate values that is dropped in training.

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
    """Gate each channel by a 1-d convolution over the means of its neighbouring channels.

    Source: Wang et al., "ECA-Net", CVPR 2020, arXiv:1910.03151. The kernel has torch's default initialisation, as in
    their code.
    Departs: in the authors' code the kernel size is an argument, 3 by default; `kernel_size=None` follows the paper's
    rule.

    Args:
        kernel_size: Channels in the input of a gate, odd, padded with zeros; None is |log2(C) / 2 + 1 / 2| rounded
            down, or the next number if that is even.

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
