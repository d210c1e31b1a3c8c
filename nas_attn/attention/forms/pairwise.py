"""Attentions in which pixels look at each other: gc, non_local, self_attention, attention_pool."""

from __future__ import annotations

from nas_attn.attention.entry import Context, Options
from nas_attn.attention.forms.widths import hidden_width, whole


def gc_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of the pooling, the bottleneck and its norm."""
    hidden = hidden_width(channels, options)
    return 2 * channels * hidden + 3 * hidden + 2 * channels + 1


def gc_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of the pooling (scores, then their product with the map) and of the bottleneck."""
    return 2 * channels * height * width + 2 * channels * hidden_width(channels, options)


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
    """Return the parameters of four projections with biases, and of the score."""
    head = channels // whole(options, "heads")
    score = {"dot": 0, "general": channels * head, "concat": channels}[str(options["score"])]
    return 4 * channels * (channels + 1) + score
