"""Attentions over groups of channels, and over large kernels: shuffle, sge, ema, lska."""

from __future__ import annotations

from nas_attn.attention.entry import Context, Options
from nas_attn.attention.forms.widths import largest_divisor, smallest_alike, whole

LSKA_KERNELS = {7: (3, 3, 2), 11: (3, 5, 2), 23: (5, 7, 3), 35: (5, 11, 3), 41: (5, 13, 3), 53: (5, 17, 3)}
"""Kernel size -> the local kernel, the dilated kernel, and its dilation, as the authors chose them."""


_LEAST = 4
"""Fewest channels in a group of their own choice: a softmax over one channel is constant, a norm over one a sign."""


def shuffle_groups(channels: int, context: Context) -> int:
    """Return the authors' 64 groups, or the most below that divide half the channels and have 4 channels each."""
    return largest_divisor(channels // 2, min(64, channels // _LEAST))


def shuffle_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of six vectors over half a group."""
    return 3 * channels // whole(options, "groups")


def sge_groups(channels: int, context: Context) -> int:
    """Return the authors' 64 groups, or the most below that divide the channels and have 4 channels each."""
    return largest_divisor(channels, min(64, channels // _LEAST))


def sge_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of one weight and one bias per group."""
    return 2 * whole(options, "groups")


def ema_factor(channels: int, context: Context) -> int:
    """Return the authors' 32 groups, or the most below that divide the channels and have 4 channels each."""
    return largest_divisor(channels, min(32, channels // _LEAST))


def ema_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of a 1x1 and a 3x3 convolution and a norm, shared by all groups."""
    group = channels // whole(options, "factor")
    return 10 * group**2 + 4 * group


def ema_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds along the axes, at every pixel, and of two products of a vector with the map."""
    group = channels // whole(options, "factor")
    return channels * group * (height + width) + (9 * channels * group + 2 * channels) * height * width


def lska_effective(channels: int, options: Options, context: Context) -> Options:
    """Return the smallest kernel size that is the same on this map."""
    return {"kernel_size": smallest_alike(whole(options, "kernel_size"), LSKA_KERNELS, context.height, context.width)}


def lska_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of four 1-d depthwise convolutions and of a 1x1 convolution."""
    local, dilated, _ = LSKA_KERNELS[whole(options, "kernel_size")]
    return channels**2 + channels + 2 * channels * (local + dilated + 2)


def lska_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds at every pixel."""
    local, dilated, _ = LSKA_KERNELS[whole(options, "kernel_size")]
    return (channels**2 + 2 * channels * (local + dilated)) * height * width
