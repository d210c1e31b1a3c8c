"""Builds timm's networks."""

from __future__ import annotations

from typing import Any

from torch import nn

from nas_attn.backbones.entry import Spec
from nas_attn.backbones.timm_names import load_timm, timm_name
from nas_attn.errors import SpaceError, in_one_line
from nas_attn.placement import Shape


def timm_net(spec: Spec, shape: Shape) -> nn.Module:
    """Return a network of timm's, initialised by torch's global generator.

    A network for a fixed image size gets the one of `shape`, unless its options have `img_size`.

    Raises: SpaceError if timm refuses the options.
    """
    timm, name = load_timm(), timm_name(spec)
    options: dict[str, Any] = {key: value for key, value in spec.items() if key != "name"}
    if timm.get_pretrained_cfg(name).fixed_input_size:
        options = {"img_size": shape.image_size, **options}
    classes, channels = shape.num_classes, shape.in_channels
    try:
        net = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels, **options)
    except Exception as error:  # each of timm's networks has its own way to refuse an option
        shown = "".join(f", {key}={value!r}" for key, value in options.items())
        raise SpaceError(
            f"timm refuses to build '{name}' for {classes} classes{shown}: {in_one_line(error)}."
        ) from error
    assert isinstance(net, nn.Module), f"timm.create_model returned {net!r}"
    return net
