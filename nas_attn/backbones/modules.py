"""Changes to the modules of a network: replace one, copy its attributes, take squeeze-and-excitation out, seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def put_module(net: nn.Module, path: str, module: nn.Module) -> None:
    """Replace the module at `path` under every name that it has in the network.

    A block that is both an attribute and an element of a list has two names, and a forward may use either.
    """
    put_modules(net, {path: module})


def put_modules(net: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
    """Replace the modules at several paths, none of which lies in another, each under every name that it has."""
    new = {id(net.get_submodule(path)): module for path, module in replacements.items()}
    for parent in list(net.modules()):
        for name, child in parent._modules.items():
            if id(child) in new:
                parent._modules[name] = new[id(child)]


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Return the public attributes of a module other than parameters, buffers and children."""
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module has hooks of its own: in a changed module they would see other tensors, or none."""
    return any(getattr(module, hooks) for hooks in _HOOKS)


_CLASSES = (
    "torchvision.ops.misc.SqueezeExcitation",
    "timm.layers.squeeze_excite.SEModule",
    "timm.layers.squeeze_excite.EffectiveSEModule",
    "timm.models._efficientnet_blocks.SqueezeExcite",
    "timm.models.senet.SEModule",
)
"""Compared by name, so that neither torchvision nor timm is imported."""


def built_in_se(net: nn.Module) -> tuple[str, ...]:
    """Return the paths of torchvision's and timm's squeeze-and-excitation modules inside a network."""
    return tuple(path for path, module in net.named_modules() if path and is_se(module))


def take_out_se(net: nn.Module) -> tuple[str, ...]:
    """Replace each such module by an Identity and return their paths; all other names stay."""
    paths = built_in_se(net)
    for path in paths:
        put_module(net, path, nn.Identity())
    return paths


def is_se(module: nn.Module) -> bool:
    """Return whether a module is torchvision's or timm's squeeze-and-excitation."""
    return any(f"{cls.__module__}.{cls.__qualname__}" in _CLASSES for cls in type(module).__mro__)


@contextmanager
def seeded(seed: int, part: str) -> Iterator[None]:
    """Seed torch's CPU generator by `seed` and `part`, and restore its state afterwards.

    Each part of a model is initialised inside one such context, so that its weights do not depend on the other parts.
    """
    state = torch.get_rng_state()
    digest = hashlib.sha256(f"{seed}/{part}".encode()).digest()
    torch.default_generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    try:
        yield
    finally:
        torch.set_rng_state(state)
