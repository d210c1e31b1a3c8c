"""The output of `nas-attn sites`: a tree of the sites, the attentions that fit, and the matches of shorthands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.options import why_not
from nas_attn.backbones.catalog import check_backbone
from nas_attn.backbones.site_table import site_table
from nas_attn.backbones.written import read_network, read_options
from nas_attn.cli.lists import console_of
from nas_attn.errors import SpaceError
from nas_attn.placement import Site, SiteTable
from nas_attn.space.file import available_spaces
from nas_attn.space.patterns import block_names, covered
from nas_attn.space.search_space import N_CLASSES, SearchSpace

_KINDS = {
    "output": "after a block or module",
    "pre": "before a residual branch",
    "branch": "at the end of a residual branch, before the addition",
    "shortcut": "on a block's shortcut, before the addition",
    "hidden": "inside a branch, before its last 1x1 convolution",
    "conv": "in place of a 3x3 convolution (shown: its output channels, its input map)",
    "merge": "in place of a residual addition",
    "head": "in place of the global pooling (shown: its input map)",
}
_ENDS = {
    "stem": "behind the first convolution with its norm and activation",
    "stem.pool": "behind the pooling that follows it",
    "features": "the map that enters the global pooling",
}
MOST_REASONS = 8
"""Maximum number of reasons to show; a user's own network may have hundreds of modules that are not sites."""


def print_sites(
    network: str, options: Sequence[str], *, num_classes: int | None, in_channels: int, image_size: int | None
) -> None:
    """Print every site of a network with its kind, channels, map size and fitting attentions.

    Below the tree it explains the kinds of site and the shorthands of patterns in this network, and lists the modules
    that are not sites.

    Args:
        network: A backbone's name, `timm:NAME`, a space's name or file, or `module:function` for a user's own network.
        options: Options of the backbone, as KEY=VALUE.
        num_classes: None means 10, or one logit if the recipe of the space sets `one_logit`.
    Raises: SpaceError that names the nearest backbone or option, or the reason why the network has no sites.
    """
    spec, size, n_logits = _spec(network, options)
    size = size if image_size is None else image_size
    if size is None and "import" in spec:
        raise SpaceError(f"The image size of '{network}' must be stated: add --image-size, such as 64.")
    n_logits = n_logits if num_classes is None else num_classes
    table = site_table(spec, num_classes=n_logits, in_channels=in_channels, image_size=size)
    console = console_of(160)
    notes: list[str] = []
    console.print(_tree(table, notes), soft_wrap=True)
    _print_rows(console, "Attentions that fit", _fit_rows(notes))
    _print_rows(console, "Kinds of site", _kind_rows(table))
    _print_rows(
        console, "Ends: a pattern with * matches them, and before_conv, only if it spells their word", _end_rows(table)
    )
    _print_rows(console, "Missing sites, with the reason", [*_lack_rows(table), *_refusal_rows(table)])
    _print_rows(console, "Shorthands for patterns in a space", _shorthand_rows(table))
    for warning in filter(None, (table.stacking, table.squashed)):
        console.print(Text(f"\n{warning}", style="yellow"))


def _spec(network: str, options: Sequence[str]) -> tuple[dict[str, Any], int | None, int]:
    """Return the requested backbone, the image size of its space, and its number of logits."""
    if network in available_spaces() or network.endswith(".toml"):
        space = SearchSpace.load(network)
        spec = check_backbone({**space.backbone, **read_options(options)})
        return spec, space.data.get("image_size"), space.n_logits
    return read_network([network, *options]), None, N_CLASSES


def _tree(table: SiteTable, notes: list[str]) -> Tree:
    """Return the network as a tree with one level per dot of the sites' names, and the facts in columns.

    Args:
        notes: List to which the footnotes `[1]`, `[2]`, ... are appended.
    """
    size = f"{table.in_channels} channels, {table.image_size}x{table.image_size} pixels, {table.output}"
    root = Tree(Text.assemble((table.backbone, "bold"), f"  {size}; {table.n_parameters:,} parameters"))
    cells = {site.name: (_kind(site), _shape(site), _fitting(site, notes)) for site in table.sites}
    wide = [max((len(row[k]) for row in cells.values()), default=0) for k in (0, 1)]
    end = max((_end(name) for name in cells), default=0)
    rows = {}
    for name, (kind, shape, fitting) in cells.items():
        kinds = f"  {kind:{wide[0]}}" if wide[0] else ""
        rows[name] = f"{'':{end - _end(name)}}{kinds}  {shape:{wide[1]}}  {fitting}"
    nodes: dict[str, Tree] = {"": root}
    for name in rows:
        _node(nodes, name, rows)
    return root


def _end(name: str) -> int:
    """Return the column in which a name ends: each level of the tree is four columns wide."""
    return 4 * (name.count(".") + 1) + len(name.rpartition(".")[2])


def _node(nodes: dict[str, Tree], name: str, rows: Mapping[str, str]) -> Tree:
    """Return the node of a name; create it and its ancestors if they do not exist."""
    if name not in nodes:
        above, _, last = name.rpartition(".")
        nodes[name] = _node(nodes, above, rows).add(Text.assemble((last, "bold"), rows.get(name, "")))
    return nodes[name]


def _kind(site: Site) -> str:
    """Return the kind of a site, or an empty string if its name ends in it."""
    return "" if site.name.rpartition(".")[2] == site.kind else site.kind


def _shape(site: Site) -> str:
    return f"{site.channels}x{site.height}x{site.width}"


def _fitting(site: Site, notes: list[str]) -> str:
    """Return the attentions that fit a site with their defaults; "any" is all that keep the shape, minus a footnote."""
    entries = [entry for entry in ATTENTIONS.loadable() if site.kind in entry.kinds]
    reasons = {entry.name: why_not(entry, site, {}) for entry in entries}
    fitting = [name for name, reason in reasons.items() if reason is None]
    if not all(entry.keeps_shape for entry in entries) or len(fitting) <= len(entries) // 2:
        return ", ".join(fitting) or "nothing fits"
    missing = [name for name in reasons if name not in fitting]
    if not missing:
        return "any"
    note = f"only with other options than their defaults, or on a larger map: {', '.join(missing)}"
    if note not in notes:
        notes.append(note)
    return f"any but [{notes.index(note) + 1}]"


def _print_rows(console: Console, title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print a title and rows of two columns, the second one wrapped; print nothing if there are no rows."""
    if not rows:
        return
    console.print(Text(f"\n{title}", style="bold"))
    indent = 4 + min(max(len(name) for name, _ in rows), console.width // 2)
    for name, meaning in rows:
        first = f"  {name:{indent - 4}}  "
        lines = fill(meaning, max(console.width, indent + 20), initial_indent=first, subsequent_indent=" " * indent)
        console.print(Text(lines), soft_wrap=True)


def _fit_rows(notes: Sequence[str]) -> list[tuple[str, str]]:
    """Return the meaning of "any" and of the footnotes in the tree."""
    keeping = [entry.name for entry in ATTENTIONS.loadable() if entry.keeps_shape]
    marks = [(f"[{number}]", note) for number, note in enumerate(notes, 1)]
    return [("any", f"the {len(keeping)} that keep a map's shape: {', '.join(keeping)}"), *marks]


def _kind_rows(table: SiteTable) -> list[tuple[str, str]]:
    """Return each kind of site with the number of its sites and their position."""
    counts = Counter(site.kind for site in table.sites)
    rows = [(kind, f"{counts[kind]:>3}  {where}") for kind, where in _KINDS.items() if counts[kind]]
    between = [site for site in table.extra if site.enters]
    where = f"{len(between):>3}  as hidden, before a convolution that no other site precedes: {_summary(between)}"
    return [*rows, ("before_conv", where)] if between else rows


def _end_rows(table: SiteTable) -> list[tuple[str, str]]:
    """Return the ends of the network: those that are sites of their own, and the sites that others are."""
    names = ("stem", "stem.pool", "features")
    own = {site.name: site for site in table.extra}
    rows = {name: f"{_shape(own[name])}, {_ENDS[name]}" for name in names if name in own}
    rows |= {name: f"{table.aliases[name]}, {_ENDS[name]}" for name in names if name in table.aliases}
    return [(name, rows[name]) for name in names if name in rows]


def _lack_rows(table: SiteTable) -> list[tuple[str, str]]:
    """Return the kinds of site that the network or some of its blocks do not have, with the reason."""
    blocks = block_names(table)
    kinds: dict[str, list[str]] = {}
    for kind, why in table.lacks.items():
        having = {blocks.get(site.name) for site in table.sites if site.kind == kind}
        if not having >= set(blocks.values()):
            kinds.setdefault(why if kind not in table.kinds else f"in some blocks: {why}", []).append(kind)
    return [(", ".join(found), why) for why, found in kinds.items()]


def _refusal_rows(table: SiteTable) -> list[tuple[str, str]]:
    """Return the modules of a user's own network that are not sites, grouped by the reason."""
    names: dict[str, list[str]] = {}
    for name, why in table.refusals.items():
        names.setdefault(why, []).append(name)
    rows = [
        (found[0] if len(found) == 1 else f"{found[0]} and {len(found) - 1} more", why) for why, found in names.items()
    ]
    left_out = len(rows) - MOST_REASONS
    return rows[:MOST_REASONS] + ([("...", f"{left_out} more reasons")] if left_out > 0 else [])


def _shorthand_rows(table: SiteTable) -> list[tuple[str, str]]:
    """Return the shorthands that match at least one site, with their sites."""
    plain = ("last", "stage*.last", "every block", "conv3x3", "before_conv")
    rows = {shorthand: _summary(sites) for shorthand in plain if (sites := covered(shorthand, table))}
    kinds = {kind: len(covered(f"every block.{kind}", table)) for kind in table.kinds if kind != "output"}
    rows["every block.KIND"] = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    stages = {site.stage: len(covered(f"{site.stage}.*", table)) for site in table.sites}
    rows["stageN.*"] = ", ".join(f"{count} in {stage}" for stage, count in stages.items() if count)
    return [(shorthand, sites) for shorthand, sites in rows.items() if sites]


def _summary(sites: Sequence[Site]) -> str:
    """Return the names of a few sites; of many, their number with the first and the last name."""
    if len(sites) <= 4:
        return ", ".join(site.name for site in sites)
    return f"{len(sites)} sites, {sites[0].name} to {sites[-1].name}"
