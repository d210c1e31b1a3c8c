"""Attention in groups of channels: Shuffle, SGE and EMA."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.channel import means, n_degrees
from nas_attn.attention.forms.grouped import ema_factor, sge_groups, shuffle_groups
from nas_attn.attention.gam import shuffle_channels
from nas_attn.attention.options import NO_CONTEXT, require_fit
from nas_attn.attention.plain import is_followed, is_recorded, widened


class Affine(nn.Module):
    """A weight and a bias for each element of a vector."""

    def __init__(self, size: int, *, weight: float, bias: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), weight))
        self.bias = nn.Parameter(torch.full((size,), bias))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (..., size) -> the same."""
        return torch.addcmul(self.bias, self.weight, x)


class Shuffle(nn.Module):
    """Gate half of each group's channels by their means and half by their normalised elements, then shuffle.

    Source: Zhang and Yang, "SA-Net: Shuffle Attention", ICASSP 2021, arXiv:2102.00240, and the authors' code: weights
    start at 0 and biases at 1, so that every gate starts at sigmoid(1); the channels of the two halves of the map, not
    of the groups, are interleaved.
    Departs: the authors' code has 64 groups whatever the channels, which must be 128 or more; `groups=None` uses fewer
    below 256 channels, so that a group has at least 4.

    Args:
        groups: Number of groups; twice as many must divide the channels. None is 64, or the most below that divide them
            and have 4 channels each.

    Shape: (N, C, H, W) -> the same; H and W are free, but the norm of a map of one pixel is constant.
    Cost: 3*C / groups weights, no matrix product.
    Raises: SpaceError unless 2 * groups divides the channels.
    """

    def __init__(self, channels: int, *, groups: int | None = None) -> None:
        super().__init__()
        require_fit("shuffle", channels, groups=groups)
        self.groups = shuffle_groups(channels, NO_CONTEXT) if groups is None else groups
        self.n_half = channels // 2
        width = self.n_half // self.groups
        self.channel = Affine(width, weight=0.0, bias=1.0)
        self.norm = Affine(width, weight=1.0, bias=0.0)
        self.spatial = Affine(width, weight=0.0, bias=1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        deal = shuffle_channels if is_recorded(x) else functional.channel_shuffle  # older ONNX has no such operator
        dealt = deal(x * self.gate(x), 2)
        if is_followed(x) or not x.is_contiguous(memory_format=torch.channels_last):
            return dealt
        return dealt.contiguous(memory_format=torch.channels_last)  # the shuffle keeps this format on CPUs only

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate of every element, before the shuffle. Shape: (N, C, H, W) -> the same."""
        n_images, _, height, width = x.shape
        pooled, normed = torch.unbind(x.reshape(n_images, self.groups, 2, -1, height, width), 2)
        channel_gate = torch.sigmoid(self.channel(pooled.mean((3, 4))))[..., None, None]
        spatial_gate = self._spatial_gate(normed.reshape(n_images, self.n_half, height, width))
        gate = torch.stack([channel_gate.expand_as(pooled), spatial_gate.view(normed.shape)], 2)
        return gate.view(x.shape)

    def _spatial_gate(self, x: Tensor) -> Tensor:
        """Shape: (N, C / 2, H, W) -> the same. Each channel is a group of the norm, so both affines are one."""
        weight, bias = self.norm.weight * self.spatial.weight, self.spatial(self.norm.bias)
        normed = torch.group_norm(x.contiguous(), self.n_half, weight.repeat(self.groups), bias.repeat(self.groups))
        return torch.sigmoid(normed)


class SGE(nn.Module):
    """Gate the pixels of each group of channels by their similarity to the group's mean, normalised over the map.

    Source: Li et al., "Spatial Group-wise Enhance", 2019, arXiv:1905.09646, and the authors' code: 1e-5 is added to the
    sample standard deviation; weights start at 0 and biases at 1, so that every gate starts at sigmoid(1).
    Departs: the deviation of a map of one pixel is 0; in the authors' code it is nan. They have 64 groups
    whatever the channels; `groups=None` uses fewer if those do not divide them, and below 256 channels, so that a group
    has at least 4.

    Args:
        groups: Number of groups; must divide the channels. None is 64, or the most below that divide them and have 4
            channels each.

    Shape: (N, C, H, W) -> the same; H and W are free, but on a map of one pixel the weights have no effect.
    Cost: 2 * groups weights, no matrix product.
    Raises: SpaceError unless `groups` divides the channels.
    """

    def __init__(self, channels: int, *, groups: int | None = None) -> None:
        super().__init__()
        require_fit("sge", channels, groups=groups)
        self.groups = sge_groups(channels, NO_CONTEXT) if groups is None else groups
        self.weight = nn.Parameter(torch.zeros(self.groups, 1, 1))
        self.bias = nn.Parameter(torch.ones(self.groups, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        n_images, _, height, width = x.shape
        grouped = x.reshape(n_images, self.groups, -1, height, width)
        return (grouped * self.gate(x)[:, :, None]).flatten(1, 2)

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate of every pixel in each group. Shape: (N, C, H, W) -> (N, groups, H, W)."""
        n_images, _, height, width = x.shape
        grouped = x.reshape(n_images, self.groups, -1, height, width)
        average = widened(means(x)).view(n_images, self.groups, -1, 1, 1)  # products overflow float16
        likeness = _standardised((grouped * average).sum(2)).to(x.dtype)  # (N, groups, H, W)
        return torch.sigmoid(torch.addcmul(self.bias, self.weight, likeness))


def _standardised(x: Tensor) -> Tensor:
    """Subtract each map's mean and divide by its deviation. Shape: (N, C, H, W) -> the same."""
    distance = x - means(x)[:, :, None, None]
    length = torch.linalg.vector_norm(distance, dim=(2, 3), keepdim=True)  # its gradient is finite at 0
    standardised: Tensor = distance / (length / n_degrees(x) ** 0.5 + 1e-5)
    return standardised


class EMA(nn.Module):
    """Gate each group's pixels by two branches, coordinate gates and a 3x3 convolution, which weight each other.

    Source: Ouyang et al., "Efficient Multi-Scale Attention Module with Cross-Spatial Learning", ICASSP 2023,
    arXiv:2305.13563, and the authors' code. Layers have torch's default initialisation, as there.
    Departs: the authors' code has 32 groups whatever the channels; `factor=None` uses fewer if those do not divide
    them, and below 128 channels, so that a group has at least 4: over one channel their softmax is constant. The first
    branch ends in a norm of each channel, whose mean is the norm's bias: it is read there instead of computed.

    Args:
        factor: Number of groups; must divide the channels. None is 32, or the most below that divide them and have 4
            channels each.

    Shape: (N, C, H, W) -> the same; H and W are free, but the norm of a map of one pixel is constant.
    Cost: 10*g*g + 4*g weights, g = C / factor; C*g multiply-adds per row and column, C*(9*g + 2) per pixel.
    Raises: SpaceError unless `factor` divides the channels.
    """

    def __init__(self, channels: int, *, factor: int | None = None) -> None:
        super().__init__()
        require_fit("ema", channels, factor=factor)
        self.groups = ema_factor(channels, NO_CONTEXT) if factor is None else factor
        width = channels // self.groups
        self.axes = nn.Conv2d(width, width, 1)
        self.norm = nn.GroupNorm(width, width)
        self.local = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        n_images, _, height, width = x.shape
        gate = self.gate(x)[:, :, None]
        return (x.reshape(n_images, self.groups, -1, height, width) * gate).flatten(1, 2)

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate of every pixel in each group. Shape: (N, C, H, W) -> (N, groups, H, W)."""
        n_images, _, height, width = x.shape
        folded = x.reshape(n_images * self.groups, -1, height, width)
        gated, local = self._gate_axes(folded), self.local(folded)
        gated_share = torch.softmax(self.norm.bias, 0).expand(folded.shape[0], 1, -1)  # (N * groups, 1, C / groups)
        local_share = torch.softmax(means(local), 1)[:, None]
        gate = gated_share @ local.flatten(2) + local_share @ gated.flatten(2)  # (N * groups, 1, H * W)
        return torch.sigmoid(gate).view(n_images, self.groups, height, width)

    def _gate_axes(self, x: Tensor) -> Tensor:
        """Gate rows and columns by a 1x1 convolution over their means, and normalise.

        Shape: (N * groups, C / groups, H, W) -> the same.
        """
        pooled = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2)  # (..., H + W, 1)
        rows, columns = torch.split(torch.sigmoid(self.axes(pooled)), [x.shape[2], x.shape[3]], 2)
        gated: Tensor = self.norm(x * rows * columns.transpose(2, 3))
        return gated
