"""One attention module by name."""

from __future__ import annotations

from torch import nn

from nas_attn.attention.catalog import attention_entry
from nas_attn.attention.entry import Context, construct
from nas_attn.attention.options import NO_CONTEXT, require_fit, resolve_options
from nas_attn.placement import Value


def create_attention(name: str, channels: int, *, context: Context | None = None, **options: Value) -> nn.Module:
    """Build the attention called `name`; options left out keep the catalogue's defaults.

    >>> create_attention("se", channels=64, reduction=4).bottleneck.reduce
    Linear(in_features=64, out_features=16, bias=True)

    Args:
        context: What the module needs beyond its channels: `triple` needs the number of classes, `bot` the size of the
            map, for which `fca` is built too; `sk` and `deform` replace the convolution that it names, or without one a
            plain 3x3 that keeps the channels.
        options: As listed by `ATTENTIONS[name].options`; "auto" and None are the same.

    Shape: of the module: (N, channels, H, W) -> the same; a merge has two such inputs, a pooling returns
        (N, channels, 1, 1), and a module that replaces a convolution returns the shape of its output.
    Raises: SpaceError that names the nearest attention, option or value that works.
    """
    entry = attention_entry(name)
    require_fit(name, channels, context=context, **options)
    resolved = resolve_options(entry, channels, options, context or NO_CONTEXT)
    module: nn.Module = construct(entry, channels, resolved, context)
    return module
