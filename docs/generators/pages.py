"""Every generated page by its path, and where it stands in the navigation."""

from __future__ import annotations

from typing import Any

from generators import api, attentions, networks, settings
from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.backbones.catalog import BACKBONES


def pages() -> dict[str, str]:
    """Return the Markdown of every generated page by its path below `docs/`."""
    return attentions.pages() | networks.pages() | settings.pages() | api.pages()


def fill(navigation: list[Any]) -> None:
    """Add the page of every attention and backbone behind the list of all, wherever the navigation names that."""
    entries = {
        "attentions/index.md": [attentions.path(name) for name in ATTENTIONS.own],
        "networks/index.md": [networks.path(name) for name in BACKBONES.own],
    }
    for item in navigation:
        for inner in item.values() if isinstance(item, dict) else ():
            if isinstance(inner, list):
                fill(inner)
    for index, paths in entries.items():
        if index in navigation:
            navigation.extend(paths)
