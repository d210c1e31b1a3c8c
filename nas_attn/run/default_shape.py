"""The shape that a search has by default: that of the space's data, enlarged where the backbone needs it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nas_attn.backbones.catalog import image_sizes
from nas_attn.backbones.timm_names import is_timm
from nas_attn.config import DataConfig
from nas_attn.data.catalog import DATA
from nas_attn.placement import Shape
from nas_attn.space.search_space import SearchSpace


def enlarged_size(backbone: dict[str, Any], image_size: int) -> int | None:
    """Return the size to which images too small for a backbone are enlarged; None if they stay as they are.

    Args:
        backbone: Name and options; empty for a network of the user's, which states its own needs.
    """
    if "name" not in backbone or is_timm(backbone):
        return None
    smallest, default = image_sizes(backbone)
    return default if image_size < smallest else None


def default_shape(space: SearchSpace) -> Shape | None:
    """Return the shape of a search of this space in which nothing else is stated; no image is read.

    None if the record of its data source does not state the shape.
    """
    name = str(space.data.get("name", DataConfig().name))
    found = DATA[name].shape if name in DATA else None
    if found is None:
        return None
    size = space.data.get("image_size") or enlarged_size(space.backbone, found.image_size) or found.image_size
    num_classes = 1 if space.recipe.get("one_logit") else found.num_classes
    return Shape(num_classes, found.in_channels, int(size))


def at_default_shape(space: SearchSpace) -> SearchSpace:
    """Return a space as a search of it takes it if nothing else is stated."""
    shape = default_shape(space)
    if shape is None:
        return space
    return replace(space, num_classes=shape.num_classes, in_channels=shape.in_channels, image_size=shape.image_size)
