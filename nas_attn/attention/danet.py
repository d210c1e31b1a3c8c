"""The two attentions of DANet: between pixels, and between channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_attn.attention.options import require_fit
from nas_attn.attention.precision import wide_product


class PAM(nn.Module):
    """Add to each pixel a mean of all pixels, weighted by the similarity of their embeddings, times a learned factor.

    Source: Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019, arXiv:1809.02983, the position
    attention module, and the authors' code: no scale, and a factor gamma that starts at 0, so that the module starts as
    the identity; the projections have torch's default initialisation.
    Departs: none in the result; scores are computed in float32, where the authors' code overflows in half precision.
    Their network has a 3x3 convolution, a norm and a ReLU before and behind the module, which belong to its head.

    Args:
        reduction: Channels divided by the width of queries and keys.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: C*C + 2*C*h + 2*h + C + 1 weights, (2*C*h + C*C)*H*W + (h + C)*(H*W)^2 multiply-adds, h = C // reduction; the
        weights of all pairs of pixels are stored.
    Raises: SpaceError unless 1 <= reduction <= channels.
    """

    def __init__(self, channels: int, *, reduction: int = 8) -> None:
        super().__init__()
        require_fit("pam", channels, reduction=reduction)
        self.query = nn.Linear(channels, channels // reduction)
        self.key = nn.Linear(channels, channels // reduction)
        self.value = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        pixels = x.flatten(2).transpose(1, 2).contiguous()  # (N, H*W, C), a view where x is in channels_last
        value: Tensor = self.value(pixels)
        mean = self.weights(pixels).to(value.dtype) @ value
        return x + self.gamma * mean.transpose(1, 2).view_as(x)

    def weights(self, pixels: Tensor) -> Tensor:
        """Return the weight of every pixel for every pixel. Shape: (N, P, C) -> (N, P, P), 1 over the last axis."""
        return wide_product(self.query(pixels), self.key(pixels).transpose(1, 2)).softmax(2)


class CAM(nn.Module):
    """Add to each channel a mean of all channels, weighted by their dissimilarity, times a learned factor.

    Source: Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019, arXiv:1809.02983, the channel
    attention module, and the authors' code: the softmax is over the largest energy of a row minus each energy, so that
    unlike channels weigh most (the paper's equation has the energies themselves); a factor gamma starts at 0, so that
    the module starts as the identity.
    Departs: none in the result; the softmax cancels the largest energy, which is left out, and energies are computed in
    float32, since sums over the pixels overflow in half precision.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: 1 weight, 2*C*C*H*W multiply-adds.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_fit("cam", channels)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        maps = x.flatten(2)
        mean = self.weights(maps).to(maps.dtype) @ maps
        return x + self.gamma * mean.view_as(x)

    def weights(self, maps: Tensor) -> Tensor:
        """Return the weight of every channel for every channel. Shape: (N, C, P) -> (N, C, C), 1 over the last axis."""
        return (-wide_product(maps, maps.transpose(1, 2))).softmax(2)
