"""What `nas-attn sites` prints: the sites of a network as a tree, and what fits where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text
from rich.tree import Tree

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.options import why_not
from nas_attn.backbones.catalog import check_backbone
from nas_attn.backbones.table import site_table
from nas_attn.errors import SpaceError
from nas_attn.listing import console_of
from nas_attn.placement import Site, SiteTable
from nas_attn.space import SearchSpace, available_spaces


def print_sites(
    network: str, options: Sequence[str], *, num_classes: int, in_channels: int, image_size: int | None
) -> None:
    """Print every site of a network with its kind, its channels and map, and what fits there.

    Args:
        network: A backbone's name, a space's name or file, or `module:function` for a network of one's own.
        options: Options of the backbone, as KEY=VALUE.
    Raises: SpaceError that names the nearest backbone or option, or says why the network has no sites.
    """
    spec, size = _spec(network, options)
    shape = {"num_classes": num_classes, "in_channels": in_channels}
    table = site_table(spec, **shape, image_size=size if image_size is None else image_size)
    console_of(160).print(_tree(table), soft_wrap=True)


def _spec(network: str, options: Sequence[str]) -> tuple[dict[str, Any], int | None]:
    """Return the backbone that is meant, and the image size that its space wishes."""
    given = dict(_read(word) for word in options)
    if network in available_spaces() or network.endswith(".toml"):
        space = SearchSpace.load(network)
        return check_backbone({**space.backbone, **given}), space.file.data.image_size
    return check_backbone({"import" if ":" in network else "name": network, **given}), None


def _read(word: str) -> tuple[str, Any]:
    """Read KEY=VALUE; a value is a whole number, a number, a list of them with commas, or a word."""
    key, equals, text = word.partition("=")
    if not key or not equals:
        raise SpaceError(f"An option of a network must be KEY=VALUE, but got '{word}': write stem=small.")
    parts = [_number(part) for part in text.split(",")]
    return key, parts if len(parts) > 1 else parts[0]


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _tree(table: SiteTable) -> Tree:
    """Return the network: a level a dot of the sites' names."""
    size = f"{table.in_channels} channels, {table.image_size}x{table.image_size} pixels, {table.num_classes} classes"
    root = Tree(Text.assemble((table.backbone, "bold"), f"  {size}; {table.n_parameters:,} parameters"))
    nodes: dict[str, Tree] = {"": root}
    sites = {site.name: site for site in table.sites}
    for name in sites:
        _node(nodes, name, sites)
    if table.stacking:
        root.add(Text(table.stacking, style="yellow"))
    kinds = dict.fromkeys(site.kind for site in table.sites)
    root.add(Text(f"{len(sites)} sites of the kinds {', '.join(kinds)}", style="dim"))
    return root


def _node(nodes: dict[str, Tree], name: str, sites: Mapping[str, Site]) -> Tree:
    """Return the node of a name, made with those above it where they are not there yet."""
    if name not in nodes:
        above, _, last = name.rpartition(".")
        label = Text(last, style="bold")
        if name in sites:
            site = sites[name]
            shape = f"{site.channels}x{site.height}x{site.width}"
            kind = "" if last == site.kind else f"{site.kind}, "
            label.append(f"  {kind}{shape}, {_fitting(site)}", style="not bold")
        nodes[name] = _node(nodes, above, sites).add(label)
    return nodes[name]


def _fitting(site: Site) -> str:
    """Return the attentions that fit a site with their defaults: named, or all of its kind but the named ones."""
    entries = [entry for entry in ATTENTIONS.loadable() if site.kind in entry.kinds]
    fitting = [entry.name for entry in entries if why_not(entry, site, {}) is None]
    missing = [entry.name for entry in entries if entry.name not in fitting]
    if len(fitting) <= len(missing) or len(entries) <= 4:
        return ", ".join(fitting) or "nothing fits"
    return f"all {len(entries)} that keep a shape" + (f" but {', '.join(missing)}" if missing else "")
