"""The cost of an attention that has no closed form, counted on a module built without memory."""

from __future__ import annotations

import torch

from nas_attn.attention.entry import Context, Entry, Options, load_class
from nas_attn.macs import counted_macs


def measured_cost(entry: Entry, channels: int, options: Options, context: Context) -> tuple[int, int]:
    """Return parameters and multiply-adds of one image at the map that `context` gives.

    Args:
        options: Resolved; `context` needs its height and width.
    Units: trainable parameters; multiply-adds of convolutions and matrix products.
    """
    assert context.height is not None, f"no map is known: {context}"
    assert context.width is not None, f"no map is known: {context}"
    given = {"context": context} if entry.needs_context else {}
    entering = channels if context.replaced is None else context.replaced.in_channels
    with torch.device("meta"):
        module = load_class(entry.cls)(channels, **options, **given).eval()
        maps = [torch.empty(1, entering, context.height, context.width) for _ in range(entry.n_inputs)]
    n_parameters = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return n_parameters, counted_macs(lambda: module(*maps))
