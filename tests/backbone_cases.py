"""Placements that put something at every site of a network at once, as small as it fits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from nas_attn.attention.entry import SHAPE_KEEPING
from nas_attn.backbones.catalog import BACKBONES
from nas_attn.placement import Attention, Placement, Site, SiteTable
from nas_attn.space.fit import misfit

TINY = {
    "densenet": {"growth_rate": 4, "block_config": [2, 2]},
    "mobilenet_v1": {"width_mult": 0.25},
    "mobilenet_v2": {"width_mult": 0.25},
    "mobilenet_v3_large": {"width_mult": 0.25},
    "mobilenet_v3_small": {"width_mult": 0.25},
    "preact_resnet": {"width": 4},
}
"""Options that make a network small, by name."""


MORE_OF_RESNET50 = ("resnet101", "wide_resnet50")
"""Networks of the same blocks, more of them or wider ones, which take seconds and show nothing else."""

SAME_BLOCKS = (
    *("vgg11", "vgg16", "vgg16_bn", "resnet34", "resnet50", *MORE_OF_RESNET50),
    *("densenet121", "densenet169", "mobilenet_v3_large"),
)
"""Networks whose layers are those of vgg11_bn, resnet18, resnext50, densenet or mobilenet_v3_small, in other numbers or
widths: a copy or an export of them takes up to 15 s, and can fail only where that of the smaller one does."""

EVERY_DAY = (
    *("lenet", "densenet", "preact_resnet", "resnet18", "squeezenet", "shufflenet_v2"),
    *("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mini_xception"),
)
"""Networks that are small, or can be made small: the rows of the others are for the night."""

CHUNK = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0))


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


@contextmanager
def quick_draws() -> Iterator[None]:
    """Fill large weights by repetitions of the same numbers: that takes a tenth of the time of drawing them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_", "trunc_normal_"):
            patch.setattr(nn.init, name, _draw_in_chunks(getattr(nn.init, name)))
        yield


def _draw_in_chunks(draw):
    def quick(tensor, *args, **kwargs):
        if tensor.numel() <= len(CHUNK) or tensor.is_meta:
            return draw(tensor, *args, **kwargs)
        scale = tensor[0].numel() ** -0.5
        n_whole = tensor.numel() // len(CHUNK)
        flat = tensor.detach().view(-1)
        flat[: n_whole * len(CHUNK)].view(n_whole, -1).copy_(CHUNK * scale)
        flat[n_whole * len(CHUNK) :].fill_(scale)
        return tensor

    return quick
