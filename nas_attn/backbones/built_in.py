"""Squeeze-and-excitation that a network has of its own: found by its class, and taken out."""

from __future__ import annotations

from torch import nn

from nas_attn.backbones.modules import put_module

_CLASSES = (
    "torchvision.ops.misc.SqueezeExcitation",
    "timm.layers.squeeze_excite.SEModule",
    "timm.layers.squeeze_excite.EffectiveSEModule",
    "timm.models._efficientnet_blocks.SqueezeExcite",
    "timm.models.senet.SEModule",
)
"""Named, not imported: a network without it needs neither torchvision nor timm."""


def built_in_se(net: nn.Module) -> tuple[str, ...]:
    """Return the paths of torchvision's and timm's squeeze-and-excitation modules inside a network."""
    return tuple(path for path, module in net.named_modules() if path and _is_se(module))


def take_out_se(net: nn.Module) -> tuple[str, ...]:
    """Put a step without effect in the place of each such module, and return where; all other names stay."""
    paths = built_in_se(net)
    for path in paths:
        put_module(net, path, nn.Identity())
    return paths


def _is_se(module: nn.Module) -> bool:
    return any(f"{cls.__module__}.{cls.__qualname__}" in _CLASSES for cls in type(module).__mro__)
