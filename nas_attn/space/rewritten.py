"""Which values of a space or a placement are built as others, or have parts without effect at their sites."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product

from nas_attn.attention.catalog import attention_entry
from nas_attn.attention.forms.widths import hidden_width
from nas_attn.attention.options import context_at
from nas_attn.placement import Attention, Placement, Site, SiteTable, Value
from nas_attn.space.bound import BoundSpace
from nas_attn.space.fit import as_searched, misfit, resolve_at

Remark = tuple[str, str]
"""The two halves of a sentence, between which the names of the sites are written."""

_MAP = "the map there can fill no more"
_GROUP = "a group there would have too few channels"


def notes_on_values(bound: BoundSpace) -> list[str]:
    """Return a sentence for each value of the space that is built as another one somewhere, with the sites.

    So is said which reductions coincide, and which attentions have parts without effect on their map.
    """
    found: dict[Remark, list[str]] = {}
    known: dict[tuple[str, Site], list[Remark]] = {}
    for decision in bound.decisions:
        for site in decision.sites:
            for name in decision.attentions:
                alike = (name, replace(site, name="", module="", stage=""))
                if alike not in known:
                    known[alike] = list(dict.fromkeys(_of_space(site, name, bound.space.attentions[name])))
                _collect(found, site, known[alike])
    return _sentences(found)


def notes_on_placement(table: SiteTable, placement: Placement) -> list[str]:
    """Return a sentence for each value of a placement that is built as another one, or has parts without effect.

    Raises: SpaceError if a site is unknown, or an attention does not fit.
    """
    found: dict[Remark, list[str]] = {}
    for name, attention in placement.attentions.items():
        site = table.site(name)
        resolved = resolve_at(site, attention)
        written = _complete(attention)
        remarks = [*_changes(attention.name, written, resolved, _MAP), *_unused(site, resolved)]
        _collect(found, site, remarks)
    return _sentences(found)


def _of_space(site: Site, name: str, values: Mapping[str, tuple[Value, ...]]) -> Iterator[Remark]:
    """Yield what is to be said about the values of one attention at one site."""
    reductions: dict[Value, dict[Value, None]] = {}
    for combination in product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        attention = Attention(name, {option: value for option, value in chosen.items() if value != "auto"})
        if misfit(site, attention):
            continue
        resolved = resolve_at(site, attention)
        built = as_searched(site, resolved)
        written = dict(attention.options)
        yield from _changes(name, written, resolved, _MAP)
        yield from _changes(name, written | dict(resolved.options), built, _GROUP)
        yield from _unused(site, built)
        if "reduction" in chosen and "reduction" in built.options:
            reductions.setdefault(built.options["reduction"], {})[chosen["reduction"]] = None
    for several in reductions.values():
        if len(several) > 1:
            shown = ", ".join(map(str, several))
            yield f"reduction={shown} of {name} are one choice", "their hidden width is the same"


def _changes(name: str, written: Mapping[str, Value], built: Attention, why: str) -> Iterator[Remark]:
    """Yield the options that are built with another value; a reduction has many values of one width."""
    for option, value in written.items():
        other = built.options.get(option, value)
        if option != "reduction" and value is not None and other != value:
            yield f"{option}={value} of {name} is built, and counted, as {other}", why


def _unused(site: Site, built: Attention) -> Iterator[Remark]:
    """Yield what has no effect in a resolved attention, and a bottleneck of one channel."""
    entry = attention_entry(built.name)
    reason = entry.unused(site.channels, built.options, context_at(site))
    options = ", ".join(f"{option}={value}" for option, value in built.options.items() if option in _stated(built))
    shown = f"{built.name}({options})" if options else built.name
    if reason is not None:
        yield f"{shown} has parts without effect", reason
    elif "reduction" in built.options and hidden_width(site.channels, built.options) == 1:
        yield f"{built.name}(reduction={built.options['reduction']}) has a hidden width of 1", "so one number decides"


def _stated(built: Attention) -> set[str]:
    """Return the options that differ from their defaults, and the reduction."""
    defaults = {option.name: option.default for option in attention_entry(built.name).options}
    return {option for option, value in built.options.items() if value != defaults[option]}


def _complete(attention: Attention) -> dict[str, Value]:
    """Return the written options of an attention with the defaults of the others."""
    defaults = {option.name: option.default for option in attention_entry(attention.name).options}
    written = defaults | dict(attention.options)
    return {option: value for option, value in written.items() if value != "auto"}


def _collect(found: dict[Remark, list[str]], site: Site, remarks: Iterable[Remark]) -> None:
    for remark in dict.fromkeys(remarks):
        found.setdefault(remark, []).append(site.name)


def _sentences(found: Mapping[Remark, list[str]]) -> list[str]:
    return [f"{what} at {_listed(sites)}: {why}." for (what, why), sites in found.items()]


def _listed(sites: list[str], most: int = 6) -> str:
    """Return names of sites, shortened after `most`."""
    more = f" and {len(sites) - most} more sites" if len(sites) > most else ""
    return ", ".join(sites[:most]) + more
