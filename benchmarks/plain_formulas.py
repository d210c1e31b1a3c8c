"""Attention modules by their published formulas, operation by operation: rivals of benchmarks/attention_speed.py.

Their parameters are in the order of ours, so that both can hold the same weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import ops


class PlainPlane(nn.Module):
    """The gate of a plane: a convolution over the maximum and the mean of the channels, a norm and a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated x."""
        pooled = torch.cat([torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)], 1)
        return x * torch.sigmoid(self.norm(self.conv(pooled)))


class PlainCBAM(nn.Module):
    """CBAM: both poolings by windows of the map's size, two products."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(channels, channels // 16), nn.ReLU(), nn.Linear(channels // 16, channels))
        self.plane = PlainPlane()

    def forward(self, x: Tensor) -> Tensor:
        """Return x after both gates."""
        pools = (functional.avg_pool2d, functional.max_pool2d)
        logits = sum(self.mlp(pool(x, x.shape[2:], stride=x.shape[2:]).flatten(1)) for pool in pools)
        return self.plane(x * torch.sigmoid(logits).unsqueeze(2).unsqueeze(3).expand_as(x))


class PlainGAM(nn.Module):
    """GAM: the bottleneck over a permuted and flattened map, two convolutions, two products."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 16
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, hidden, 7, padding=3),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 7, padding=3),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return x after both gates."""
        n_images, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(n_images, -1, channels)
        x = x * self.mlp(pixels).view(n_images, height, width, channels).permute(0, 3, 1, 2)
        return x * self.convolutions(x).sigmoid()


class PlainTriplet(nn.Module):
    """Triplet attention: the map turned by contiguous copies, gated, and turned back, twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.planes = nn.ModuleList([PlainPlane(), PlainPlane(), PlainPlane()])

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean of three gated maps."""
        by_rows = self.planes[0](x.permute(0, 2, 1, 3).contiguous()).permute(0, 2, 1, 3).contiguous()
        by_columns = self.planes[1](x.permute(0, 3, 2, 1).contiguous()).permute(0, 3, 2, 1).contiguous()
        return 1 / 3 * (self.planes[2](x) + by_rows + by_columns)


class PlainGCT(nn.Module):
    """GCT: the norm by a map of squares."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated x."""
        size = (x.pow(2).sum((2, 3), keepdim=True) + 1e-5).pow(0.5) * self.alpha
        norm = self.gamma / (size.pow(2).mean(1, keepdim=True) + 1e-5).pow(0.5)
        return x * (1.0 + torch.tanh(size * norm + self.beta))


class PlainDeform(nn.Module):
    """Torchvision's deformable convolution with the convolution that makes its offsets."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.deform = ops.DeformConv2d(channels, channels, 3, padding=1)
        self.offset = nn.Conv2d(channels, 18, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved map."""
        return self.deform(x, self.offset(x))


class PlainDoubleAttention(nn.Module):
    """Double attention: the embedded map is gathered into descriptors, distributed, expanded and added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // 4
        self.embed, self.gather, self.distribute = (nn.Conv2d(channels, width, 1) for _ in range(3))
        self.out = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of x and what is distributed."""
        weights = self.gather(x).flatten(2).softmax(2)
        words = self.embed(x).flatten(2) @ weights.transpose(1, 2)
        shares = self.distribute(x).flatten(2).softmax(1)
        return x + self.out((words @ shares).unflatten(2, x.shape[2:]))


class PlainESE(nn.Module):
    """Effective SE: one 1x1 convolution over the pooled map, relu6(x + 3) / 6, a product."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated x."""
        return x * (functional.relu6(self.layer(functional.adaptive_avg_pool2d(x, 1)) + 3) / 6)


class PlainPolarized(nn.Module):
    """Polarised self-attention in parallel: both branches embed the whole map, and both gated maps are added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // 2
        self.score = nn.Conv2d(channels, 1, 1, bias=False)
        self.value = nn.Conv2d(channels, width, 1, bias=False)
        self.expand = nn.Conv2d(width, channels, 1, bias=False)
        self.query = nn.Conv2d(channels, width, 1, bias=False)
        self.key = nn.Conv2d(channels, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of x gated by channels and by pixels."""
        pooled = self.value(x).flatten(2) @ self.score(x).flatten(2).softmax(2).transpose(1, 2)
        by_channels = x * torch.sigmoid(self.expand(pooled.unsqueeze(3)))
        query = self.query(x).mean((2, 3)).unsqueeze(1)
        similarity = (query @ self.key(x).flatten(2)).softmax(2)
        return by_channels + x * torch.sigmoid(similarity).unflatten(2, x.shape[2:])


class PlainEPSA(nn.Module):
    """EPSA: four convolutions, one SE for all, a softmax over the four, a stack of the maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        quarter = channels // 4
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, quarter, size, padding=size // 2, groups=groups, bias=False)
            for size, groups in ((3, 1), (5, 4), (7, 8), (9, 16))
        )
        self.reduce, self.expand = nn.Conv2d(quarter, quarter // 16, 1), nn.Conv2d(quarter // 16, quarter, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the four weighted maps side by side, those of the largest kernel first."""
        maps = [conv(x) for conv in reversed(self.convs)]  # type: ignore[call-overload]  # a ModuleList can be reversed
        pooled = [functional.adaptive_avg_pool2d(part, 1) for part in maps]
        gates = [torch.sigmoid(self.expand(functional.relu(self.reduce(pool)))) for pool in pooled]
        return (torch.stack(maps, 1) * torch.stack(gates, 1).softmax(1)).flatten(1, 2)


class PlainNAM(nn.Module):
    """NAM's channel branch: a norm, permuted twice to weight its channels by their share of the scales."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated x."""
        scales = self.norm.weight.detach().abs()
        weighted = (self.norm(x).permute(0, 2, 3, 1) * (scales / scales.sum())).permute(0, 3, 1, 2).contiguous()
        return torch.sigmoid(weighted) * x


class PlainLKA(nn.Module):
    """The first half of a block of the Visual Attention Network: norm, 1x1, GELU, large kernel, 1x1, layer scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 0.01))
        self.norm = nn.BatchNorm2d(channels)
        self.project = nn.Conv2d(channels, channels, 1)
        self.local = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.dilated = nn.Conv2d(channels, channels, 7, padding=9, dilation=3, groups=channels)
        self.mixed = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x after the block."""
        normed = self.norm(x)
        embedded = functional.gelu(self.project(normed))
        gated = embedded * self.mixed(self.dilated(self.local(embedded)))
        return x + self.scale.unsqueeze(-1).unsqueeze(-1) * (normed + self.out(gated))
