"""Builds a backbone from its spec; its initial weights depend on the seed alone."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from nas_attn.backbones.catalog import (
    backbone_entry,
    blamed_on,
    check_backbone,
    is_foreign,
    plugged_entry,
    without_start,
)
from nas_attn.backbones.entry import Backbone, Spec
from nas_attn.backbones.modules import seeded, take_out_se
from nas_attn.backbones.taken_out import take_out_own_se
from nas_attn.backbones.timm_names import is_timm
from nas_attn.backbones.timm_networks import timm_net
from nas_attn.backbones.user_network import make_network, named
from nas_attn.backbones.weights import load_weights
from nas_attn.backbones.weights_file import find_weights
from nas_attn.errors import SpaceError, first_line
from nas_attn.placement import Shape

log = logging.getLogger(__name__)


def build_backbone(spec: str | Spec, shape: Shape, *, seed: int, class_names: Sequence[str] = ()) -> nn.Module:
    """Return the plain network on the CPU, with initial weights from `seed` alone, or with the weights of its spec.

    Args:
        class_names: Names of the images' classes, if known: classifier rows of pretrained weights are kept by name.
    Raises: SpaceError if the spec is not valid, or an imported function does not return a network; FileError if the
    weights cannot be read, or belong to another network.
    """
    checked = check_backbone(spec)
    net, notes = start_backbone(checked, find_weights(checked), shape, seed=seed, class_names=class_names)
    for note in notes:
        log.info("%s", note)
    return net


def start_backbone(
    checked: Spec,
    file: Path | None,
    shape: Shape,
    *,
    seed: int,
    class_names: Sequence[str] = (),
) -> tuple[nn.Module, list[str]]:
    """Return the plain network of a checked spec, with the weights of `file` if any, and notes on adapted weights.

    Raises: as `build_backbone`.
    """
    plain = {key: value for key, value in without_start(checked).items() if key != "replace"}
    net = _plain(plain, shape, seed)
    by_whom = take_out_own_se if is_foreign(checked) or is_timm(checked) else take_out_se
    taken_out = by_whom(net) if "replace" in checked else ()
    if "replace" in checked and not taken_out:
        name = checked.get("name", checked.get("import"))
        raise SpaceError(f"Backbone '{name}' has no squeeze-and-excitation of its own: leave replace = 'se' out.")
    if file is None:
        return net, []
    return net, load_weights(net, file, num_classes=shape.num_classes, class_names=class_names, taken_out=taken_out)


def _plain(checked: Spec, shape: Shape, seed: int) -> nn.Module:
    with seeded(seed, "backbone"):
        if "import" in checked:
            return _imported(checked, shape)
        if is_timm(checked):
            return timm_net(checked, shape)
        options = {key: value for key, value in checked.items() if key != "name"}
        plugged = plugged_entry(checked)
        if plugged is not None:
            return _plugged(plugged, options, shape)
        entry = backbone_entry(checked["name"])
        sizes = {key: value for key, value in vars(shape).items() if entry.sized or key != "image_size"}
        net: nn.Module = load_function(entry.build, "build function")(**entry.fixed, **sizes, **options)
        return net


def load_object(path: str) -> Any:
    """Import the object with the path "module:name"."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def load_function(function: str | Callable[..., Any], noun: str) -> Callable[..., Any]:
    """Return a function, imported if it is a path "module:name". Raises: SpaceError if it cannot be loaded."""
    if not isinstance(function, str):
        return function
    try:
        found: Callable[..., Any] = load_object(function)
    except (ImportError, AttributeError) as error:
        raise SpaceError(f"The {called(noun, function)} cannot be loaded: {first_line(error)}.") from error
    except Exception as error:  # the module is the user's: importing it may raise anything
        raise SpaceError(f"The {called(noun, function)} cannot be loaded: it raised {named(error)}.") from error
    return found


def called(noun: str, function: str | Callable[..., Any]) -> str:
    """Return a function in words for messages: with its path, if it was named by one."""
    return f"{noun} '{function}'" if isinstance(function, str) else noun


def _imported(spec: Spec, shape: Shape) -> nn.Module:
    """Call the user's function with the spec's options."""
    path, noun = spec["import"], "backbone's import"
    options = {key: value for key, value in spec.items() if key != "import"}
    return make_network(load_function(path, noun), called(noun, path), options, shape)


def _plugged(entry: Backbone, options: Spec, shape: Shape) -> nn.Module:
    """Call a plug-in's function with its options."""
    noun = "build function"
    with blamed_on(entry.name):
        make = load_function(entry.build, noun)
        return make_network(make, called(noun, entry.build), {**entry.fixed, **options}, shape)
