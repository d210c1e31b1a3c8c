"""Modules that replace a 3x3 convolution: a selection between dilations, and a deformable convolution."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import flop_registry, register_flop_formula
from torchvision.ops import deform_conv2d

from nas_attn.attention.entry import Context
from nas_attn.attention.forms.fusion import replaced_by
from nas_attn.attention.norm import BatchNorm
from nas_attn.attention.options import NO_CONTEXT, require_fit
from nas_attn.attention.plain import is_followed
from nas_attn.errors import SpaceError
from nas_attn.macs import deform_flops


class Dilated(nn.Module):
    """A 3x3 convolution, dilated or not, with its norm and ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, dilation: int, groups: int, bias: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, dilation, dilation, groups, bias)
        self.norm = BatchNorm(out_channels)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> (N, out_channels, H / stride, W / stride), both rounded up."""
        return torch.relu_(self.norm(self.conv(x)))


class Selector(nn.Module):
    """A bottleneck over the channels' means that weights the branches of every channel against each other."""

    def __init__(self, channels: int, *, hidden: int, n_branches: int, bias: bool) -> None:
        super().__init__()
        self.n_branches = n_branches
        self.reduce = nn.Linear(channels, hidden, bias=bias)
        self.norm = BatchNorm(hidden)
        self.expand = nn.Linear(hidden, n_branches * channels, bias=bias)
        for layer in (self.reduce, self.expand):
            nn.init.normal_(layer.weight, std=0.01)
            if bias:
                nn.init.zeros_(layer.bias)

    def forward(self, means: Tensor) -> Tensor:
        """Shape: (N, C) -> (n_branches, N, C, 1, 1), which sums to 1 over the branches."""
        hidden = torch.relu_(self.norm(self.reduce(means)[:, :, None, None])).flatten(1)
        logits: Tensor = self.expand(hidden).view(means.shape[0], self.n_branches, -1)
        return logits.softmax(1).movedim(1, 0)[..., None, None]


class SK(nn.Module):
    """Select, for each channel, between 3x3 convolutions of several dilations.

    It replaces a 3x3 convolution with its norm and ReLU: every branch has a norm and a ReLU of its own.

    Source: Li et al., "Selective Kernel Networks", CVPR 2019, arXiv:1903.06586, and the authors' Caffe networks: a 3x3
    convolution of dilation 2 replaces the 5x5; convolutions are initialised by He's rule, the bottleneck's layers by
    N(0, 0.01).
    Departs: none with the defaults. If the replaced convolution is dilated, its dilation multiplies those of the
    branches. `bias=True` is not in the paper: other implementations have biases; they start at 0.

    Args:
        groups: Groups of the convolutions; None: those of the replaced convolution.
        reduction: Channels divided by the hidden width of the bottleneck.
        min_hidden: Minimum of the hidden width.
        n_branches: Number of convolutions to select from, dilated by 1, 2, ...
        bias: Whether convolutions and the bottleneck have biases.
        context: Names the replaced convolution; without one, a plain 3x3 that keeps the channels.

    Shape: as the replaced convolution, (N, in_channels, H, W) -> (N, channels, H / stride, W / stride), rounded up.
    Cost: M*(9*C*C/groups + 2*C) + C*h + 2*h + h*M*C weights, M*9*C*C/groups multiply-adds per output pixel, and
    C*h + h*M*C once; M = n_branches, h = max(min_hidden, C // reduction), C*C = in_channels * channels.
    Raises: SpaceError unless the groups divide the input and output channels, or if the replaced convolution is
    depthwise, or no ReLU follows it.
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int | None = 32,
        reduction: int = 16,
        min_hidden: int = 32,
        n_branches: int = 2,
        bias: bool = False,
        context: Context | None = None,
    ) -> None:
        super().__init__()
        options = {"reduction": reduction, "min_hidden": min_hidden, "n_branches": n_branches, "bias": bias}
        require_fit("sk", channels, context=context, groups=groups, **options)
        conv = replaced_by(channels, context or NO_CONTEXT)
        self.branches = nn.ModuleList(
            Dilated(
                conv.in_channels,
                channels,
                stride=conv.stride,
                dilation=conv.dilation * (i + 1),
                groups=conv.groups if groups is None else groups,
                bias=bias,
            )
            for i in range(n_branches)
        )
        hidden = max(min_hidden, channels // reduction)
        self.selector = Selector(channels, hidden=hidden, n_branches=n_branches, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, in_channels, H, W) -> (N, channels, H / stride, W / stride), both rounded up."""
        maps = [branch(x) for branch in self.branches]
        means = torch.stack([each.mean((2, 3)) for each in maps]).sum(0)
        shares = self.selector(means).unbind(0)
        selected: Tensor = maps[0] * shares[0]
        for number in range(1, len(maps)):
            selected = torch.addcmul(selected, maps[number], shares[number])
        return selected


class Deform(nn.Module):
    """A 3x3 convolution whose taps, or whose input channels, are moved by learned offsets.

    Offsets start at 0: with its weights (`take_over`) it starts as the convolution that it replaces.

    Source: Dai et al., "Deformable Convolutional Networks", ICCV 2017, arXiv:1703.06211. `modulated=True`: Zhu et al.,
    CVPR 2019, arXiv:1811.11168, and the authors' code: masks are 2 * sigmoid, which is 1 at the start; the paper and
    many ports have sigmoid, 1/2. `offsets="channel"`: a PyTorch port that bears the name of the first paper: a 3x3
    convolution without bias computes a row and a column offset for each channel, the channel is resampled there, and an
    ordinary convolution follows.
    Departs: `offsets="channel"` starts at 0 (the port draws N(0, 0.01)); clamps rows by the height and columns by the
    width (the port uses the height for both); and reads channels 2*c and 2*c + 1 at a pixel as the row and column
    offset of channel c there (the port concatenates both maps and reads consecutive values as pairs, so that a pixel is
    moved by offsets computed for another).

    Args:
        modulated: Whether each tap is also weighted by 2 * sigmoid of a learned map.
        groups: Groups of channels, each with its own offsets; the convolution's groups are those of the replaced one.
        offsets: What the offsets move: `kernel`, each tap, with zeros outside the map, or `channel`, each channel,
            clamped to the map's border.
        context: Names the replaced convolution; without one, a plain 3x3 with bias that keeps the channels.

    Shape: as the replaced convolution, (N, in_channels, H, W) -> (N, channels, H / stride, W / stride), rounded up.
    Cost: the convolution's, plus a 3x3 convolution to 18*groups channels (27*groups if modulated, 2*C for `channel`).
    Raises: SpaceError unless the groups divide the input channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        modulated: bool = False,
        groups: int = 1,
        offsets: str = "kernel",
        context: Context | None = None,
    ) -> None:
        super().__init__()
        require_fit("deform", channels, context=context, modulated=modulated, groups=groups, offsets=offsets)
        self.replaced = conv = replaced_by(channels, context or NO_CONTEXT)
        self.modulated = modulated
        self.offsets = offsets
        plain = nn.Conv2d(conv.in_channels, channels, 3, groups=conv.groups, bias=conv.bias)
        self.weight, self.bias = plain.weight, plain.bias
        self._source: tuple[nn.Module, ...] = ()  # a tuple: the parameters of a child module would have two names
        if offsets == "channel":
            self.offset = nn.Conv2d(conv.in_channels, 2 * conv.in_channels, 3, padding=1, bias=False)
        else:
            n_maps = (27 if modulated else 18) * groups
            self.offset = nn.Conv2d(conv.in_channels, n_maps, 3, conv.stride, conv.dilation, conv.dilation)
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)

    def take_over(self, conv: nn.Module) -> None:
        """Use the weight and the bias of the replaced convolution instead of this module's own, which are removed.

        `conv` must stay in the network, since it owns the parameters. To copy them instead, use
        `load_state_dict(conv.state_dict(), strict=False)`.

        Args:
            conv: A convolution, or another module with its `weight` and, if it has one, its `bias`.

        Raises: SpaceError if their shapes differ from this module's own.
        """
        theirs = _sizes(*_kernel(conv))
        if theirs != (ours := _sizes(*_kernel(self))):
            raise SpaceError(
                f"Attention 'deform' must take over a convolution like the one that it was built for, with weight and "
                f"bias of shape {ours}, but got {theirs}."
            )
        del self.weight, self.bias
        self._source = (conv,)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, in_channels, H, W) -> (N, channels, H / stride, W / stride), both rounded up."""
        weight, bias = _kernel(*self._source or (self,))
        if self.offsets == "kernel":
            return self._move_taps(x, weight, bias)
        conv, moved = self.replaced, resample(x, self.offset(x))
        return functional.conv2d(moved, weight, bias, conv.stride, conv.dilation, conv.dilation, conv.groups)

    def moves(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the offsets of the taps of `offsets="kernel"`, and their masks if modulated.

        Shape: (N, in_channels, H, W) -> (N, 18 * groups, H / stride, W / stride), (N, 9 * groups, the same).
        """
        offsets: Tensor = self.offset(x)
        if not self.modulated:
            return offsets, None
        n_masks = self.offset.out_channels // 3
        offsets, logits = torch.split(offsets, [2 * n_masks, n_masks], 1)
        return offsets, 2 * torch.sigmoid(widen(logits))

    def _move_taps(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        conv = self.replaced
        offsets, mask = self.moves(x)
        bias = None if bias is None else widen(bias)
        placing = (conv.stride, conv.dilation, conv.dilation)
        lost = offsets.isnan()  # for these torchvision's operator on the CPU would read out of bounds
        offsets = widen(offsets.masked_fill(lost, 0.0))
        convolve = sampled_conv2d if is_followed(x) else deform_conv2d
        moved: Tensor = convolve(widen(x), offsets, widen(weight), bias, *placing, mask)
        moved = moved.masked_fill(lost.any(1, keepdim=True), math.nan)
        return moved.to(x.dtype, memory_format=layout(x))


def sampled_conv2d(
    x: Tensor,
    offsets: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    dilation: int,
    mask: Tensor | None,
) -> Tensor:
    """Return what torchvision's `deform_conv2d` does with a 3x3 kernel, by steps that torch can follow.

    Shape: as there: (N, C, H, W), (N, 18 * groups, Ho, Wo), (O, C / conv groups, 3, 3), mask (N, 9 * groups, Ho, Wo) ->
        (N, O, Ho, Wo).
    """
    n, channels, height, width = x.shape
    n_groups, out_height, out_width = offsets.shape[1] // 18, offsets.shape[2], offsets.shape[3]
    moves = offsets.reshape(n, n_groups, 9, 2, out_height, out_width)
    taps = numbered(9, x.device)[:, None, None]
    starts = [numbered(offsets.shape[axis], x.device) * stride - padding for axis in (2, 3)]
    rows = moves[:, :, :, 0] + (starts[0][:, None] + taps // 3 * dilation)
    columns = moves[:, :, :, 1] + (starts[1] + taps % 3 * dilation)
    grid = torch.stack([centred(columns, width), centred(rows, height)], -1)  # (N, groups, 9, Ho, Wo, 2)
    maps = x.reshape(n * n_groups, -1, height, width)
    grid = grid.reshape(n * n_groups, 9 * out_height, out_width, 2)
    read = functional.grid_sample(maps, grid, padding_mode="zeros", align_corners=True)
    read = read.reshape(n, n_groups, -1, 9, out_height, out_width)
    if mask is not None:
        read = read * mask.reshape(n, n_groups, 1, 9, out_height, out_width)
    n_parts, depth = channels // weight.shape[1], weight.shape[1] * 9
    found = weight.reshape(n_parts, -1, depth) @ read.reshape(n, n_parts, depth, -1)
    found = found.reshape(n, -1, out_height, out_width)
    return found if bias is None else found + bias[:, None, None]


def _kernel(conv: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return the weight and the bias of a convolution, or of the module that owns its parameters."""
    weight: Any = conv.weight
    return weight, getattr(conv, "bias", None)


def _sizes(*tensors: Tensor | None) -> tuple[tuple[int, ...] | None, ...]:
    return tuple(None if tensor is None else tuple(tensor.shape) for tensor in tensors)


def widen(x: Tensor) -> Tensor:
    """Return `x` in at least float32: deformable convolution has no half precision, and positions need float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def layout(x: Tensor) -> torch.memory_format:
    """Return the memory format of `x`, for the output of an operator that supports one format only."""
    if is_followed(x):
        return torch.preserve_format
    is_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


def resample(x: Tensor, offsets: Tensor) -> Tensor:
    """Read each channel at its own positions, bilinearly, clamped to the border.

    Args:
        offsets: In pixels; channels 2*c and 2*c + 1 move the rows and the columns of channel c.

    Shape: (N, C, H, W), (N, 2*C, H, W) -> (N, C, H, W).
    """
    n, channels, height, width = x.shape
    moves = widen(offsets).view(n, channels, 2, height, width)
    rows = moves[:, :, 0] + numbered(height, x.device)[:, None]  # (N, C, H, W)
    columns = moves[:, :, 1] + numbered(width, x.device)
    grid = torch.stack([centred(columns, width), centred(rows, height)], -1).flatten(0, 1)
    maps = widen(x).reshape(n * channels, 1, height, width)
    moved = functional.grid_sample(maps, grid, padding_mode="border", align_corners=True)
    return moved.view(x.shape).to(x.dtype, memory_format=layout(x))


@torch.fx.wrap
def numbered(size: int, device: torch.device) -> Tensor:
    """Return 0, 1, ..., size - 1; a step of its own for torch.fx, which cannot look into it."""
    return torch.arange(size, device=device)


def centred(pixels: Tensor, size: int) -> Tensor:
    """Map pixel positions to the range from -1, the first pixel, to 1, the last."""
    least = size - 1 + 1 // size  # size - 1, at least 1, by arithmetic that a trace can follow
    return pixels * (2 / least) - 1


if torch.ops.torchvision.deform_conv2d not in flop_registry:
    register_flop_formula(torch.ops.torchvision.deform_conv2d)(deform_flops)
