"""The cost of an attention that has no closed form, counted on a module on torch's meta device."""

from __future__ import annotations

import torch

from nas_attn.attention.entry import Context, Entry, Options, construct
from nas_attn.macs import counted_macs


def measured_cost(entry: Entry, channels: int, options: Options, context: Context) -> tuple[int, int]:
    """Return the parameters, and the multiply-adds for one image on a map of the context's size.

    Args:
        options: Resolved options.
        context: Its height and width must be known.
    Units: trainable parameters; multiply-adds of convolutions and matrix products.
    """
    assert context.height is not None, f"no map is known: {context}"
    assert context.width is not None, f"no map is known: {context}"
    in_channels = channels if context.replaced is None else context.replaced.in_channels
    with torch.device("meta"):
        module = construct(entry, channels, options, context).eval()
        maps = [torch.empty(1, in_channels, context.height, context.width) for _ in range(entry.n_inputs)]
    n_parameters = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return n_parameters, counted_macs(lambda: module(*maps))
