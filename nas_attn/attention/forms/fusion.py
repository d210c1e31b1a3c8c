"""Attentions that merge two maps or replace a convolution: ms_cam, aff, iaff, sk, deform."""

from __future__ import annotations

from nas_attn.attention.entry import Context, Options
from nas_attn.attention.forms.widths import hidden_width, near, nearest_divisors, strided, whole
from nas_attn.placement import Convolution


def ms_cam_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of two stacks of two 1x1 convolutions, each with a bias and a norm."""
    hidden = hidden_width(channels, options)
    return 4 * channels * hidden + 6 * hidden + 6 * channels


def ms_cam_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of one stack at every pixel, and of the other once."""
    return (height * width + 1) * 2 * channels * hidden_width(channels, options)


def iaff_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of two gates."""
    return 2 * ms_cam_parameters(channels, options, context)


def iaff_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of two gates."""
    return 2 * ms_cam_macs(channels, height, width, options, context)


def replaced_by(channels: int, context: Context) -> Convolution:
    """Return the replaced convolution; without one, a plain 3x3 that keeps the channels."""
    return context.replaced or Convolution(channels, channels)


def sk_groups(channels: int, context: Context) -> int:
    """Return the groups of the replaced convolution."""
    return replaced_by(channels, context).groups


def sk_misfit(channels: int, options: Options, context: Context) -> str | None:
    """Return why it cannot replace the convolution (groups, no ReLU, or depthwise), or None."""
    conv = replaced_by(channels, context)
    if not conv.relu:
        return "it ends in a ReLU, but no ReLU is found after the convolution that it would replace."
    if conv.groups == conv.in_channels > 1:
        return "it selects between convolutions over channels, but the one that it would replace is depthwise."
    if options["groups"] is None:
        return None
    groups = whole(options, "groups")
    if conv.in_channels % groups == 0 and conv.out_channels % groups == 0:
        return None
    works = [n for n in nearest_divisors(conv.out_channels, groups) if conv.in_channels % n == 0] or [1]
    return (
        f"groups must divide the channels, but got groups={groups}, channels={conv.in_channels} in and "
        f"{conv.out_channels} out; {near('groups', works)}."
    )


def sk_unused(channels: int, options: Options, context: Context) -> str | None:
    """Return how many branches are dilated beyond the map; the first is the convolution that it replaces."""
    sizes = [size for size in (context.height, context.width) if size is not None]
    dilation = replaced_by(channels, context).dilation
    n_wide = _branches(options) - max((max(sizes) - 1) // dilation, 1) if sizes else 0
    if n_wide <= 0:
        return None
    which = f"{n_wide} of its {_branches(options)} branches"
    return f"only the centre of the kernels of {which} meets the map, which is not larger than their dilation"


def sk_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of the branches with their norms, and of the bottleneck that weights them."""
    conv, hidden, n_branches = replaced_by(channels, context), hidden_width(channels, options), _branches(options)
    weights = 9 * conv.in_channels * channels // whole(options, "groups")
    total = n_branches * (weights + 2 * channels) + channels * hidden + 2 * hidden + hidden * n_branches * channels
    return total + (2 * n_branches * channels + hidden if options["bias"] else 0)


def sk_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of the branches at every output pixel, and of the bottleneck once."""
    conv, hidden, n_branches = replaced_by(channels, context), hidden_width(channels, options), _branches(options)
    area = strided(height, context) * strided(width, context)
    weights = 9 * conv.in_channels * channels // whole(options, "groups")
    return n_branches * weights * area + channels * hidden + hidden * n_branches * channels


def deform_misfit(channels: int, options: Options, context: Context) -> str | None:
    """Return why the groups of offsets do not divide the input channels, or None."""
    conv = replaced_by(channels, context)
    if "groups" not in options or conv.in_channels % whole(options, "groups") == 0:
        return None
    works = near("groups", nearest_divisors(conv.in_channels, whole(options, "groups")))
    return (
        f"groups must divide the input channels, but got groups={options['groups']}, "
        f"channels={conv.in_channels}; {works}."
    )


def deform_idle(channels: int, options: Options) -> frozenset[str]:
    """Return the options that have no effect for offsets of whole channels."""
    return frozenset({"modulated", "groups"} if options["offsets"] == "channel" else ())


def deform_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of the convolution and of the one that computes the offsets."""
    conv = replaced_by(channels, context)
    offsets = _offset_channels(options, conv)
    biases = (channels if conv.bias else 0) + (offsets if options["offsets"] == "kernel" else 0)
    return _weights(conv) + 9 * conv.in_channels * offsets + biases


def deform_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of both convolutions; resampling has none."""
    conv = replaced_by(channels, context)
    out_area = strided(height, context) * strided(width, context)
    offset_area = out_area if options["offsets"] == "kernel" else height * width
    return _weights(conv) * out_area + 9 * conv.in_channels * _offset_channels(options, conv) * offset_area


def _weights(conv: Convolution) -> int:
    return 9 * conv.in_channels * conv.out_channels // conv.groups


def _offset_channels(options: Options, conv: Convolution) -> int:
    """Return two channels per input channel, or two or three per tap of the kernel in each group."""
    if options["offsets"] == "channel":
        return 2 * conv.in_channels
    return (27 if options["modulated"] else 18) * whole(options, "groups")


def _branches(options: Options) -> int:
    return whole(options, "n_branches")
