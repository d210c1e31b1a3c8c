"""One page for each backbone of the catalogue with its sites, a list of all, and the networks of papers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from generators.markdown import block, code, options_table, plain, table, value
from nas_attn.backbones.catalog import BACKBONES, check_backbone
from nas_attn.backbones.entry import Backbone, BackboneOption
from nas_attn.backbones.site_table import site_table
from nas_attn.placement import Site, SiteTable
from nas_attn.space.file import available_spaces
from nas_attn.space.published import Published, available_published, load_published
from nas_attn.space.search_space import SearchSpace

SHAPE = {"num_classes": 10, "in_channels": 3}
OPEN = 40
"""A longer table of sites is folded."""


def pages() -> dict[str, str]:
    """Return the pages by their paths."""
    entries = [BACKBONES[name] for name in BACKBONES.own]
    found = {"networks/index.md": _index(entries), "published.md": _published()}
    return found | {path(entry.name): _page(entry) for entry in entries}


def path(name: str) -> str:
    """Return the path of a backbone's page."""
    return f"networks/{name}.md"


def _index(entries: Sequence[Backbone]) -> str:
    rows = []
    for entry in entries:
        sites = site_table(entry.name, **SHAPE)
        size = f"{sites.image_size}"
        rows.append(
            (f"[{entry.name}]({entry.name}.md)", entry.summary, size, f"{sites.n_parameters:,}", str(len(sites.sites)))
        )
    return "\n\n".join(
        [
            "# Networks and their sites",
            f"The catalogue has {len(entries)} backbones; torchvision's where torchvision has them. Image size is the "
            "default, in pixels; parameters and sites are counted at it, for 3 channels and 10 classes.",
            table(("backbone", "description", "image size", "parameters", "sites"), rows),
            "Any network of timm is `timm:NAME` (see [your network](../network.md#a-network-of-timm)), and a network "
            "of your own needs no entry. `nas-attn sites NETWORK` draws each of them as a tree, and says what fits at "
            "each site. The kinds of site are explained in the [glossary](../glossary.md#kind-of-site).",
        ]
    )


def _page(entry: Backbone) -> str:
    sites = site_table(entry.name, **SHAPE)
    smallest, default = entry.image_sizes(check_backbone(entry.name))
    parts = [
        f"# {entry.name}",
        f"{entry.summary}.",
        f"**Source:** {entry.source}.",
        f"Smallest image: {smallest}x{smallest} pixels. At the default of {default}x{default}, with 3 channels and 10 "
        f"classes, it has {sites.n_parameters:,} parameters and needs {sites.n_macs:,} multiply-adds for an image.",
        "## Options",
        options_table(entry.options, _values),
        "## Kinds of site",
        _kinds(sites),
        "## Sites",
        f"At {sites.image_size}x{sites.image_size} pixels. At a site of kind `conv` or `head` the map is the one that "
        "enters, elsewhere the one that passes.",
        _sites(sites),
        "## Ends",
        "A pattern with `*` matches these only if it spells `stem` or `features`. The shorthand `before_conv` stands "
        f"for the map that enters each convolution of a block's branch: {len(sites.before_conv)} sites here.",
        _ends(sites),
        "## See it",
        block(f"nas-attn sites {entry.name}", "sh"),
        _spaces(entry.name),
    ]
    if sites.stacking:
        parts.insert(3, f"!!! note\n    {plain(sites.stacking)}")
    return "\n\n".join(part for part in parts if part)


def _values(option: BackboneOption) -> str:
    """Return in words what values an option takes."""
    if option.type == "bool":
        return "true, false"
    if option.choices:
        return ", ".join(map(str, option.choices))
    words = {"ints": f"1 to {option.longest} whole numbers", "int": "whole", "str": "a word"}.get(option.type, "")
    low = "" if option.low is None else f" from {option.low:g}"
    high = "" if option.high is None else f" to {option.high:g}"
    return f"{words}{low}{high}".strip()


def _kinds(sites: SiteTable) -> str:
    counts = Counter(site.kind for site in sites.sites)
    rows = [(code(kind), str(counts[kind]), plain(sites.lacks.get(kind, ""))) for kind in sites.kinds]
    rows += [(code(kind), "0", plain(why)) for kind, why in sites.lacks.items() if kind not in sites.kinds]
    return table(("kind", "sites", "why none, or not in every block"), rows)


def _sites(sites: SiteTable) -> str:
    rows = [(code(site.name), site.kind, _shape(site), site.stage) for site in sites.sites]
    found = table(("site", "kind", "C, H, W", "stage"), rows)
    if len(rows) <= OPEN:
        return found
    folded = "\n".join(f"    {line}" for line in found.splitlines())
    return f'??? note "All {len(rows)} sites"\n\n{folded}'


def _ends(sites: SiteTable) -> str:
    """Return the ends of the network, each a site of its own or another name of one."""
    names = ("stem", "stem.pool", "features")
    known = [name for name in names if name in sites.aliases or any(site.name == name for site in sites.extra)]
    rows = [(code(name), _shape(sites.site(name)), code(sites.site(name).name)) for name in known]
    return table(("name", "C, H, W", "site"), rows)


def _shape(site: Site) -> str:
    return f"{site.channels}x{site.height}x{site.width}"


def _spaces(name: str) -> str:
    """Return which shipped spaces search in this backbone."""
    found = [space for space in sorted(available_spaces()) if SearchSpace.load(space).backbone.get("name") == name]
    return f"Spaces that come with the package: {', '.join(code(space) for space in found)}." if found else ""


def _published() -> str:
    networks = [load_published(name) for name in available_published()]
    rows = [
        (
            f"[{network.name}](#{network.name})",
            code(network.backbone["name"]),
            f"{network.n_parameters:,}",
            "" if network.published_parameters is None else f"{network.published_parameters:,}",
        )
        for network in networks
    ]
    intro = [
        "# Networks of papers",
        "Networks that somebody published, rebuilt as placements in a backbone of the catalogue. `--arm "
        "published:NAME` retrains one beside the arms of a search in the same backbone. *Published* is the number of "
        "trainable parameters that the paper states or the authors' code has; where it is empty, nobody published one. "
        "*Departs* says how the network differs from its source, or the source's code from its text.",
        table(("network", "backbone", "parameters", "published"), rows),
        "The same list, and one network in full:",
        block("nas-attn published\nnas-attn published cbam_resnet50", "sh"),
    ]
    return "\n\n".join([*intro, *(_one_published(network) for network in networks)])


def _one_published(network: Published) -> str:
    cost, size = network.cost(), network.image_size
    options = ", ".join(f"{key} = {value(stored)}" for key, stored in network.backbone.items() if key != "name")
    rows = [
        ("source", plain(network.source)),
        ("backbone", f"{code(network.backbone['name'])} {options and f'({options})'}".strip()),
        ("input", f"{network.in_channels} channels, {size}x{size}, {network.table.output}"),
        ("cost", f"{cost.n_parameters:,} parameters, {cost.n_macs:,} multiply-adds"),
        *([("published", f"{network.published_parameters:,} parameters")] if network.published_parameters else []),
        *([("departs", plain(network.departs))] if network.departs else []),
        *([("note", plain(network.note))] if network.note else []),
        *((", ".join(code(pattern) for pattern in patterns), code(placed)) for patterns, placed in network.sites),
    ]
    return f"## {network.name}\n\n{plain(network.title)}.\n\n" + table(("", ""), rows)
