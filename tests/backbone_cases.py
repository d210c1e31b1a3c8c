"""Placements that put something at every site of a network at once, as small as it fits."""

from __future__ import annotations

from nas_attn.attention.entry import SHAPE_KEEPING
from nas_attn.backbones.catalog import BACKBONES
from nas_attn.fitting import misfit
from nas_attn.placement import Attention, Placement, Site, SiteTable

TINY = {
    "densenet": {"growth_rate": 4, "block_config": [2, 2]},
    "mobilenet_v1": {"width_mult": 0.25},
    "mobilenet_v2": {"width_mult": 0.25},
    "mobilenet_v3_large": {"width_mult": 0.25},
    "mobilenet_v3_small": {"width_mult": 0.25},
    "preact_resnet": {"width": 4},
}
"""Options that make a network small, by name."""


def tiny_spec(name: str) -> dict:
    """The network with a small stem where it has one: small images go far in it."""
    stem = {"stem": "small"} if any(option.name == "stem" for option in BACKBONES[name].options) else {}
    return {"name": name, **stem, **TINY.get(name, {})}


def choices_at(site: Site) -> list[Attention]:
    """What may be tried at a site of this kind, the first that fits to be taken."""
    if site.kind in SHAPE_KEEPING:
        return [Attention("se", {"reduction": min(site.channels, 16)})]
    if site.kind == "merge":
        return [Attention("aff", {"reduction": min(site.channels, 16)})]
    if site.kind == "head":
        return [Attention("attention_pool", {"heads": 1})]
    return [Attention("sk", {"groups": None, "reduction": 32, "min_hidden": 4}), Attention("deform")]


def everywhere(table: SiteTable) -> Placement:
    """The first choice that fits at each site; nothing where none does."""
    placed = {}
    for site in table.sites:
        fitting = [choice for choice in choices_at(site) if misfit(site, choice) is None]
        if fitting:
            placed[site.name] = fitting[0]
    return Placement(placed)
