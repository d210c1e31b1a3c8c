"""Attentions by projections, norms and several kernels: double_attention, ese, polarized, epsa, nam, lka."""

from __future__ import annotations

from math import gcd

from nas_attn.attention.entry import Context, Options
from nas_attn.attention.forms.fusion import replaced_by
from nas_attn.attention.forms.widths import (
    hidden_width,
    largest_divisor,
    near,
    nearest_divisors,
    smallest_alike,
    strided,
    whole,
)

LKA_KERNELS = {7: (3, 3, 2), 11: (3, 5, 2), 21: (5, 7, 3), 35: (5, 11, 3)}
"""Kernel size -> the local kernel, the dilated kernel, and its dilation."""

EPSA_KERNELS = {"3+5+7+9": (3, 5, 7, 9), "1+3+5+7": (1, 3, 5, 7)}
"""The four kernels as an option names them -> their sizes."""


def double_descriptors(channels: int, context: Context) -> int:
    """Return a quarter of the channels, at least 1."""
    return max(1, channels // 4)


def double_unused(channels: int, options: Options, context: Context) -> str | None:
    """Return that a softmax over one descriptor is constant."""
    if whole(options, "descriptors") > 1 or options["softmax"] != "descriptors":
        return None
    return "the softmax over one descriptor is 1: every pixel gets the same vector"


def double_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of four projections with biases."""
    hidden, descriptors = hidden_width(channels, options), whole(options, "descriptors")
    return 2 * channels * (hidden + descriptors) + hidden + 2 * descriptors + channels


def double_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of two projections and two products at every pixel, and of two per descriptor."""
    descriptors = whole(options, "descriptors")
    return 4 * channels * descriptors * height * width + 2 * channels * hidden_width(channels, options) * descriptors


def ese_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of one layer with a bias."""
    return channels**2 + channels


def ese_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of one layer on one vector."""
    return channels**2


def polarized_hidden(width: int) -> int:
    """Return the hidden width of the sequential layout's bottleneck: a quarter of the embeddings', at least 4."""
    return max(4, width // 4)


def polarized_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of the score and four projections, of which a bottleneck may replace one."""
    width = hidden_width(channels, options)
    if options["layout"] == "parallel":
        return channels + 4 * channels * width
    hidden = polarized_hidden(width)
    return channels + 3 * channels * width + (width + channels) * hidden + 3 * hidden + channels


def polarized_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds at every pixel, and of the layers on one vector."""
    embedded, area = hidden_width(channels, options), height * width
    if options["layout"] == "parallel":
        return 3 * channels * area + 4 * channels * embedded
    bottleneck = (embedded + channels) * polarized_hidden(embedded)
    return ((embedded + 2) * channels + embedded) * area + 2 * channels * embedded + bottleneck


def epsa_groups(channels: int, context: Context) -> int:
    """Return the authors' 16 groups, or the most below that divide the input and a quarter of the channels."""
    return largest_divisor(gcd(replaced_by(channels, context).in_channels, channels // 4), 16)


def epsa_splits(quarter: int, in_channels: int, groups: int, spread: str) -> tuple[int, ...]:
    """Return the groups of the four kernels, the smallest first.

    >>> epsa_splits(16, 64, 16, "rising"), epsa_splits(12, 48, 6, "rising"), epsa_splits(32, 128, 32, "equal")
    ((1, 4, 8, 16), (1, 1, 3, 6), (32, 32, 32, 32))
    """
    if spread == "equal":
        return (groups,) * 4
    common = gcd(quarter, in_channels)
    return (1, largest_divisor(common, groups // 4), largest_divisor(common, groups // 2), groups)


def epsa_hidden(channels: int, context: Context) -> int:
    """Return the hidden width that the authors' reduction by 16 leaves of a quarter of the channels, at least 1."""
    return max(1, channels // 4 // 16)


def epsa_misfit(channels: int, options: Options, context: Context) -> str | None:
    """Return why it cannot replace the convolution, or why four kernels or the groups do not divide, or None."""
    conv = replaced_by(channels, context)
    if conv.groups == conv.in_channels > 1:
        return "it mixes the channels of a pixel, but the convolution that it would replace is depthwise."
    if conv.dilation > 1:
        return f"its kernels look at the next neighbours, but the convolution is dilated by {conv.dilation}."
    if channels % 4:
        return f"4 must divide the channels, but got channels={channels}."
    common = gcd(conv.in_channels, channels // 4)
    if options["groups"] is None or common % whole(options, "groups") == 0:
        return None
    return (
        "groups must divide the channels that enter and a quarter of those that leave, but got "
        f"groups={options['groups']}, channels={conv.in_channels} in and {channels} out; "
        f"{near('groups', nearest_divisors(common, whole(options, 'groups')))}."
    )


def epsa_idle(channels: int, options: Options) -> frozenset[str]:
    """Return the spread of a single group."""
    groups = epsa_groups(channels, Context()) if options["groups"] in (None, "auto") else options["groups"]
    return frozenset({"spread"} if groups == 1 else ())


def epsa_effective(channels: int, options: Options, context: Context) -> Options:
    """Return the smaller kernels on a map of one pixel, which sees the centre of any kernel."""
    return {"kernel_sizes": "1+3+5+7"} if context.height == context.width == 1 else {}


def epsa_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the weights of four convolutions, and the parameters of the bottleneck that they share."""
    quarter, hidden = channels // 4, whole(options, "hidden")
    return _epsa_weights(channels, options, context) + 2 * quarter * hidden + quarter + hidden


def epsa_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of the convolutions at every output pixel, and of the bottleneck on four vectors."""
    area = strided(height, context) * strided(width, context)
    return _epsa_weights(channels, options, context) * area + 8 * (channels // 4) * whole(options, "hidden")


def _epsa_weights(channels: int, options: Options, context: Context) -> int:
    in_channels, quarter = replaced_by(channels, context).in_channels, channels // 4
    splits = epsa_splits(quarter, in_channels, whole(options, "groups"), str(options.get("spread", "rising")))
    sizes = EPSA_KERNELS[str(options["kernel_sizes"])]
    return sum(size**2 * in_channels * quarter // n for size, n in zip(sizes, splits, strict=True))


def nam_misfit(channels: int, options: Options, context: Context) -> str | None:
    """Return why the spatial branch cannot be built without the size of the map, or None."""
    if options["branches"] == "channel" or (context.height is not None and context.width is not None):
        return None
    return (
        f"branches={options['branches']} has a scale for each pixel, so the size of the map must be known, but got "
        "none; pass context=Context(height=..., width=...), or branches=channel."
    )


def nam_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of a norm over the channels, one over the pixels, or both."""
    assert context.height is not None, f"no map is known: {context}"
    assert context.width is not None, f"no map is known: {context}"
    pixels = context.height * context.width
    return 2 * {"channel": channels, "spatial": pixels, "both": channels + pixels}[str(options["branches"])]


def lka_effective(channels: int, options: Options, context: Context) -> Options:
    """Return the smallest kernel size that is the same on this map."""
    return {"kernel_size": smallest_alike(whole(options, "kernel_size"), LKA_KERNELS, context.height, context.width)}


def lka_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of two depthwise and one or three 1x1 convolutions; a block adds a norm and a scale."""
    local, dilated, _ = LKA_KERNELS[whole(options, "kernel_size")]
    n_dense = 1 if options["form"] == "gate" else 3
    around = 3 * channels if options["form"] == "block" else 0
    return channels * (local**2 + dilated**2 + 2) + n_dense * (channels**2 + channels) + around


def lka_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds at every pixel."""
    local, dilated, _ = LKA_KERNELS[whole(options, "kernel_size")]
    n_dense = 1 if options["form"] == "gate" else 3
    return channels * (local**2 + dilated**2 + n_dense * channels) * height * width
