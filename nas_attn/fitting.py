"""One attention at one site: whether it fits there, how it is written in one way, and what it costs. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from nas_attn.attention.catalog import SHAPE_KEEPING, Context, attention_entry, check_options, resolve_options, why_not
from nas_attn.errors import SpaceError
from nas_attn.placement import KINDS, Attention, Placement, Site, SiteTable

_KINDS_OF_WIRING = {"gate": KINDS, "residual": SHAPE_KEEPING, "concat": SHAPE_KEEPING, "addend": ("shortcut",)}


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Units: `n_parameters` counts trainable parameters; `n_macs` multiply-adds of convolutions and matrix products
    for one image.
    """

    n_parameters: int
    n_macs: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.n_parameters + other.n_parameters, self.n_macs + other.n_macs)


def misfit(site: Site, attention: Attention) -> str | None:
    """Return why `attention` cannot sit at `site` in its wiring, in one sentence, or None if it can."""
    entry = attention_entry(attention.name, f"site '{site.name}'")
    kinds = _KINDS_OF_WIRING[attention.wiring]
    if site.kind not in kinds:
        works = [wiring for wiring, fitting in _KINDS_OF_WIRING.items() if site.kind in fitting]
        return (
            f"Wiring '{attention.wiring}' does not fit site '{site.name}': the site must be of kind "
            f"{' or '.join(kinds)}, but is of kind '{site.kind}'; wirings that fit: {', '.join(works)}."
        )
    return why_not(entry, site, attention.options)


def resolve_at(site: Site, attention: Attention) -> Attention:
    """Return `attention` as it is built at `site`: defaults filled in, "auto" decided, idle options dropped.

    The wiring `addend` (shortcut + A(shortcut) + branch) is the same network as `residual` at a shortcut, and is
    written so.

    Raises: SpaceError if the attention, an option or a value is unknown, or does not fit the site.
    """
    place = f"site '{site.name}'"
    entry = attention_entry(attention.name, place)
    check_options(entry, attention.options, place)
    reason = misfit(site, attention)
    if reason:
        raise SpaceError(reason)
    wiring = "residual" if attention.wiring == "addend" else attention.wiring
    return Attention(attention.name, resolve_options(entry, site.channels, attention.options), wiring)


def cost_at(site: Site, attention: Attention, context: Context) -> Cost:
    """Return what a resolved attention adds at `site`; the wiring `concat` adds a 1x1 convolution 2C -> C with bias."""
    entry = attention_entry(attention.name, f"site '{site.name}'")
    channels, height, width = site.channels, site.height, site.width
    cost = Cost(
        entry.n_parameters(channels, attention.options, context),
        entry.n_macs(channels, height, width, attention.options, context),
    )
    if attention.wiring != "concat":
        return cost
    weights = 2 * channels * channels
    return cost + Cost(weights + channels, weights * height * width)


def resolve_placement(table: SiteTable, placement: Placement) -> Placement:
    """Return the placement with every attention resolved at its site: equal models have equal keys.

    Raises: SpaceError if a site is unknown, or an attention does not fit.
    """
    return Placement(
        {name: resolve_at(table.site(name), attention) for name, attention in placement.attentions.items()}
    )


def placement_cost(table: SiteTable, placement: Placement) -> Cost:
    """Return the cost of the bare network plus that of every attention, by closed forms.

    Raises: SpaceError if a site is unknown, or an attention does not fit.
    """
    context = Context(num_classes=table.num_classes)
    total = Cost(table.n_parameters, table.n_macs)
    for name, attention in placement.attentions.items():
        site = table.site(name)
        total += cost_at(site, resolve_at(site, attention), context)
    return total
