"""Attentions that replace a convolution or take a map as they are: cot, split_attention, bot."""

from __future__ import annotations

from nas_attn.attention.entry import Context, Options
from nas_attn.attention.forms.fusion import replaced_by
from nas_attn.attention.forms.widths import divisor_misfit, filled, largest_divisor, strided, whole

_heads_misfit = divisor_misfit("heads")


def cot_groups(channels: int) -> int:
    """Return the authors' 4 groups of the static context, or the most below that divide the channels."""
    return largest_divisor(channels, 4)


def cot_shared(channels: int) -> int:
    """Return the authors' 8 channels of a kernel, or the most below that divide the channels."""
    return largest_divisor(channels, 8)


def cot_hidden(channels: int) -> int:
    """Return the hidden width of the bottleneck that weighs both contexts: half the channels, at least 32."""
    return max(channels // 2, 32)


def cot_misfit(channels: int, options: Options, context: Context) -> str | None:
    """Return why it cannot replace the convolution (other channels, depthwise, dilated), or None."""
    conv = replaced_by(channels, context)
    if conv.in_channels != conv.out_channels:
        return f"it keeps the channels, but the convolution maps {conv.in_channels} to {conv.out_channels}."
    if conv.groups == conv.in_channels > 1:
        return "it mixes the channels of a pixel, but the convolution that it would replace is depthwise."
    if conv.dilation > 1:
        return f"it looks at the next neighbours, but the convolution is dilated by {conv.dilation}."
    return None


def cot_unused(channels: int, options: Options, context: Context) -> str | None:
    """Return that the border of the kernels meets padding alone."""
    kernel = whole(options, "kernel_size")
    core = filled(kernel, context.height, context.width)
    if core == kernel:
        return None
    return f"only the {core}x{core} core of its kernels of {kernel}x{kernel} meets the map"


def cot_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of both contexts, of the kernels, and of the bottleneck that weighs the contexts."""
    taps, embedded, hidden = _cot_widths(channels, options)
    norms = 2 * (3 * channels + embedded + taps + hidden)
    return _cot_weights(channels, options) + taps + 3 * channels * hidden + hidden + 2 * channels + norms


def cot_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of the convolutions at every pixel, and of the bottleneck once."""
    area = strided(height, context) * strided(width, context)
    return _cot_weights(channels, options) * area + 3 * channels * cot_hidden(channels)


def split_groups(channels: int, context: Context) -> int:
    """Return the groups of the replaced convolution."""
    return replaced_by(channels, context).groups


def split_hidden(in_channels: int, radix: int, groups: int) -> int:
    """Return a quarter of the splits' input channels, at least 32, rounded up to a multiple of the groups."""
    return -(-max(in_channels * radix // 4, 32) // groups) * groups


def split_misfit(channels: int, options: Options, context: Context) -> str | None:
    """Return why it cannot replace the convolution (no ReLU, depthwise), or why splits do not divide the channels."""
    conv, radix = replaced_by(channels, context), whole(options, "radix")
    if not conv.relu:
        return "it ends in a ReLU, but no ReLU is found after the convolution that it would replace."
    if conv.groups == conv.in_channels > 1:
        return "its splits are convolutions over channels, but the one that it would replace is depthwise."
    groups = conv.groups if options["groups"] is None else whole(options, "groups")
    if conv.in_channels % (radix * groups) == 0 and conv.out_channels % groups == 0:
        return None
    fitting = [n for n in range(1, conv.out_channels + 1) if conv.in_channels % n == conv.out_channels % n == 0]
    nearest = min(fitting, key=lambda n: abs(n - groups))
    works = f"radix={largest_divisor(conv.in_channels // nearest, radix)}"
    return (
        f"radix * groups must divide the input channels and groups the output channels, but got radix={radix}, "
        f"groups={groups}, channels={conv.in_channels} in and {conv.out_channels} out; the nearest that works: {works}"
        f"{'' if nearest == groups else f', groups={nearest}'}."
    )


def split_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of the splits with their norm, and of the bottleneck that weighs them."""
    radix, hidden = whole(options, "radix"), _split_hidden(channels, options, context)
    splits = radix * channels
    biases_and_norms = 2 * splits + hidden + 2 * hidden + splits
    return _split_weights(channels, options, context) + _split_bottleneck(channels, options, context) + biases_and_norms


def split_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of the splits at every output pixel, and of the bottleneck once."""
    area = strided(height, context) * strided(width, context)
    return _split_weights(channels, options, context) * area + _split_bottleneck(channels, options, context)


def bot_misfit(channels: int, options: Options, context: Context) -> str | None:
    """Return why it cannot be built: no size of the map, a depthwise convolution, or heads that do not divide."""
    conv = replaced_by(channels, context)
    if context.height is None or context.width is None:
        return "its positions need the size of the map: pass context=Context(height=..., width=...)."
    if conv.groups == conv.in_channels > 1:
        return "it mixes the channels of a pixel, but the convolution that it would replace is depthwise."
    return _heads_misfit(channels, options, context)


def bot_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the weights of three projections, and the embeddings of all distances along both axes."""
    height, width = _size(context)
    distances = 2 * height - 1 + 2 * width - 1
    projections = 3 * replaced_by(channels, context).in_channels * channels
    return projections + distances * (channels // whole(options, "heads"))


def bot_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of the projections, of both products of all pairs, and of the positions."""
    area = height * width
    projections = 3 * replaced_by(channels, context).in_channels * channels * area
    return projections + channels * area * (2 * area + height + width)


def _cot_widths(channels: int, options: Options) -> tuple[int, int, int]:
    """Return the taps of all kernels of a pixel, the width of their embedding, and that of the bottleneck."""
    taps = whole(options, "kernel_size") ** 2 * (channels // cot_shared(channels))
    return taps, max(1, channels // 2), cot_hidden(channels)


def _cot_weights(channels: int, options: Options) -> int:
    taps, embedded, _ = _cot_widths(channels, options)
    static = whole(options, "kernel_size") ** 2 * channels * channels // cot_groups(channels)
    return static + 2 * channels * embedded + embedded * taps + channels**2


def _split_hidden(channels: int, options: Options, context: Context) -> int:
    return split_hidden(replaced_by(channels, context).in_channels, whole(options, "radix"), whole(options, "groups"))


def _split_weights(channels: int, options: Options, context: Context) -> int:
    return 9 * replaced_by(channels, context).in_channels * channels // whole(options, "groups")


def _split_bottleneck(channels: int, options: Options, context: Context) -> int:
    hidden = _split_hidden(channels, options, context)
    return (1 + whole(options, "radix")) * channels * hidden // whole(options, "groups")


def _size(context: Context) -> tuple[int, int]:
    assert context.height is not None, f"the context must have a map size, but got {context}"
    assert context.width is not None, f"the context must have a map size, but got {context}"
    return context.height, context.width
