"""A space for a network without a space file, made from its sites: which of them, which attentions, which values.

The sites are the outputs of blocks; in a network without blocks, of the parts that it is written in. Each attention is
checked at each site, and each value of an option at all sites of its attention.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, product
from typing import Any, Literal

from nas_attn.errors import SpaceError
from nas_attn.placement import Attention, Site, SiteTable, Value
from nas_attn.space.fit import misfit
from nas_attn.space.patterns import covered

MOST_DECISIONS = 16
"""Greatest number of decisions per site; with more sites, those of a stage share one decision."""

ATTENTIONS: Mapping[str, Mapping[str, tuple[Value, ...]]] = {
    "se": {"reduction": (16, 4, 8, 2)},
    "eca": {},
    "cbam": {"reduction": (16, 4, 8, 2), "kernel_size": (7, 3)},
}
"""The attentions, and the values of their options, the preferred ones first. Few values: reductions from 2 to 16 differ
by 0.04 points on ImageNet (SE, Table 10), a 3x3 from a 7x7 kernel by 0.02 (CBAM)."""

_MOST_VALUES, _MOST_REASONS, _MOST_SHOWN = 2, 8, 8


@dataclass(frozen=True)
class SiteGroup:
    """The sites of one stage that take the same attentions: a `[[sites]]` table.

    Args:
        n_blocks: Number of those that are outputs of blocks; the others are outputs of other parts.
    """

    stage: str
    sites: tuple[Site, ...]
    attentions: tuple[str, ...]
    n_blocks: int

    @property
    def in_words(self) -> str:
        """What the group is, with its channels and the sizes of its maps."""
        counts = {"block": self.n_blocks, "part": len(self.sites) - self.n_blocks}
        counted = [f"{n} {noun}{'s' if n > 1 else ''}" for noun, n in counts.items() if n]
        channels = sorted({site.channels for site in self.sites})
        maps = dict.fromkeys(f"{site.height}x{site.width}" for site in self.sites)
        wide = f"{channels[0]}" if len(channels) == 1 else f"{channels[0]} to {channels[-1]}"
        each = "outputs" if len(self.sites) > 1 else "output"
        return f"{self.stage}: the {each} of {' and '.join(counted)}, {wide} channels, maps of {', '.join(maps)}"


@dataclass(frozen=True)
class DefaultSpace:
    """The content of a space that was made from a network's sites.

    Args:
        options: Attention -> its options with the values to search.
        share: One decision per site, or per stage.
    """

    table: SiteTable
    groups: tuple[SiteGroup, ...]
    options: Mapping[str, Mapping[str, tuple[Value, ...]]]
    share: Literal["site", "stage"]

    @property
    def attentions(self) -> tuple[str, ...]:
        """The attentions of any group."""
        return tuple(name for name in ATTENTIONS if any(name in group.attentions for group in self.groups))

    def patterns(self, group: SiteGroup) -> list[str]:
        """Return the patterns of a group: the names of its sites, or for many a shorthand that matches exactly them."""
        shorthand = f"{group.stage}.every block"
        if len(group.sites) > _MOST_SHOWN and tuple(covered(shorthand, self.table)) == group.sites:
            return [shorthand]
        return [site.name for site in group.sites]

    def to_dict(self, backbone: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the content of a space file.

        Args:
            backbone: The network's spec; None for one that is passed in.
        """
        record: dict[str, Any] = {
            "title": f"Attention in {self.table.backbone}",
            "sites": [
                {
                    "match": self.patterns(group),
                    "share": self.share,
                    "attentions": list(group.attentions),
                }
                for group in self.groups
            ],
            "attentions": {name: {option: list(values) for option, values in found.items()}
                           for name, found in self.options.items() if found},
        }  # fmt: skip
        return record if backbone is None else {"backbone": dict(backbone)} | record

    @property
    def in_words(self) -> str:
        """One sentence on the space: its attentions and its sites."""
        names = [site.name for group in self.groups for site in group.sites]
        some = len(names) <= _MOST_SHOWN
        shown = ", ".join(names) if some else f"{len(names)} sites, {names[0]} to {names[-1]}"
        each = "one decision per stage" if self.share == "stage" else "one decision per site"
        return f"{', '.join(self.attentions)} at {shown} ({each})"


def default_space(table: SiteTable) -> DefaultSpace:
    """Return the space for a network whose sites are known.

    Raises: SpaceError if no site takes any of the attentions, with the reason for each part of the network.
    """
    sites, blocks = _chosen(table)
    values = {name: _values(name, options, sites) for name, options in ATTENTIONS.items()}
    fitting = {
        site.name: tuple(name for name in ATTENTIONS if _fits_with_all(site, name, values[name])) for site in sites
    }
    sites = [site for site in sites if fitting[site.name]]
    if not sites:
        raise SpaceError(_no_site(table))
    return DefaultSpace(
        table,
        _groups(sites, fitting, blocks),
        {name: values[name] for name in ATTENTIONS if any(name in fitting[site.name] for site in sites)},
        "site" if len(sites) <= MOST_DECISIONS else "stage",
    )


def _groups(
    sites: Sequence[Site], fitting: Mapping[str, tuple[str, ...]], blocks: Collection[str]
) -> tuple[SiteGroup, ...]:
    """Group the sites by their stage and the attentions that fit them."""
    grouped: dict[tuple[str, tuple[str, ...]], list[Site]] = {}
    for site in sites:
        grouped.setdefault((site.stage, fitting[site.name]), []).append(site)
    return tuple(
        SiteGroup(stage, tuple(found), names, sum(site.name in blocks for site in found))
        for (stage, names), found in grouped.items()
    )


def _chosen(table: SiteTable) -> tuple[list[Site], set[str]]:
    """Return the sites in the order of the data flow, and the names of those that are outputs of blocks."""
    outputs = [site for site in table.sites if site.kind == "output"]
    outputs = [site for site in outputs if site.height * site.width > 1] or outputs
    blocks = {site.name for site in covered("every block", table) if site in outputs}
    outputs = _one_per_place(outputs, blocks)
    parts = _other_outputs(outputs, blocks) if blocks and not outputs[0].is_path else _parts(outputs, blocks, table)
    chosen = [site for site in outputs if site.name in blocks or site.name in parts]
    return chosen or _ends_of_runs(outputs), blocks


def _one_per_place(outputs: Sequence[Site], blocks: Collection[str]) -> list[Site]:
    """Return one site per place: a block if it is one, otherwise the outermost; a Sequential ends as its last child."""
    places: dict[str, Site] = {}
    for site in sorted(outputs, key=lambda site: (site.name not in blocks, len(site.name))):
        places.setdefault(site.module, site)
    return [site for site in outputs if places[site.module] is site]


def _other_outputs(outputs: Sequence[Site], blocks: Collection[str]) -> set[str]:
    """Return the outputs behind the first block that change the number of channels: the transitions of a DenseNet."""
    names = [site.name for site in outputs]
    around = [site for site in outputs if not _is_inside(site.name, blocks) or site.name in blocks]
    first = min(names.index(name) for name in blocks)
    return {
        site.name
        for before, site in pairwise(around)
        if site.name not in blocks and names.index(site.name) > first and site.channels != before.channels
    }


def _parts(outputs: Sequence[Site], blocks: Collection[str], table: SiteTable) -> set[str]:
    """Return the parts of a network of the user's that have parts themselves: the finest level that is fine enough.

    Beside blocks they are the outermost parts behind the first block, such as blocks that change the map and have no
    shortcut.
    """
    names = [site.name for site in outputs]
    inner = {*names, *(site.name for site in table.sites)}
    composite = [
        name for name in names if any(other.startswith(f"{name}.") for other in inner if other != f"{name}.conv")
    ]
    composite = [
        name for name in composite if not _is_inside(name, blocks) and not any(_is_inside(b, [name]) for b in blocks)
    ]
    if blocks:
        first = min(names.index(name) for name in blocks)
        composite = [name for name in composite if names.index(name) > first]
    levels = [_level(composite, depth) for depth in range(1 + max((name.count(".") for name in composite), default=0))]
    if blocks:
        return set(levels[0])
    several = [level for level in levels if len(level) > 1]
    fine = [level for level in several if len(level) <= MOST_DECISIONS]
    return set((fine or several[:1] or [[]])[-1])


def _level(composite: Sequence[str], depth: int) -> list[str]:
    """Return the parts with `depth` parts around them, and those with fewer that have no parts that count inside."""
    around = {name: sum(_is_inside(name, [other]) for other in composite if other != name) for name in composite}
    ends = {name for name in composite if not any(_is_inside(other, [name]) for other in composite if other != name)}
    return [name for name in composite if around[name] == depth or (around[name] < depth and name in ends)]


def _is_inside(name: str, parts: Collection[str]) -> bool:
    """Return whether a name is that of one of these parts, or of something inside it."""
    return any(f"{name}.".startswith(f"{part.removesuffix('.output')}.") for part in parts)


def _ends_of_runs(outputs: Sequence[Site]) -> list[Site]:
    """Return the last of each run of outputs with the same number of channels."""
    return [list(run)[-1] for _, run in groupby(outputs, key=lambda site: site.channels)]


def _values(name: str, options: Mapping[str, Sequence[Value]], sites: Sequence[Site]) -> dict[str, tuple[Value, ...]]:
    """Return the preferred values of each option that fit most of the sites, in ascending order."""
    found: dict[str, tuple[Value, ...]] = {}
    for option, values in options.items():
        count = {value: sum(_fits(site, name, {option: value}, options) for site in sites) for value in values}
        most = max(count.values())
        kept = [value for value in values if count[value] == most][:_MOST_VALUES]
        found[option] = tuple(sorted(kept, key=lambda value: (str(type(value)), value)))
    return found


def _fits(site: Site, name: str, chosen: Mapping[str, Value], options: Mapping[str, Sequence[Value]]) -> bool:
    """Return whether an attention fits with these options, and the least demanding values of the others."""
    complete = {**{option: values[-1] for option, values in options.items()}, **chosen}
    return misfit(site, Attention(name, complete)) is None


def _fits_with_all(site: Site, name: str, options: Mapping[str, Sequence[Value]]) -> bool:
    """Return whether an attention fits with every combination of these values."""
    combinations = product(*options.values())
    return all(
        misfit(site, Attention(name, dict(zip(options, values, strict=True)))) is None for values in combinations
    )


def _no_site(table: SiteTable) -> str:
    """Return the sentence for a network without a site, with the reason for each part of it."""
    start = f"No site of {table.backbone} takes attention ({', '.join(ATTENTIONS)})"
    reasons = [f"'{name}': {why}" for name, why in table.refusals.items()] or list(table.lacks.values())
    more = len(reasons) - _MOST_REASONS
    shown = "; ".join(reasons[:_MOST_REASONS]) + (f"; and {more} more" if more > 0 else "")
    return f"{start}: {shown}." if shown else f"{start}: it has none."
