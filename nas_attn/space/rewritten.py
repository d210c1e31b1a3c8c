"""Which values of a space are built as others: a kernel that a map cannot fill, groups that would be too small."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from nas_attn.placement import Attention, Site, Value
from nas_attn.space.bound import BoundSpace
from nas_attn.space.fit import as_searched, misfit, resolve_at

Rewritten = tuple[str, str, Value, Value, str]
"""An attention, its option, the value in the space file, the value that is built, and why."""

_MAP = "the map there can fill no more"
_GROUP = "a group there would have too few channels"


def notes_on_values(bound: BoundSpace) -> list[str]:
    """Return a sentence for each value of the space that is built as another one somewhere, with the sites.

    A reduction that leaves the same hidden width as another one is not mentioned.
    """
    found: dict[Rewritten, list[str]] = {}
    for decision in bound.decisions:
        for site in decision.sites:
            for attention in decision.attentions:
                for change in dict.fromkeys(_changes(bound, site, attention)):
                    found.setdefault(change, []).append(site.name)
    return [
        f"{option}={written} of {attention} is built, and counted, as {built} at {_listed(sites)}: {why}."
        for (attention, option, written, built, why), sites in found.items()
    ]


def _changes(bound: BoundSpace, site: Site, name: str) -> Iterator[Rewritten]:
    """Yield what one site changes in the values of one attention."""
    values = bound.space.attentions[name]
    for combination in product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        written = {option: value for option, value in chosen.items() if value != "auto"}
        attention = Attention(name, written)
        if misfit(site, attention):
            continue
        resolved = resolve_at(site, attention)
        for built, why in ((resolved, _MAP), (as_searched(site, resolved), _GROUP)):
            for option, value in written.items():
                if option != "reduction" and built.options.get(option, value) != value:
                    yield name, option, value, built.options[option], why
                    written[option] = built.options[option]


def _listed(sites: list[str], most: int = 6) -> str:
    """Return names of sites, shortened after `most`."""
    more = f" and {len(sites) - most} more sites" if len(sites) > most else ""
    return ", ".join(sites[:most]) + more
