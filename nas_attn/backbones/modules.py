"""A module in the network that it belongs to: put in another one's place, and what it holds besides its weights."""

from __future__ import annotations

from typing import Any

from torch import nn


def put_module(net: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of the one at `path`, under every name that this one has in the network.

    A list of blocks beside the attributes that hold them gives each two names, and a forward may use either.
    """
    old = net.get_submodule(path)
    for parent in list(net.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = module


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Return what a module holds under public names besides parameters, buffers and children."""
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}
