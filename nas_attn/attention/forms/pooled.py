"""Attentions over pooled maps and over axes: se_bn, scse, bam, eca, gct, coord, triplet."""

from __future__ import annotations

from math import log2

from nas_attn.attention.entry import Context, Options
from nas_attn.attention.forms.widths import filled, hidden_width, whole


def se_bn_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of two layers, each with a bias and a norm."""
    hidden = hidden_width(channels, options)
    return 2 * channels * hidden + 3 * hidden + 3 * channels


def scse_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of the bottleneck, and of a 1x1 convolution to one channel."""
    hidden = hidden_width(channels, options)
    return 2 * channels * hidden + hidden + 2 * channels + 1


def scse_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of the bottleneck, and of the 1x1 convolution at every pixel."""
    return 2 * channels * hidden_width(channels, options) + channels * height * width


def bam_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of the channel branch and of the four convolutions of the spatial branch."""
    hidden = hidden_width(channels, options)
    gate = 2 * channels * hidden + channels + 3 * hidden
    return gate + channels * hidden + 3 * hidden + 2 * (9 * hidden**2 + 3 * hidden) + hidden + 1


def bam_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of the channel branch, and of the spatial branch at every pixel."""
    hidden = hidden_width(channels, options)
    return 2 * channels * hidden + (channels * hidden + 18 * hidden**2 + hidden) * height * width


def eca_kernel(channels: int, context: Context) -> int:
    """Return the paper's kernel size: |log2(C) / 2 + 1 / 2|, or the next odd number above its whole part."""
    size = int(abs(log2(channels) / 2 + 0.5))
    return size if size % 2 else size + 1


def eca_effective(channels: int, options: Options, context: Context) -> Options:
    """Return the kernel size that the channels can fill."""
    return {"kernel_size": filled(whole(options, "kernel_size"), channels)}


def triplet_effective(channels: int, options: Options, context: Context) -> Options:
    """Return the kernel size that the largest plane can fill."""
    if context.height is None:
        return {}
    return {"kernel_size": filled(whole(options, "kernel_size"), channels, context.height, context.width)}


def eca_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the weights of one kernel."""
    return whole(options, "kernel_size")


def eca_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of one kernel on one vector."""
    return channels * whole(options, "kernel_size")


def gct_idle(channels: int, options: Options) -> frozenset[str]:
    """Return the promise of a map without negative values, if it is squared anyway."""
    return frozenset({"after_relu"} if options["mode"] == "l2" else ())


def gct_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of three vectors."""
    return 3 * channels


def coord_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of three 1x1 convolutions with biases, and of a norm."""
    hidden = hidden_width(channels, options)
    return 3 * channels * hidden + 3 * hidden + 2 * channels


def coord_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds at every row and every column."""
    return 2 * channels * hidden_width(channels, options) * (height + width)


def triplet_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of two or three convolutions, each with its norm."""
    return (3 if options["spatial"] else 2) * (2 * whole(options, "kernel_size") ** 2 + 2)


def triplet_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds on the planes (C, W), (H, C) and (H, W)."""
    area = channels * (height + width) + (height * width if options["spatial"] else 0)
    return 2 * whole(options, "kernel_size") ** 2 * area


def free_parameters(channels: int, options: Options, context: Context) -> int:
    """Return 0: there are no parameters."""
    return 0


def free_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return 0: there are no convolutions and no matrix products."""
    return 0
