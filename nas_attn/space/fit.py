"""One attention at one site: whether it fits, its resolved form, and its cost. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nas_attn.attention.catalog import attention_entry
from nas_attn.attention.entry import SHAPE_KEEPING, Context, Entry
from nas_attn.attention.options import check_options, context_at, resolve_options, why_not
from nas_attn.errors import SpaceError
from nas_attn.placement import KINDS, Attention, Convolution, Placement, Site, SiteTable, Value

_KINDS_OF_WIRING = {
    **{"gate": KINDS, "residual": SHAPE_KEEPING, "concat": SHAPE_KEEPING},
    **{"addend": ("shortcut",), "concat_three": ("shortcut",)},
}
_KINDS_OF_IDENTITY = (*SHAPE_KEEPING, "merge")


@dataclass(frozen=True)
class Cost:
    """The cost of a network, or of a part of it.

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
    """Return the reason why `attention` with its wiring does not fit `site`, in one sentence, or None if it fits."""
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
    """Return `attention` as it is built at `site`: with defaults, without "auto", without options that have no effect.

    The wiring `addend` (shortcut + A(shortcut) + branch) becomes `residual`, which is the same network at a shortcut.

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


def as_searched(site: Site, attention: Attention) -> Attention:
    """Return a resolved attention as a search places it: with options that leave no group too little."""
    entry = attention_entry(attention.name)
    changed = entry.searched(site.channels, attention.options)
    if not changed:
        return attention
    options = resolve_options(entry, site.channels, {**attention.options, **changed}, context_at(site))
    return replace(attention, options=options)


def refuse_few_logits(attention: Attention, num_classes: int, place: str) -> None:
    """Refuse a resolved attention that has no effect in a network with so few logits. Raises: SpaceError."""
    fewest = attention_entry(attention.name).fewest_logits(attention.options)
    if num_classes < fewest:
        found = f"this one has {num_classes}" if num_classes else "the number of this one's classes is not stated"
        plural = "" if fewest == 1 else "s"
        raise SpaceError(
            f"{place}: {attention} needs a network with at least {fewest} logit{plural}, but {found}: change its "
            "options, or train with one logit per class."
        )


def is_neutral(attention: Attention) -> bool:
    """Return whether this attention equals what the plain network computes, so that choosing it places nothing."""
    return attention_entry(attention.name).neutral


def cost_at(site: Site, attention: Attention, num_classes: int) -> Cost:
    """Return the cost that a resolved attention adds at `site`, minus the cost of the module that it replaces.

    The wirings `concat` and `concat_three` add a 1x1 convolution 2C or 3C -> C with bias, the start `identity` one
    parameter.
    """
    entry = attention_entry(attention.name, f"site '{site.name}'")
    cost = entry_cost(entry, site.channels, attention.options, context_at(site, num_classes))
    if site.replaced is not None:
        cost -= _cost_of(site.replaced, site, entry.replaces_norm)
    if attention.start == "identity":
        cost += Cost(1, 0)
    n_joined = {"concat": 2, "concat_three": 3}.get(attention.wiring)
    if n_joined is None:
        return cost
    weights = n_joined * site.channels * site.channels
    return cost + Cost(weights + site.channels, weights * site.height * site.width)


def entry_cost(entry: Entry, channels: int, options: Mapping[str, Value], context: Context) -> Cost:
    """Return the cost of the module alone with resolved options: by its closed forms, or counted on a built module.

    Args:
        context: Holds the size of the input map.
    """
    assert context.height is not None, f"the context must have a map size, but got {context}"
    assert context.width is not None, f"the context must have a map size, but got {context}"
    if entry.n_parameters is None or entry.n_macs is None:
        from nas_attn.attention.measure import measured_cost  # on use: it loads torch

        return Cost(*measured_cost(entry, channels, options, context))
    n_macs = entry.n_macs(channels, context.height, context.width, options, context)
    return Cost(entry.n_parameters(channels, options, context), n_macs)


def _cost_of(conv: Convolution, site: Site, with_norm: bool) -> Cost:
    """Return the cost of a convolution, and of the norm that follows it if that is replaced too."""
    weights = conv.kernel_size**2 * conv.in_channels * conv.out_channels // conv.groups
    biases = (conv.out_channels if conv.bias else 0) + (2 * conv.out_channels if conv.norm and with_norm else 0)
    return Cost(weights + biases, weights * -(-site.height // conv.stride) * -(-site.width // conv.stride))


def by_site_name(table: SiteTable, placement: Placement) -> Placement:
    """Return the placement with `features` and the like replaced by the name that this place has as a site.

    Raises: SpaceError if a site is unknown, or has two names in the placement.
    """
    names: dict[str, str] = {}
    for name in placement:
        first = names.setdefault(table.site(name).name, name)
        if first != name:
            raise SpaceError(f"Sites '{first}' and '{name}' are one place: leave one of them out.")
    return Placement({own: placement[name] for own, name in names.items()})


def _without_doubles(table: SiteTable, placement: Placement) -> Placement:
    """Return the placement with each double named as the site that has the same tensor.

    Raises: SpaceError if the placement has two names of one site.
    """
    names: dict[str, str] = {}
    for name in sorted(placement, key=lambda name: name in table.doubles):
        first = names.setdefault(table.doubles.get(name, name), name)
        if first != name:
            raise SpaceError(f"Sites '{first}' and '{name}' are one place: leave one of them out.")
    return Placement({site: placement[name] for site, name in names.items()})


def merge_of(table: SiteTable, site: Site) -> Site | None:
    """Return the site of the addition of a site's block, if there is one."""
    return next((other for other in table.sites if (other.kind, other.module) == ("merge", site.module)), None)


def no_merge(table: SiteTable, site: Site, attention: Attention) -> str | None:
    """Return why a block has no addition that the wiring `concat_three` could replace, or None if it has one."""
    if attention.wiring != "concat_three" or merge_of(table, site):
        return None
    return (
        f"Wiring 'concat_three' does not fit site '{site.name}': it replaces the addition of a block, but this one "
        "adds nothing; wirings that fit: gate, residual, concat, addend."
    )


def in_its_block(table: SiteTable, site: Site, resolved: Mapping[str, Attention]) -> Site:
    """Return the site as it is built: with the wiring `concat_three` it takes the place of its block's addition.

    Args:
        resolved: All attentions by site.
    Raises: SpaceError if the block adds nothing, or its addition has an attention of its own.
    """
    attention = resolved[site.name]
    reason = no_merge(table, site, attention)
    if reason:
        raise SpaceError(reason)
    if attention.wiring != "concat_three":
        return site
    merge = merge_of(table, site)
    if merge is not None and merge.name in resolved:
        raise SpaceError(
            f"Wiring 'concat_three' at site '{site.name}' replaces the addition of its block, but "
            f"{resolved[merge.name].name} at '{merge.name}' does so too: leave one of them out."
        )
    return replace(site, kind="merge")


def resolve_placement(table: SiteTable, placement: Placement) -> Placement:
    """Return the placement with every attention resolved at its site, so that equal models have equal keys.

    A neutral attention (`daf` at a merge) is left out. A module of a user's network that has the same tensor as the
    site around it is named as this site.

    Raises: SpaceError if a site is unknown or named twice, or an attention does not fit.
    """
    named = _without_doubles(table, by_site_name(table, placement)).attentions
    resolved = {name: resolve_at(table.site(name), attention) for name, attention in named.items()}
    for name, attention in resolved.items():
        in_its_block(table, table.site(name), resolved)
        refuse_few_logits(attention, table.num_classes, f"At site '{name}'")
    return Placement({name: attention for name, attention in resolved.items() if not is_neutral(attention)})


def placement_cost(table: SiteTable, placement: Placement) -> Cost:
    """Return the cost of the network: that of the bare backbone plus that of every attention.

    Raises: SpaceError if a site is unknown, or an attention does not fit.
    """
    total = Cost(table.n_parameters, table.n_macs)
    for name, attention in resolve_placement(table, placement).attentions.items():
        total += cost_at(table.site(name), attention, table.num_classes)
    return total
