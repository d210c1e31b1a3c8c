"""The attentions of DANet: pam, cam."""

from __future__ import annotations

from nas_attn.attention.entry import Context, Options
from nas_attn.attention.forms.widths import hidden_width


def pam_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the parameters of three projections with biases, and the factor."""
    return (channels + 1) * (2 * hidden_width(channels, options) + channels) + 1


def pam_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of the projections at every pixel, and of both products of all pairs of pixels."""
    hidden, area = hidden_width(channels, options), height * width
    return channels * (2 * hidden + channels) * area + (hidden + channels) * area**2


def cam_parameters(channels: int, options: Options, context: Context) -> int:
    """Return 1: the factor."""
    return 1


def cam_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of both products of all pairs of channels."""
    return 2 * channels**2 * height * width
