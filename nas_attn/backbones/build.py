"""Builds a backbone from its spec, its weights drawn from the seed alone."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from nas_attn.backbones.built_in import take_out_se
from nas_attn.backbones.catalog import backbone_entry, check_backbone, without_start
from nas_attn.backbones.entry import Spec
from nas_attn.backbones.own_network import make_network, named
from nas_attn.backbones.seeding import seeded
from nas_attn.backbones.timm_names import is_timm
from nas_attn.backbones.timm_networks import timm_net
from nas_attn.backbones.weights import load_weights
from nas_attn.backbones.weights_file import find_weights
from nas_attn.errors import SpaceError, first_line

log = logging.getLogger(__name__)


def build_backbone(
    spec: str | Spec,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    seed: int,
    class_names: Sequence[str] = (),
) -> nn.Module:
    """Return the plain network on the CPU, its initial weights drawn from `seed` alone, or those that its spec names.

    Args:
        class_names: Of the images, where they are known: of weights whose classes have names, those rows are kept.
    Raises: SpaceError if the spec is not valid, or if an imported function does not give a network; FileError if the
    weights cannot be read, or are another network's.
    """
    checked = check_backbone(spec)
    shape = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    net, notes = start_backbone(checked, find_weights(checked), **shape, seed=seed, class_names=class_names)
    for note in notes:
        log.info("%s", note)
    return net


def start_backbone(
    checked: Spec,
    file: Path | None,
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    seed: int,
    class_names: Sequence[str] = (),
) -> tuple[nn.Module, list[str]]:
    """Return the plain network of a checked spec, started from a file if there is one, and how that fits it.

    Raises: as `build_backbone`.
    """
    plain = {key: value for key, value in without_start(checked).items() if key != "replace"}
    net = _plain(plain, num_classes=num_classes, in_channels=in_channels, image_size=image_size, seed=seed)
    taken_out = take_out_se(net) if "replace" in checked else ()
    if "replace" in checked and not taken_out:
        name = checked.get("name", checked.get("import"))
        raise SpaceError(f"Backbone '{name}' has no squeeze-and-excitation of its own: leave replace = 'se' out.")
    if file is None:
        return net, []
    return net, load_weights(net, file, num_classes=num_classes, class_names=class_names, taken_out=taken_out)


def _plain(checked: Spec, *, num_classes: int, in_channels: int, image_size: int, seed: int) -> nn.Module:
    shape = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    with seeded(seed, "backbone"):
        if "import" in checked:
            return _imported(checked, shape)
        if is_timm(checked):
            return timm_net(checked, **shape)
        entry = backbone_entry(checked["name"])
        options = {key: value for key, value in checked.items() if key != "name"}
        sizes = shape if entry.sized else {key: shape[key] for key in ("num_classes", "in_channels")}
        make: Callable[..., nn.Module] = load_object(entry.build)
        return make(**entry.fixed, **sizes, **options)


def load_object(path: str) -> Any:
    """Return what "module:name" names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _imported(spec: Spec, shape: dict[str, int]) -> nn.Module:
    """Call the user's function with the spec's options."""
    path = spec["import"]
    options = {key: value for key, value in spec.items() if key != "import"}
    return make_network(_maker(path), f"backbone's import '{path}'", options, **shape)


def _maker(path: str) -> Callable[..., Any]:
    """Return the user's function. Raises: SpaceError if it cannot be loaded, or is none."""
    try:
        make = load_object(path)
    except (ImportError, AttributeError) as error:
        raise SpaceError(f"The backbone's import '{path}' cannot be loaded: {first_line(error)}.") from error
    except Exception as error:  # the module is the user's: importing it may raise anything
        raise SpaceError(f"The backbone's import '{path}' cannot be loaded: it raised {named(error)}.") from error
    if isinstance(make, nn.Module) or not callable(make):
        raise SpaceError(
            f"The backbone's import '{path}' must be a function that makes a network, but is a {type(make).__name__}: "
            "every model gets a new one."
        )
    maker: Callable[..., Any] = make
    return maker
