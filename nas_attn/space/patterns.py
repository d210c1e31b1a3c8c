"""Patterns of site names: names with "*", and shorthands with one meaning in every network."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from nas_attn.errors import suggestion
from nas_attn.placement import KINDS, Site, SiteTable
from nas_attn.space.site_names import matches

SHORTHANDS = ("last", "every block", "conv3x3", "before_conv")
SPELLED = ("stem", "features", "before_conv")
"""Words of the sites that a pattern with "*" matches only if it spells them."""

_SHORTHAND = re.compile(
    r"(?:(?P<stage>stage(?:\d+|\*))\.)?(?P<what>last|conv3x3|before_conv|every block(?:\.(?P<kind>\w+))?)"
    r"|(?P<whole>stage(?:\d+|\*))\.\*\*?"
)
_BLOCK = re.compile(r"(stage\d+\.block\d+|denseblock\d+)\.")
"""The name of a block in a backbone of the catalogue."""


def covered(pattern: str, table: SiteTable, kinds: Collection[str] = KINDS) -> list[Site]:
    """Return the sites that a pattern matches, in the order of the data flow.

    In a name, "*" stays within a dot, and "**" crosses dots. A shorthand matches sites of kind `output` unless it names
    another kind:

    - `last`: the last site before the global pooling; `stage3.last` is the last one of that stage;
    - `every block`: the output of each block; `every block.branch`: the sites of that kind in each block;
    - `conv3x3`: the sites in place of a 3x3 convolution, of kind `conv`;
    - `before_conv`: the map that enters each convolution of a block's branch, under whatever name;
    - `stage3.*`: all sites of that stage, of every kind.

    Each of the first four may follow a stage and a dot; `stage*` means every stage. If a module of a user's own
    network has the name of a shorthand, the module is meant.

    The sites `stem`, `stem.pool`, `features` and those before a convolution are matched only by their names, by
    patterns that spell their word, such as `stem*`, and by `before_conv`: `*`, `**` and `stage4.*` do not match them.

    Args:
        kinds: A pattern with "*" matches only sites of these kinds.
    """
    named = _named(pattern, table)
    owned = pattern in table.refusals or any(site.is_path for site in named)
    found = named if owned else _by_shorthand(pattern, table)
    return [site for site in (named if found is None else found) if "*" not in pattern or site.kind in kinds]


def _named(pattern: str, table: SiteTable) -> list[Site]:
    """Return the sites whose name, or one of whose names, a pattern matches."""
    spelled = [site.name for site in table.extra] + list(table.aliases)
    names = {table.aliases.get(name, name) for name in spelled if matches(pattern, name) and _spells(pattern, name)}
    names |= {site.name for site in table.sites if matches(pattern, site.name)}
    names |= {site for double, site in table.doubles.items() if matches(pattern, double)}
    return [site for site in table.every_site if site.name in names]


def _spells(pattern: str, name: str) -> bool:
    """Return whether a pattern has the word of a further site: `stem*` has that of `stem.pool`, and `*.pool` none."""
    return any(word in pattern for word in SPELLED if word in name)


def _by_shorthand(pattern: str, table: SiteTable) -> list[Site] | None:
    """Return the sites that a shorthand matches; None if the pattern is not a shorthand."""
    read = _SHORTHAND.fullmatch(pattern)
    if read is None:
        return None
    stage = read["whole"] or read["stage"]
    sites = [site for site in table.sites if stage is None or matches(stage, site.stage)]
    if read["whole"]:
        return list({(site.module, site.kind): site for site in reversed(sites)}.values())[::-1]  # one name per place
    if "before_conv" in (read["what"], read["kind"]):
        fed = [site for site in table.every_site if site.name in table.before_conv]
        fed = [site for site in fed if stage is None or matches(stage, site.stage)]
        return fed if read["kind"] is None else [site for site in fed if _BLOCK.match(f"{site.name}.")]
    if read["what"] == "conv3x3":
        return [site for site in sites if site.kind == "conv"]
    if read["what"] == "last":
        ends = [site for site in _before_pooling(table) if site in sites and site.kind == "output"]
        return list({site.stage if stage else "": site for site in ends}.values())
    blocks, kind = block_names(table), read["kind"] or "output"
    inside = [site for site in sites if site.kind == kind and site.name in blocks]
    return [site for site in inside if kind != "output" or _ends(site, blocks[site.name], table)]


def _before_pooling(table: SiteTable) -> Sequence[Site]:
    """Return the sites before the global pooling, without the 1x1 maps that follow it."""
    heads = [index for index, site in enumerate(table.sites) if site.kind == "head"]
    end = heads[-1] if heads else len(table.sites)
    behind = table.sites[end:]
    ends_there = all(site.kind == "head" or site.height * site.width == 1 for site in behind)
    return table.sites[:end] if ends_there else table.sites


def _ends(site: Site, block: str, table: SiteTable) -> bool:
    """Return whether a site is the output of the block itself, not of a module inside it."""
    return site.name in (block, table.doubles.get(block)) or (not site.is_path and site.name == f"{block}.output")


def block_names(table: SiteTable) -> Mapping[str, str]:
    """Return the innermost block of each site that lies in a block.

    In a backbone of the catalogue, a block is recognised by its name; in a user's own network, it is a residual block
    that can be opened; a module around it that ends in the block may be the name of its output.
    """
    opened = [site.name.removesuffix(".branch") for site in table.sites if site.is_path and site.kind == "branch"]
    names = {site.name: block for site in table.sites if (block := _block_of(site, opened)) is not None}
    return names | {table.doubles[block]: block for block in opened if block in table.doubles}


def _block_of(site: Site, opened: Collection[str]) -> str | None:
    if not site.is_path:
        found = _BLOCK.match(f"{site.name}.")
        return found[1] if found else None
    words = site.name.split(".")
    above = (".".join(words[:n]) for n in range(len(words), 0, -1))
    return next((path for path in above if path in opened), None)


def position_of(pattern: str) -> str:
    """Return the name of the position in a block that a pattern of `one_of` matches.

    >>> position_of("stage*.block*.pre"), position_of("every block.branch"), position_of("every block")
    ('pre', 'branch', 'output')
    """
    return "output" if pattern.endswith("every block") else pattern.rpartition(".")[2]


def shorthands_of(table: SiteTable) -> dict[str, list[Site]]:
    """Return the shorthands that match at least one site of a network, with these sites."""
    stages = dict.fromkeys(site.stage for site in table.sites)
    shorthands = ["last", *[f"{stage}.last" for stage in stages], "every block"]
    shorthands += [f"every block.{kind}" for kind in table.kinds if kind not in ("output", "head")]
    shorthands += ["conv3x3", "before_conv", *[f"{stage}.*" for stage in stages]]
    return {shorthand: sites for shorthand in shorthands if (sites := covered(shorthand, table))}


def no_match(pattern: str, table: SiteTable, kinds: Sequence[str], place: str, listing: str | None) -> str:
    """Return the sentence for a pattern that matches no site.

    Args:
        kinds: Kinds of site that the attentions of the pattern fit.
        listing: Command that lists the sites.
    """
    start = f"Pattern '{pattern}' in {place} matches no site of {table.backbone}"
    others = dict.fromkeys(site.kind for site in covered(pattern, table))
    if others:
        return (
            f"Pattern '{pattern}' in {place} matches only sites of kind {', '.join(sorted(others))}, which none of its "
            f"attentions fits: they fit {', '.join(kinds)}."
        )
    refused = next((name for name in table.refusals if matches(pattern, name)), None)
    if refused is not None:
        return f"{start}: nothing can be placed at '{refused}' ({table.refusals[refused]})."
    return f"{start}{_reason(pattern, table, listing)}"


def _reason(pattern: str, table: SiteTable, listing: str | None) -> str:
    """Return the end of a sentence: what the network has no site of, otherwise the nearest names."""
    read = _SHORTHAND.fullmatch(pattern)
    stage = (read["whole"] or read["stage"]) if read else None
    stages = list(dict.fromkeys(site.stage for site in table.sites))
    if stage is not None and not any(matches(stage, name) for name in stages):
        return f", whose stages are {', '.join(stages)}."
    kind = {"conv3x3": "conv"}.get(read["what"] if read else "", pattern.rpartition(".")[2])
    absent = table.no_site_of(kind)
    if absent:
        return f": {absent}"
    if read and "before_conv" in (read["what"], read["kind"]):
        return (
            ": the maps before its convolutions are known for networks of the catalogue only; use 'every block.pre', "
            "or the names of its sites."
        )
    if read and read["kind"] and kind not in KINDS:
        return f": unknown kind of site {kind!r}{suggestion(kind, KINDS)}"
    if read and not block_names(table):
        return f": {_no_block(table)}"
    if read:
        return f": it has sites of kind '{kind}', but none of them is in a block."
    known = [
        *(site.name for site in table.sites),
        *table.further_like(pattern.rpartition(".")[2]),
        *(shorthand for shorthand in SHORTHANDS if covered(shorthand, table)),
    ]
    return suggestion(pattern.replace("*", "1"), known, listing)


def _no_block(table: SiteTable) -> str:
    """Return the end of a sentence for a network without blocks."""
    refused = next((why for name, why in table.refusals.items() if name.endswith(".branch")), None)
    kinds = f"its kinds of site are {', '.join(table.kinds)}."
    return f"it has no residual block that can be opened{f' ({refused})' if refused else ''}; {kinds}"
