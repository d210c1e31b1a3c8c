"""Attentions between pixels: gc, non_local, self_attention, attention_pool."""

from __future__ import annotations

from math import prod

from nas_attn.attention.entry import Context, Options
from nas_attn.attention.forms.widths import hidden_width, whole
from nas_attn.placement import Value


def gc_unused(channels: int, options: Options, context: Context) -> str | None:
    """Return that the norm over one value is constant."""
    if hidden_width(channels, options) > 1:
        return None
    return "the layer norm over a hidden width of 1 is constant: every image gets the same vector"


def gc_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of the pooling, the bottleneck and its norm."""
    hidden = hidden_width(channels, options)
    return 2 * channels * hidden + 3 * hidden + 2 * channels + 1


def gc_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of the pooling (scores, then their product with the map) and of the bottleneck."""
    return 2 * channels * height * width + 2 * channels * hidden_width(channels, options)


def non_local_idle(channels: int, options: Options) -> frozenset[str]:
    """Return the scale if the hidden width is 1, whose square root is 1 too."""
    return frozenset({"scale"} if channels // whole(options, "reduction") == 1 else ())


def non_local_effective(channels: int, options: Options, context: Context) -> Options:
    """Return no scale if there is one key alone, whose share is 1 whatever its score."""
    return {"scale": False} if "scale" in options and _one_key(options, context) else {}


def non_local_unused(channels: int, options: Options, context: Context) -> str | None:
    """Return that one key alone has a constant share."""
    if not _one_key(options, context):
        return None
    return "the pooling by 2 leaves one key, whose share is 1 for every query: queries and keys have no effect"


def _one_key(options: Options, context: Context) -> bool:
    """Return whether keys that are pooled by 2 are a single one."""
    if not options["subsample"] or context.height is None or context.width is None:
        return False
    return (context.height // 2) * (context.width // 2) <= 1


def non_local_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of four 1x1 convolutions with biases, and of a norm."""
    hidden = hidden_width(channels, options)
    return 4 * channels * hidden + 3 * hidden + 3 * channels


def non_local_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds at every pixel, and of two products of every pixel with every (pooled) pixel."""
    area = height * width
    keys = (height // 2) * (width // 2) if options["subsample"] else area
    return hidden_width(channels, options) * (4 * channels * area + 2 * area * keys)


def scored_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of the projections with biases, and of the score."""
    head = channels // whole(options, "heads")
    score = {"general": channels * head, "concat": channels}.get(str(options["score"]), 0)
    return _projections(options) * channels * (channels + 1) + score


def self_attention_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of the projections at every pixel, and of two products of every query with its keys."""
    n_queries = n_keys = height * width
    if options["window"] is not None and whole(options, "window") // 2 < max(height, width) - 1:
        axes = [window_blocks(size, whole(options, "window")) for size in (height, width)]
        n_queries = prod(n_blocks * block for n_blocks, block, _ in axes)
        n_keys = prod(region for _, _, region in axes)
    return _projections(options) * channels**2 * height * width + _collecting(channels, n_queries, n_keys, options)


def attention_pool_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of two projections at every pixel and two of the mean, and of one query's products."""
    area = height * width
    return 2 * channels**2 * (area + 1) + _collecting(channels, 1, area, options)


def self_attention_effective(channels: int, options: Options, context: Context) -> Options:
    """Return no window if that around each pixel covers the whole map, and the shorter name of the scaled score.

    With one channel per head the divisor is 1, so that the unscaled score is the same too.
    """
    of_one = options["score"] == "unscaled_dot" and whole(options, "heads") == channels
    found: dict[str, Value] = {"score": "dot"} if options["score"] == "scaled_dot" or of_one else {}
    sizes = [size for size in (context.height, context.width) if size is not None]
    window = options["window"]
    covers = isinstance(window, int) and bool(sizes) and window // 2 >= max(sizes) - 1
    return found | {"window": None} if covers else found


def window_blocks(size: int, window: int) -> tuple[int, int, int]:
    """Return how an axis is divided for windows: the number of blocks, queries per block, and keys per block.

    Blocks are about 8 pixels, or half the window, wide: the fastest as measured. If the keys of a block are two thirds
    of the axis or more, there is one block with the whole axis.
    """
    n_blocks = -(-size // max(8, window // 2))
    block = -(-size // n_blocks)
    region = block + window - 1
    return (1, size, size) if 3 * region >= 2 * size else (n_blocks, block, region)


def _projections(options: Options) -> int:
    """Return 4, or 3 where the places of the pixels are the keys."""
    return 3 if options["score"] == "location" else 4


def _collecting(channels: int, n_queries: int, n_keys: int, options: Options) -> int:
    """Return the multiply-adds of scores and weighted means; `general` also multiplies each query by a matrix."""
    general = channels * (channels // whole(options, "heads")) if options["score"] == "general" else 0
    return n_queries * (2 * channels * n_keys + general)
