"""Double attention: descriptors of the whole map, gathered by attention and distributed to the pixels by attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.forms.projected import double_descriptors
from nas_attn.attention.options import NO_CONTEXT, require_fit


class DoubleAttention(nn.Module):
    """Gather a few descriptors of the map, each a weighted mean of all pixels, and add to each pixel a mixture of them.

    Source: Chen et al., "A^2-Nets: Double Attention Networks", NeurIPS 2018, arXiv:1810.11579, equations 4 to 6, with
    the 1x1 convolution and the sum that make a block of it. The authors published no code.
    Departs: none in the result; the products are computed in an order that needs no embedded map. The paper states no
    initialisation: the last layer starts at 0, so that the module starts as the identity; all others, and that one
    without `residual`, have torch's default.

    Args:
        reduction: Channels divided by the width of a descriptor.
        descriptors: Number of descriptors; None is a quarter of the channels.
        softmax: Axis over which a pixel's weights for the descriptors are normalised: the `descriptors`, as in the
            paper, or the `pixels`, as in a widely copied port.
        residual: Whether the input is added; without it, the module is the operation of the paper alone.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: 2*C*h + 2*C*n + h + 2*n + C weights, 4*C*n multiply-adds per pixel and 2*C*h*n per image, h = C // reduction,
        n descriptors.
    Raises: SpaceError unless 1 <= reduction <= channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 4,
        descriptors: int | None = None,
        softmax: str = "descriptors",
        residual: bool = True,
    ) -> None:
        super().__init__()
        require_fit(
            *("double_attention", channels),
            reduction=reduction,
            descriptors=descriptors,
            softmax=softmax,
            residual=residual,
        )
        hidden = channels // reduction
        n = double_descriptors(channels, NO_CONTEXT) if descriptors is None else descriptors
        self.residual = residual
        self.axis = {"descriptors": 1, "pixels": 2}[softmax]
        self.embed = nn.Linear(channels, hidden)
        self.gather = nn.Conv2d(channels, n, 1)
        self.distribute = nn.Conv2d(channels, n, 1)
        self.out = nn.Linear(hidden, channels)
        if residual:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        gathering, distributing = self.weights(x)
        means = gathering @ x.flatten(2).transpose(1, 2)  # (N, n, C): embedding the means is embedding the pixels
        words = functional.linear(self.embed(means), self.out.weight)  # (N, n, C)
        added = torch.baddbmm(self.out.bias.to(words.dtype), distributing.transpose(1, 2), words)  # (N, H * W, C)
        added = added.transpose(1, 2).view(x.shape)
        return x + added if self.residual else added

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight of each pixel in each descriptor, and of each descriptor at each pixel.

        Shape: (N, C, H, W) -> (N, n, H * W), twice.
        """
        gathering = self.gather(x).flatten(2).softmax(2)
        return gathering, self.distribute(x).flatten(2).softmax(self.axis)
