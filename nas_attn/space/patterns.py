"""Which sites a pattern covers: names with "*", and shorthands that mean the same in every network."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache

from nas_attn.errors import suggestion
from nas_attn.placement import KINDS, Site, SiteTable

SHORTHANDS = ("last", "every block", "conv3x3")

_SHORTHAND = re.compile(
    r"(?:(?P<stage>stage(?:\d+|\*))\.)?(?P<what>last|conv3x3|every block(?:\.(?P<kind>\w+))?)"
    r"|(?P<whole>stage(?:\d+|\*))\.\*\*?"
)
_BLOCK = re.compile(r"(stage\d+\.block\d+|denseblock\d+)\.")
"""What the catalogue calls a block."""


def covered(pattern: str, table: SiteTable, kinds: Collection[str] = KINDS) -> list[Site]:
    """Return the sites that a pattern covers, in the order of the data flow.

    In a name, "*" stays within a dot, and "**" crosses dots. A shorthand covers `output` sites but for the others that
    it names:

    - `last`: the last one, before the pooling to a pixel; `stage3.last` is the last of that stage;
    - `every block`: each block's own one; `every block.branch`: the sites of that kind in each block;
    - `conv3x3`: the sites in place of a 3x3 convolution, of kind `conv`;
    - `stage3.*`: all sites of that stage, of every kind.

    A stage and a dot may stand before each; `stage*` is every stage. Names of modules in a network of the user's own go
    before a shorthand.

    Args:
        kinds: What a pattern with "*" passes over is of none of these kinds.
    """
    named = [site for site in table.sites if matches(pattern, site.name)]
    owned = pattern in table.refusals or any(site.is_path for site in named)
    found = named if owned else _stands_for(pattern, table)
    return [site for site in (named if found is None else found) if "*" not in pattern or site.kind in kinds]


def matches(pattern: str, name: str) -> bool:
    """Return whether a pattern covers a name: "*" stays within a dot, "**" crosses dots.

    >>> matches("stage*.block1", "stage3.block1"), matches("stage*", "stage3.block1"), matches("**1", "stage3.block1")
    (True, False, True)
    """
    return _compiled(pattern).fullmatch(name) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    wild = {"**": ".*", "*": "[^.]*"}
    return re.compile("".join(wild.get(part) or re.escape(part) for part in re.split(r"(\*\*|\*)", pattern)))


def _stands_for(pattern: str, table: SiteTable) -> list[Site] | None:
    """Return the sites that a shorthand stands for; None if it is none."""
    read = _SHORTHAND.fullmatch(pattern)
    if read is None:
        return None
    stage = read["whole"] or read["stage"]
    sites = [site for site in table.sites if stage is None or matches(stage, site.stage)]
    if read["whole"]:
        return list({(site.module, site.kind): site for site in reversed(sites)}.values())[::-1]  # a place has one name
    if read["what"] == "conv3x3":
        return [site for site in sites if site.kind == "conv"]
    if read["what"] == "last":
        ends = [site for site in _before_pooling(table) if site in sites and site.kind == "output"]
        return list({site.stage if stage else "": site for site in ends}.values())
    blocks, kind = block_names(table), read["kind"] or "output"
    inside = [site for site in sites if site.kind == kind and site.name in blocks]
    return [site for site in inside if kind != "output" or _ends(site, blocks[site.name])]


def _before_pooling(table: SiteTable) -> Sequence[Site]:
    """Return the sites without the pixels at the end, behind the pooling that leads to the classifier."""
    heads = [index for index, site in enumerate(table.sites) if site.kind == "head"]
    end = heads[-1] if heads else len(table.sites)
    behind = table.sites[end:]
    ends_there = all(site.kind == "head" or site.height * site.width == 1 for site in behind)
    return table.sites[:end] if ends_there else table.sites


def _ends(site: Site, block: str) -> bool:
    """Tell whether a site is the block's own output, and not that of a module inside."""
    return site.name == block or (not site.is_path and site.name == f"{block}.output")


def block_names(table: SiteTable) -> Mapping[str, str]:
    """Return the block that a site lies in, the innermost one, for each site that lies in one.

    The catalogue's blocks are called so; in a network of the user's own, a block is what opens as a residual block.
    """
    opened = {site.name.removesuffix(".branch") for site in table.sites if site.is_path and site.kind == "branch"}
    return {site.name: block for site in table.sites if (block := _block_of(site, opened)) is not None}


def _block_of(site: Site, opened: Collection[str]) -> str | None:
    if not site.is_path:
        found = _BLOCK.match(f"{site.name}.")
        return found[1] if found else None
    words = site.name.split(".")
    above = (".".join(words[:n]) for n in range(len(words), 0, -1))
    return next((path for path in above if path in opened), None)


def position_of(pattern: str) -> str:
    """Return what a pattern of `one_of` calls its place in a block.

    >>> position_of("stage*.block*.pre"), position_of("every block.branch"), position_of("every block")
    ('pre', 'branch', 'output')
    """
    return "output" if pattern.endswith("every block") else pattern.rpartition(".")[2]


def shorthands_of(table: SiteTable) -> dict[str, list[Site]]:
    """Return the shorthands that cover something in a network, with what they cover."""
    stages = dict.fromkeys(site.stage for site in table.sites)
    words = ["last", *[f"{stage}.last" for stage in stages], "every block"]
    words += [f"every block.{kind}" for kind in table.kinds if kind not in ("output", "head")]
    words += ["conv3x3", *[f"{stage}.*" for stage in stages]]
    return {word: sites for word in words if (sites := covered(word, table))}


def no_match(pattern: str, table: SiteTable, kinds: Sequence[str], place: str, listing: str | None) -> str:
    """Return the sentence for a pattern that covers no site.

    Args:
        kinds: The kinds of site that what stands there fits.
        listing: The command that lists the sites.
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
    """Return the end of a sentence: what a network has no site of, else the nearest names."""
    read = _SHORTHAND.fullmatch(pattern)
    stage = (read["whole"] or read["stage"]) if read else None
    stages = list(dict.fromkeys(site.stage for site in table.sites))
    if stage is not None and not any(matches(stage, name) for name in stages):
        return f", whose stages are {', '.join(stages)}."
    kind = "conv" if read and read["what"] == "conv3x3" else pattern.rpartition(".")[2]
    absent = table.no_site_of(kind)
    if absent:
        return f": {absent}"
    if read and read["kind"] and kind not in KINDS:
        return f": unknown kind of site {kind!r}{suggestion(kind, KINDS)}"
    if read and not block_names(table):
        return f": {_no_block(table)}"
    if read:
        return f": it has sites of kind '{kind}', but none of them lies in a block."
    known = [*(site.name for site in table.sites), *(word for word in SHORTHANDS if covered(word, table))]
    return suggestion(pattern.replace("*", "1"), known, listing)


def _no_block(table: SiteTable) -> str:
    """Return the end of a sentence about a network without blocks."""
    refused = next((why for name, why in table.refusals.items() if name.endswith(".branch")), None)
    kinds = f"its kinds of site are {', '.join(table.kinds)}."
    return f"it has no residual block that can be opened{f' ({refused})' if refused else ''}; {kinds}"
