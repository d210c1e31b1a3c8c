"""Attentions that gate by pooling or at every element: se, cbam, gam, triple."""

from __future__ import annotations

from math import gcd

from nas_attn.attention.entry import Context, Options
from nas_attn.attention.forms.widths import (
    filled,
    hidden_width,
    largest_divisor,
    near,
    nearest_divisors,
    reduction_misfit,
    refused_reduction,
    whole,
)


def gam_misfit(channels: int, options: Options, context: Context) -> str | None:
    """Return why the reduction or the groups do not fit, or None."""
    if "groups" not in options:
        return reduction_misfit(channels, options, context)
    groups, reduction = whole(options, "groups"), whole(options, "reduction")
    if reduction > channels:
        works = f"reduction={channels // groups}" if channels % groups == 0 else f"reduction={channels} with groups=1"
        return refused_reduction(channels, reduction, works)
    hidden = channels // reduction
    common = gcd(channels, hidden)
    if common % groups == 0:
        return None
    return (
        f"groups must divide the channels and the hidden width, but got groups={groups}, channels={channels}, "
        f"hidden width {hidden}; {near('groups', nearest_divisors(common, groups))}."
    )


def cbam_idle(channels: int, options: Options) -> frozenset[str]:
    """Return the options of the missing branch; a single branch has no order."""
    idle = {"channel": ("order", "kernel_size", "spatial_norm"), "spatial": ("order", "reduction")}
    return frozenset(idle.get(str(options["branches"]), ()))


def cbam_effective(channels: int, options: Options, context: Context) -> Options:
    """Return the kernel size that the map can fill."""
    if "kernel_size" not in options:
        return {}
    return {"kernel_size": filled(whole(options, "kernel_size"), context.height, context.width)}


def gam_effective(channels: int, options: Options, context: Context) -> Options:
    """Return the kernel size that the map can fill; a replicated border uses all of a kernel."""
    return {} if options.get("padding_mode") == "replicate" else cbam_effective(channels, options, context)


def gam_unused(channels: int, options: Options, context: Context) -> str | None:
    """Return that the border of a kernel repeats what its core sees, where the map's border is replicated."""
    if options.get("padding_mode") != "replicate" or "kernel_size" not in options:
        return None
    kernel = whole(options, "kernel_size")
    core = filled(kernel, context.height, context.width)
    return (
        None if core == kernel else f"beyond {core}x{core} its kernels of {kernel}x{kernel} see the map's border again"
    )


def gam_searched(channels: int, options: Options) -> Options:
    """Return the most groups below that have two hidden channels each, if these have one."""
    if "groups" not in options:
        return {}
    groups, hidden = whole(options, "groups"), channels // whole(options, "reduction")
    if groups == 1 or hidden >= 2 * groups:
        return {}
    return {"groups": largest_divisor(gcd(channels, hidden), min(groups, hidden // 2))}


def bam_effective(channels: int, options: Options, context: Context) -> Options:
    """Return the dilation that the map can fill: from its size on, only a kernel's central weight meets the map."""
    sizes = [size for size in (context.height, context.width) if size is not None]
    return {"dilation": min(whole(options, "dilation"), max(sizes))} if sizes else {}


def gam_idle(channels: int, options: Options) -> frozenset[str]:
    """Return the options of the missing branch; a kernel of 1 needs no padding, two pooled planes have no groups."""
    if options["branches"] == "channel":
        return frozenset({"kernel_size", "groups", "padding_mode", "pooling"})
    idle = {"channel_gate"} if options["branches"] == "spatial" else set()
    idle |= {"groups"} if options["pooling"] == "channels" else set()
    return frozenset(idle | ({"padding_mode"} if options["kernel_size"] == 1 else set()))


def triple_on_pixels(options: Options) -> bool:
    """Return whether every parameter has an effect on one pixel: a softmax over the map and scales need several."""
    parts = parts_of(options)
    return "scale" not in parts and ("element" not in parts or options["softmax"] == "channel")


def triple_idle(channels: int, options: Options) -> frozenset[str]:
    """Return the options of the missing parts."""
    parts = parts_of(options)
    idle = set() if "element" in parts else {"hidden", "softmax", "aux_weight"}
    return frozenset(idle if "channel" in parts else idle | {"reduction"})


def triple_fewest_logits(options: Options) -> int:
    """Return 1 for the element part, 2 if its softmax is over the classes (constant over one class); otherwise 0."""
    softmax = options.get("softmax")
    return 2 if softmax == "channel" else int(softmax is not None)


def parts_of(options: Options) -> list[str]:
    """Return the words of `parts`."""
    return str(options["parts"]).split("+")


def se_idle(channels: int, options: Options) -> frozenset[str]:
    """Return the options of the layers if there are none."""
    return frozenset({"reduction", "bias", "min_hidden"} if options["layers"] == 0 else ())


def se_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of two layers, C to hidden to C, or of none."""
    if options.get("layers") == 0:
        return 0
    hidden = hidden_width(channels, options)
    return 2 * channels * hidden + (hidden + channels if options.get("bias", True) else 0)


def se_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of two layers on one vector, or of none."""
    if options.get("layers") == 0:
        return 0
    return 2 * channels * hidden_width(channels, options)


def cbam_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of the shared bottleneck, and of the spatial convolution with its norm."""
    gate = 0 if options["branches"] == "spatial" else se_parameters(channels, options, context)
    if options["branches"] == "channel":
        return gate
    return gate + 2 * whole(options, "kernel_size") ** 2 + (2 if options["spatial_norm"] else 0)


def cbam_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of the bottleneck on means and maxima, and of the spatial convolution."""
    gate = 0 if options["branches"] == "spatial" else 4 * channels * hidden_width(channels, options)
    if options["branches"] == "channel":
        return gate
    return gate + 2 * whole(options, "kernel_size") ** 2 * height * width


def gam_weights(channels: int, options: Options) -> tuple[int, int]:
    """Return the weights of the channel branch and of the spatial branch's convolutions."""
    pair = 2 * channels * hidden_width(channels, options)
    mlp = 0 if options["branches"] == "spatial" else pair
    if options["branches"] == "channel":
        return mlp, 0
    area = whole(options, "kernel_size") ** 2
    if options.get("pooling") == "channels":
        return mlp, (2 + channels) * hidden_width(channels, options) * area
    return mlp, pair * area // whole(options, "groups")


def gam_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of the bottleneck, and of both convolutions with their biases and norms."""
    mlp, convolutions = gam_weights(channels, options)
    width = hidden_width(channels, options) + channels
    return mlp + (width if mlp else 0) + convolutions + (3 * width if convolutions else 0)


def gam_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds: all weights are applied at every pixel."""
    return sum(gam_weights(channels, options)) * height * width


def triple_weights(channels: int, options: Options, context: Context) -> int:
    """Return the convolution weights of the element part, which are all applied at every pixel."""
    hidden, classes = whole(options, "hidden"), context.num_classes
    return hidden * (channels + 9 * hidden + classes) + 2 * channels * classes


def triple_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of the parts; the last attention bias exists with a channel softmax only."""
    parts = parts_of(options)
    total = se_parameters(channels, options, context) if "channel" in parts else 0
    if "element" in parts:
        classes = context.num_classes * (2 if options["softmax"] == "channel" else 1)
        total += triple_weights(channels, options, context) + 2 * whole(options, "hidden") + classes + channels
    return total + (3 if "scale" in parts else 0)


def triple_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of the parts; the scale part has no convolution."""
    parts = parts_of(options)
    gate = se_macs(channels, height, width, options, context) if "channel" in parts else 0
    return gate + (triple_weights(channels, options, context) * height * width if "element" in parts else 0)
