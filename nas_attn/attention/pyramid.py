"""Pyramid split attention: convolutions of four sizes, whose outputs are weighted against each other."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from nas_attn.attention.channel import Bottleneck, means
from nas_attn.attention.entry import Context
from nas_attn.attention.forms.fusion import replaced_by
from nas_attn.attention.forms.projected import EPSA_KERNELS, epsa_groups, epsa_hidden, epsa_splits
from nas_attn.attention.options import NO_CONTEXT, require_fit


class EPSA(nn.Module):
    """Convolve by kernels of four sizes into a quarter of the channels each, weighted against each other by SE.

    Source: Zhang et al., "EPSANet: An Efficient Pyramid Squeeze Attention Block on Convolutional Neural Network", ACCV
    2022, arXiv:2105.14447, and the authors' code (`PSAModule`): convolutions without biases, one SE with biases for all
    four and a softmax over the four, the quarters of the output in the order of falling kernels; weights are normal
    with variance 2 / (kernel area * output channels), as in their networks.
    Departs: the module is the authors'. It takes the place of a 3x3 convolution, as theirs does in a bottleneck, or the
    map of any site that keeps the shape: there it has no norm, no ReLU and no shortcut of its own (`wiring =
    "residual"` adds one). Their 16 groups need 64 channels, as does their SE, whose 16-fold reduction leaves none
    below: fewer groups, and at least one hidden channel, are used there.

    Args:
        groups: Groups of the largest kernel; divides a quarter of the channels, and those of the input. None is 16, or
            the most below that do.
        spread: `rising`, with 1 group for the smallest kernel, then a quarter of `groups`, half of it (the most up to
            there that divide), and all; or `equal`, with `groups` for each, which is not in the authors' code.
        kernel_sizes: The four kernels; `1+3+5+7` is not in the paper.
        hidden: Hidden width of SE; None is one 16th of a quarter of the channels, at least 1.
        context: Names the replaced convolution, if any.

    Shape: (N, C, H, W) -> the same, where 4 divides C; in place of a convolution, its shape.
    Cost: C*C/4 * sum of k*k/g over the kernels multiply-adds per pixel, and as many weights; 2*C/4*h + C/4 + h more. On
        a CPU it takes 1 to 4 times the time of a plain 3x3 convolution.
    Raises: SpaceError unless 4 divides the channels and `groups` a quarter of them, or if the replaced convolution is
        depthwise or dilated.
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int | None = None,
        spread: str = "rising",
        kernel_sizes: str = "3+5+7+9",
        hidden: int | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__()
        require_fit(
            *("epsa", channels),
            context=context,
            groups=groups,
            spread=spread,
            kernel_sizes=kernel_sizes,
            hidden=hidden,
        )
        context = context or NO_CONTEXT
        conv, quarter = replaced_by(channels, context), channels // 4
        most = epsa_groups(channels, context) if groups is None else groups
        splits = epsa_splits(quarter, conv.in_channels, most, spread)
        self.convs = nn.ModuleList(
            nn.Conv2d(conv.in_channels, quarter, size, conv.stride, size // 2, groups=n_groups, bias=False)
            for size, n_groups in zip(EPSA_KERNELS[kernel_sizes], splits, strict=True)
        )
        self.bottleneck = Bottleneck(quarter, hidden=epsa_hidden(channels, NO_CONTEXT) if hidden is None else hidden)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                n_outputs = len(layer.weight) * layer.weight[0, 0].numel()
                nn.init.normal_(layer.weight, std=sqrt(2 / n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, in_channels, H, W) -> (N, C, H / stride, W / stride), both rounded up."""
        maps = [conv(x) for conv in self.convs]
        weights = self.weights(maps)
        return torch.cat([maps[i] * weights[:, i, :, None, None] for i in (3, 2, 1, 0)], 1)

    def weights(self, maps: list[Tensor]) -> Tensor:
        """Return the weights of the channels of four maps, which sum to 1 over the maps.

        Shape: (N, C / 4, H, W) four times -> (N, 4, C / 4).
        """
        gates = torch.sigmoid(self.bottleneck(torch.stack([means(part) for part in maps], 1)))
        return gates.softmax(1).to(gates.dtype)
