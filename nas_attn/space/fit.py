"""One attention at one site: whether it fits there, how it is written in one way, and what it costs. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nas_attn.attention.catalog import attention_entry
from nas_attn.attention.entry import SHAPE_KEEPING, Context, Entry
from nas_attn.attention.options import check_options, context_at, resolve_options, why_not
from nas_attn.errors import SpaceError
from nas_attn.placement import KINDS, Attention, Convolution, Placement, Site, SiteTable, Value

_KINDS_OF_WIRING = {"gate": KINDS, "residual": SHAPE_KEEPING, "concat": SHAPE_KEEPING, "addend": ("shortcut",)}
_KINDS_OF_IDENTITY = (*SHAPE_KEEPING, "merge")


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

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.n_parameters - other.n_parameters, self.n_macs - other.n_macs)


def misfit(site: Site, attention: Attention) -> str | None:
    """Return why `attention` cannot sit at `site` in its wiring, in one sentence, or None if it can."""
    entry = attention_entry(attention.name, f"site '{site.name}'")
    reason = why_not(entry, site, attention.options)
    if reason:
        return reason
    kinds = _KINDS_OF_WIRING[attention.wiring]
    if site.kind not in kinds:
        works = [wiring for wiring, fitting in _KINDS_OF_WIRING.items() if site.kind in fitting]
        return (
            f"Wiring '{attention.wiring}' does not fit site '{site.name}': the site must be of kind "
            f"{' or '.join(kinds)}, but is of kind '{site.kind}'; wirings that fit: {', '.join(works)}."
        )
    if attention.start == "identity" and site.kind not in _KINDS_OF_IDENTITY:
        return (
            f"Start 'identity' does not fit site '{site.name}': the site must be of kind "
            f"{' or '.join(_KINDS_OF_IDENTITY)}, but is of kind '{site.kind}'; the start that fits: own."
        )
    return None


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
    options = resolve_options(entry, site.channels, attention.options, context_at(site))
    return Attention(attention.name, options, wiring, attention.start)


def refuse_few_logits(attention: Attention, num_classes: int, place: str) -> None:
    """Refuse a resolved attention that would have no effect in a network of so few logits. Raises: SpaceError."""
    fewest = attention_entry(attention.name).fewest_logits(attention.options)
    if num_classes < fewest:
        raise SpaceError(
            f"{place}: {attention} needs a network of {fewest} logits or more, but this one gives {num_classes}: "
            "change its options, or train with a logit for each class."
        )


def is_neutral(attention: Attention) -> bool:
    """Tell whether this attention is what the plain network does anyway, so that choosing it places nothing."""
    return attention_entry(attention.name).neutral


def cost_at(site: Site, attention: Attention, num_classes: int) -> Cost:
    """Return what a resolved attention adds at `site`, less what it replaces there.

    The wiring `concat` adds a 1x1 convolution 2C -> C with bias, the start `identity` one parameter.
    """
    entry = attention_entry(attention.name, f"site '{site.name}'")
    cost = entry_cost(entry, site.channels, attention.options, context_at(site, num_classes))
    if site.replaced is not None:
        cost -= _cost_of(site.replaced, site, entry.replaces_norm)
    if attention.start == "identity":
        cost += Cost(1, 0)
    if attention.wiring != "concat":
        return cost
    weights = 2 * site.channels * site.channels
    return cost + Cost(weights + site.channels, weights * site.height * site.width)


def entry_cost(entry: Entry, channels: int, options: Mapping[str, Value], context: Context) -> Cost:
    """Return what the module itself costs with resolved options, by its closed forms, else counted on a built one.

    Args:
        context: Gives the map that enters.
    """
    assert context.height is not None, f"no map is known: {context}"
    assert context.width is not None, f"no map is known: {context}"
    if entry.n_parameters is None or entry.n_macs is None:
        from nas_attn.attention.measure import measured_cost  # on use: it loads torch

        return Cost(*measured_cost(entry, channels, options, context))
    n_macs = entry.n_macs(channels, context.height, context.width, options, context)
    return Cost(entry.n_parameters(channels, options, context), n_macs)


def _cost_of(conv: Convolution, site: Site, with_norm: bool) -> Cost:
    """Return what a convolution costs, and the norm behind it if that goes too."""
    weights = conv.kernel_size**2 * conv.in_channels * conv.out_channels // conv.groups
    biases = (conv.out_channels if conv.bias else 0) + (2 * conv.out_channels if conv.norm and with_norm else 0)
    return Cost(weights + biases, weights * -(-site.height // conv.stride) * -(-site.width // conv.stride))


def resolve_placement(table: SiteTable, placement: Placement) -> Placement:
    """Return the placement with every attention resolved at its site: equal models have equal keys.

    An attention that is what the plain network does anyway (`daf` at a merge) is left out.

    Raises: SpaceError if a site is unknown, or an attention does not fit.
    """
    resolved = {name: resolve_at(table.site(name), attention) for name, attention in placement.attentions.items()}
    for name, attention in resolved.items():
        refuse_few_logits(attention, table.num_classes, f"At site '{name}'")
    return Placement({name: attention for name, attention in resolved.items() if not is_neutral(attention)})


def placement_cost(table: SiteTable, placement: Placement) -> Cost:
    """Return the cost of the bare network plus that of every attention, by closed forms.

    Raises: SpaceError if a site is unknown, or an attention does not fit.
    """
    total = Cost(table.n_parameters, table.n_macs)
    for name, attention in resolve_placement(table, placement).attentions.items():
        total += cost_at(table.site(name), attention, table.num_classes)
    return total
