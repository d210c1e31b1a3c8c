"""Attention at two scales, every pixel and the whole map, as a gate and as a merge of two maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_attn.attention.channel import Bottleneck, means
from nas_attn.attention.norm import BatchNorm
from nas_attn.attention.options import require_fit


class PixelBottleneck(nn.Module):
    """Two 1x1 convolutions with a ReLU between, C to `hidden` to C, each followed by a batch norm."""

    def __init__(self, channels: int, *, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.norm1 = BatchNorm(hidden)
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.norm2 = BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        expanded: Tensor = self.norm2(self.expand(torch.relu_(self.norm1(self.reduce(x)))))
        return expanded


class TwoScaleGate(nn.Module):
    """MS-CAM's gate: the sigmoid of a bottleneck at every pixel plus one over the channels' means."""

    def __init__(self, channels: int, *, reduction: int) -> None:
        super().__init__()
        self.local = PixelBottleneck(channels, hidden=channels // reduction)
        self.pooled = PixelBottleneck(channels, hidden=channels // reduction)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same, within (0, 1)."""
        logits: Tensor = self.local(x)
        return logits.add_(
            self.pooled(x.mean((2, 3), keepdim=True))
        ).sigmoid_()  # the norm's backward pass does not need its output


def mix(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Return a * share + b * (1 - share), in the wider type of `a` and `b`."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    return torch.lerp(b.to(dtype), a.to(dtype), share.to(dtype))


class MSCAM(nn.Module):
    """Gate every element by a bottleneck at its pixel plus one over the channels' means.

    Source: Dai et al., "Attentional Feature Fusion", WACV 2021, arXiv:2009.14082, and the authors' code.
    Departs: none in the result; layers have torch's default initialisation (the authors' networks initialise every
    convolution by He's rule).

    Args:
        reduction: Channels divided by the hidden width of both bottlenecks.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: 4*C*h + 6*h + 6*C weights, (H*W + 1)*2*C*h multiply-adds, h = C // reduction, and one global mean.
    Raises: SpaceError unless 1 <= reduction <= channels.
    """

    def __init__(self, channels: int, *, reduction: int = 4) -> None:
        super().__init__()
        require_fit("ms_cam", channels, reduction=reduction)
        self.gate = TwoScaleGate(channels, reduction=reduction)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        gate: Tensor = self.gate(x)
        return x * gate


class AFF(nn.Module):
    """Add two maps, weighted against each other by MS-CAM's gate over their sum.

    Source: Dai et al., "Attentional Feature Fusion", WACV 2021, arXiv:2009.14082, and the authors' code, which has the
    factor 2: with a gate of 1/2 it is the plain sum.
    Departs: none in the result; initialised as `MSCAM`.

    Args:
        reduction: Channels divided by the hidden width of both bottlenecks.

    Shape: (N, C, H, W) twice, branch and shortcut -> the same; H and W are free.
    Cost: that of `MSCAM`.
    Raises: SpaceError unless 1 <= reduction <= channels.
    """

    def __init__(self, channels: int, *, reduction: int = 4) -> None:
        super().__init__()
        require_fit("aff", channels, reduction=reduction)
        self.gate = TwoScaleGate(channels, reduction=reduction)

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """Shape: (N, C, H, W) twice -> the same."""
        return mix(branch, shortcut, self.gate(branch + shortcut)).mul_(2)


class IAFF(nn.Module):
    """Mix two maps by a gate over a first mixture of them, which has a gate of its own.

    Source: Dai et al., "Attentional Feature Fusion", WACV 2021, arXiv:2009.14082, and the authors' MXNet code.
    Departs: from the PyTorch port in the same repository, which uses the first gate's global bottleneck twice, so that
    the second's gets no gradient. Initialised as `MSCAM`.

    Args:
        reduction: Channels divided by the hidden width of all four bottlenecks.

    Shape: (N, C, H, W) twice, branch and shortcut -> the same; H and W are free.
    Cost: twice that of `MSCAM`.
    Raises: SpaceError unless 1 <= reduction <= channels.
    """

    def __init__(self, channels: int, *, reduction: int = 4) -> None:
        super().__init__()
        require_fit("iaff", channels, reduction=reduction)
        self.gate1 = TwoScaleGate(channels, reduction=reduction)
        self.gate2 = TwoScaleGate(channels, reduction=reduction)

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """Shape: (N, C, H, W) twice -> the same."""
        first = mix(branch, shortcut, self.gate1(branch + shortcut))
        return mix(branch, shortcut, self.gate2(first))


class SEParallel(nn.Module):
    """Gate the channels of a block's branch by a bottleneck over the means of the block's input, and add both.

    SE in parallel with the block's convolutions instead of behind them: a structure for study.

    Source: a tutorial on Hu et al., CVPR 2018, arXiv:1709.01507, which calls it wrong: the block's input says little of
    the channels of its output.
    Departs: where a block has a projection in its shortcut, its output is the input that is meant.

    Args:
        reduction: Channels divided by the hidden width.

    Shape: (N, C, H, W) twice, branch and shortcut -> the same; H and W are free.
    Cost: 2*C*h + h + C weights, 2*C*h multiply-adds, h = C // reduction, and one global mean.
    Raises: SpaceError unless 1 <= reduction <= channels.
    """

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        require_fit("se_parallel", channels, reduction=reduction)
        self.bottleneck = Bottleneck(channels, hidden=channels // reduction)

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """Shape: (N, C, H, W) twice -> the same."""
        return shortcut + branch * self.gate(shortcut)[:, :, None, None]

    def gate(self, shortcut: Tensor) -> Tensor:
        """Return the gate of each channel of the branch. Shape: (N, C, H, W) -> (N, C)."""
        return torch.sigmoid(self.bottleneck(means(shortcut)))


class DAF(nn.Module):
    """Add two maps, as a residual block without attention does.

    Source: Dai et al., WACV 2021, arXiv:2009.14082, where AFF is compared with this "direct addition".
    Departs: none.

    Shape: (N, C, H, W) twice, branch and shortcut -> the same.
    Cost: no weights, no multiply-adds.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_fit("daf", channels)

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """Shape: (N, C, H, W) twice -> the same."""
        return branch + shortcut
