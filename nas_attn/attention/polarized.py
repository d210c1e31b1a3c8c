"""Polarized self-attention: a gate per channel and a gate per pixel, each from a softmax over the pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_attn.attention.channel import means
from nas_attn.attention.forms.projected import polarized_hidden
from nas_attn.attention.fused import scale_by_sum
from nas_attn.attention.options import require_fit


class PolarizedChannel(nn.Module):
    """The gate of each channel, by `expand` from a mean of the pixels, weighted by the softmax of one score each."""

    def __init__(self, channels: int, *, width: int, expand: nn.Module) -> None:
        super().__init__()
        self.score = nn.Conv2d(channels, 1, 1, bias=False)
        self.value = nn.Linear(channels, width, bias=False)
        self.expand = expand
        for layer in (self.score, self.value):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> (N, C)."""
        weights = self.score(x).flatten(2).softmax(2)  # (N, 1, H * W)
        pooled = weights @ x.flatten(2).transpose(1, 2)  # (N, 1, C): a projected mean is the mean of projections
        return torch.sigmoid(self.expand(self.value(pooled.flatten(1))))


class PolarizedPixel(nn.Module):
    """The gate of each pixel, from the similarity of its key and the query of the mean of all pixels."""

    def __init__(self, channels: int, *, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, width, bias=False)
        self.key = nn.Conv2d(channels, width, 1, bias=False)
        for layer in (self.query, self.key):
            nn.init.kaiming_normal_(layer.weight)

    def similarity(self, x: Tensor) -> Tensor:
        """Return the sigmoid of the softmax, over the pixels, of query . key.

        The query is multiplied by the key's weights first: one product per element instead of one per element and
        embedded channel.

        Shape: (N, C, H, W) -> (N, 1, H, W).
        """
        direction = self.query(means(x)) @ self.key.weight.flatten(1)  # (N, C)
        scores = direction[:, None] @ x.flatten(2)  # (N, 1, H * W)
        return torch.sigmoid(scores.softmax(2)).view_as(x[:, :1])

    def expectation(self, x: Tensor) -> Tensor:
        """Return the sigmoid of query . key, each channel of the keys after a softmax over the pixels.

        Shape: (N, C, H, W) -> (N, 1, H, W).
        """
        keys = self.key(x).flatten(2).softmax(2)  # (N, width, H * W)
        return torch.sigmoid(self.query(means(x))[:, None] @ keys).view_as(x[:, :1])


class Polarized(nn.Module):
    """Gate the channels by one polarized self-attention and the pixels by another, in parallel or in sequence.

    Source: Liu et al., "Polarized Self-Attention: Towards High-quality Pixel-wise Regression", 2021, arXiv:2107.00782,
    and the authors' code, `PSA_p` and `PSA_s`: in parallel, one layer expands the channel gate, and the softmax is over
    the similarities of the pixels; in sequence, a bottleneck with a layer norm expands it, and the softmax is over the
    keys. The four projections are initialised by Kaiming's normal rule, the expansion by torch's default.
    Departs: none in the result, which is computed with fewer products. In sequence the bottleneck has at least 4 hidden
    channels: the authors' C // 8 is less below 32 channels, where the norm of 1 or 2 is constant or a sign. Another
    `reduction` than 2 is not in their code.

    Args:
        layout: `parallel` (the sum of both gated maps) or `sequential` (first the channels).
        reduction: Channels divided by the width of the embeddings.

    Shape: (N, C, H, W) -> the same; H and W are free, but on a map of one pixel the softmax is constant.
    Cost: parallel: 4*C*w + C weights, 3*C*H*W + 4*C*w multiply-adds; sequential: 3*C*w + w*h + C*h + 2*C + 3*h weights,
        (C*w + 2*C + w)*H*W + 2*C*w + w*h + C*h multiply-adds; w = C // reduction, h = max(4, w // 4).
    Raises: SpaceError unless 1 <= reduction <= channels, or for an unknown layout.
    """

    def __init__(self, channels: int, *, layout: str = "parallel", reduction: int = 2) -> None:
        super().__init__()
        require_fit("polarized", channels, layout=layout, reduction=reduction)
        width = channels // reduction
        hidden = polarized_hidden(width)
        self.layout = layout
        expand: nn.Module = nn.Linear(width, channels, bias=False)
        if layout == "sequential":
            layers = (nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, channels))
            expand = nn.Sequential(*layers)
        self.channel = PolarizedChannel(channels, width=width, expand=expand)
        self.pixel = PolarizedPixel(channels, width=width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        channels = self.channel(x)[:, :, None, None]
        if self.layout == "parallel":
            return scale_by_sum(x, channels, self.pixel.similarity(x))
        gated: Tensor = x * channels
        pixels: Tensor = self.pixel.expectation(gated)
        return gated * pixels
