"""Renames the sites of a plug-in's network as its author does; each named place must be a site that was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from nas_attn.backbones.build import called, load_function
from nas_attn.backbones.entry import Backbone
from nas_attn.backbones.opening import may_open
from nas_attn.backbones.sites import Place
from nas_attn.backbones.user_network import named
from nas_attn.errors import SpaceError, unknown
from nas_attn.placement import KINDS, SWAPPED, Site, SiteTable, Survey

Found = Mapping[tuple[str, str], Site]


def with_names(found: Survey, net: nn.Module, entry: Backbone) -> Survey:
    """Return the survey with the record's `lacks`, and its sites renamed and selected by the record's `places`, if any.

    A place must coincide with a found site and takes over its shape, its convolution, and its stage unless the author
    names one. The order is that of the data flow.

    Raises: SpaceError that names the place and the reason why it is none.
    """
    table = replace(found.table, lacks=entry.lacks)
    if entry.places is None:
        return replace(found, table=table)
    sites = {(site.kind, site.name): site for site in table.sites}
    origins: dict[str, Site] = {}
    placed: list[Site] = []
    for place in (place for place in _places(net, entry.places) if not place.spelled):  # the ends are found
        if place.name in origins:
            raise SpaceError(f"Places must have names of their own, but '{place.name}' is named twice.")
        site = origins[place.name] = _origin(place, net, table, sites)
        placed.append(replace(site, name=place.name, kind=place.kind, stage=place.stage or site.stage))
    names = {site.name: name for name, site in origins.items()}
    unnamed = {end: site for end, site in table.aliases.items() if site not in names and end not in origins}
    extra = [replace(table.site(site), name=end) for end, site in unnamed.items()]
    origins |= {end: table.site(site) for end, site in unnamed.items()}
    placed.sort(key=lambda site: table.sites.index(origins[site.name]))
    order = sorted(origins, key=lambda name: table.sites.index(origins[name]))
    aliases = {end: names[site] for end, site in table.aliases.items() if site in names and end not in origins}
    copied = {name for name, site in origins.items() if site.name in found.copied}
    renamed = replace(
        table, sites=tuple(placed), extra=tuple(extra), order=tuple(order), aliases=aliases, refusals={}, doubles={}
    )
    return replace(found, table=renamed, copied=found.copied | copied)


def _places(net: nn.Module, function: str | Callable[..., Any]) -> list[Place]:
    """Return the places of the author's function. Raises: SpaceError if it raises, or returns something else."""
    noun = "places function"
    what, name_them = called(noun, function), load_function(function, noun)
    try:
        places = list(name_them(net))
    except Exception as error:  # the function is the author's: it may raise anything
        raise SpaceError(f"The {what} raised {named(error)}.") from error
    for place in places:
        if not isinstance(place, Place):
            raise SpaceError(f"The {what} must return nas_attn.Place objects, but returned {type(place).__name__}.")
    return places


def _origin(place: Place, net: nn.Module, table: SiteTable, sites: Found) -> Site:
    """Return the found site that a place coincides with. Raises: SpaceError if there is none."""
    where = f"place '{place.name}'"
    if place.kind not in KINDS:
        raise SpaceError(unknown("kind of site", place.kind, KINDS, where))
    modules = dict(net.named_modules())
    if place.module not in modules:
        raise SpaceError(unknown("module", place.module, filter(None, modules), where))
    edge = f"{place.module}.{place.kind}"
    output = table.doubles.get(place.module, place.module)
    found = sites.get((place.kind, output if place.kind == "output" else edge))
    if found is None and place.kind not in SWAPPED and not may_open(modules[place.module]):
        found = sites.get(("output", output))  # a branch that is one module: its output
    if found is None:
        why = table.refusals.get(edge) or table.refusals.get(place.module)
        raise SpaceError(
            f"Place '{place.name}' must be a site, but module '{place.module}' has none of kind '{place.kind}'"
            f"{f': {why}' if why else ''}."
        )
    return found
