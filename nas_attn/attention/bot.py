"""BoTNet's self-attention between all pixels of a map of fixed size, with relative positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_attn.attention.entry import Context
from nas_attn.attention.forms.fusion import replaced_by
from nas_attn.attention.options import NO_CONTEXT, require_fit
from nas_attn.attention.plain import is_channels_last, is_recorded
from nas_attn.attention.precision import wide_product
from nas_attn.errors import SpaceError


class BoT(nn.Module):
    """Replace each pixel by a mean of all pixels in several heads, weighted by content and by relative position.

    Source: Srinivas et al., "Bottleneck Transformers for Visual Recognition", CVPR 2021, arXiv:2101.11605, and the
    authors' published layer: no biases and no last projection; the query is divided by sqrt(d) before it meets keys and
    positions; behind a strided layer 2x2 average pooling. Projections start from N(0, 0.01).
    Departs: positions start from N(0, 1 / d), as the authors' code intends; it passes the deviation as the mean. Scores
    are computed in float32, since half precision overflows. The layer replaces a 3x3 convolution, as published, or
    takes the map of any site that keeps the shape: there it has no norm, no ReLU and no shortcut of its own
    (`wiring = "residual"` adds one). The pooling is as wide as the stride.

    Args:
        heads: Number of heads, each over d = C / heads channels.
        context: The height and the width of the map, which must be known, and the replaced convolution, if any.

    Shape: (N, C, H, W) of the context's size -> the same; in place of a convolution, its shape.
    Cost: 3*C*C + (2*H + 2*W - 2)*d weights, 3*C*C*H*W + C*H*W*(2*H*W + H + W) multiply-adds; the weights of all pairs
        of pixels are stored for each head.
    Raises: SpaceError unless the heads divide the channels and the size of the map is known; a pass over a map of
        another size raises it too.
    """

    def __init__(self, channels: int, *, heads: int = 4, context: Context | None = None) -> None:
        super().__init__()
        require_fit("bot", channels, context=context, heads=heads)
        context = context or NO_CONTEXT
        assert context.height is not None, "a context without a size is refused"
        assert context.width is not None, "a context without a size is refused"
        conv = replaced_by(channels, context)
        self.heads, self.size = heads, (context.height, context.width)
        width = channels // heads
        self.query = nn.Linear(conv.in_channels, channels, bias=False)
        self.key = nn.Linear(conv.in_channels, channels, bias=False)
        self.value = nn.Linear(conv.in_channels, channels, bias=False)
        self.columns = nn.Parameter(torch.empty(2 * context.width - 1, width))
        self.rows = nn.Parameter(torch.empty(2 * context.height - 1, width))
        self.pool = nn.AvgPool2d(conv.stride, ceil_mode=True) if conv.stride > 1 else nn.Identity()
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=0.01)
        for table in (self.columns, self.rows):
            nn.init.normal_(table, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, in_channels, H, W) -> (N, C, H / stride, W / stride), both rounded up."""
        if not is_recorded(x) and tuple(x.shape[2:]) != self.size:
            raise SpaceError(
                f"Attention 'bot' needs maps of {self.size[0]}x{self.size[1]}, for which its positions were built, but "
                f"got {x.shape[2]}x{x.shape[3]}: build the network for images of this size."
            )
        pixels = x.flatten(2).transpose(1, 2).contiguous()  # (N, H*W, in_channels)
        value = self._split(self.value(pixels))
        mean = self.weights(pixels).to(value.dtype) @ value  # (N, heads, H*W, d)
        joined = mean.transpose(1, 2).flatten(2)  # (N, H*W, C)
        y = joined.view(-1, *self.size, joined.shape[2]).permute(0, 3, 1, 2)
        pooled: Tensor = self.pool(y if is_channels_last(x) else y.contiguous())
        return pooled

    def weights(self, pixels: Tensor) -> Tensor:
        """Return the weight of every pixel for every pixel, in each head.

        Shape: (N, H*W, in_channels) -> (N, heads, H*W, H*W), which sums to 1 over the last axis.
        """
        query, key = self._split(self.query(pixels)), self._split(self.key(pixels))
        query = query * self.columns.shape[1] ** -0.5
        placed = query.view(query.shape[0], self.heads, *self.size, -1)  # (N, heads, H, W, d)
        rows = torch.einsum("nghwd,hid->nghwi", placed, distances(self.rows, self.size[0]))
        columns = torch.einsum("nghwd,wjd->nghwj", placed, distances(self.columns, self.size[1]))
        position = (rows.unsqueeze(5) + columns.unsqueeze(4)).flatten(4).flatten(2, 3)
        return (wide_product(query, key.transpose(2, 3)) + position).softmax(3)

    def _split(self, pixels: Tensor) -> Tensor:
        """Shape: (N, P, C) -> (N, heads, P, d)."""
        return pixels.view(pixels.shape[0], pixels.shape[1], self.heads, -1).transpose(1, 2)


def distances(table: Tensor, size: int) -> Tensor:
    """Return the embedding of the way from each position to each position, along one axis.

    Args:
        table: Of the distances from 1 - size to size - 1.

    Shape: (2 * size - 1, d) -> (size, size, d).
    """
    return torch.stack([table[size - 1 - start : 2 * size - 1 - start] for start in range(size)])
