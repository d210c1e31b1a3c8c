"""The structure of a network, read from its sites: stages, blocks with their shortcuts, and equal blocks as one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from nas_attn.placement import KINDS, Attention, Placement, Site, SiteTable

TIMES, ARROW = "\N{MULTIPLICATION SIGN}", "\N{RIGHTWARDS ARROW}"
RESIDUAL = ("pre", "branch", "shortcut", "merge")
"""Kinds of site that only a block with a shortcut has."""

DENSE = re.compile(r"denseblock\d+\.layer\d+")
"""Layers whose output is concatenated with their input, in the catalogue's networks."""

SKIPS = ("downsample", "shortcut", "skip", "identity")
"""Names of modules on a block's shortcut."""

ALONE = 2  # this many consecutive sites that were not searched keep a mark each; more of them share one


@dataclass(frozen=True)
class Spot:
    """One place in a part of the network where attention is or could be.

    Args:
        place: `line`: in the block or on the line; `arc`: on the shortcut; `join`: where the shortcut ends; `after`:
            behind that.
        sites: The site; of folded blocks, that of each; or several neighbouring sites that were not searched.
    """

    place: str
    sites: tuple[Site, ...]
    is_searched: bool
    attention: Attention | None

    @property
    def is_convolution(self) -> bool:
        """Whether attention replaces a convolution here."""
        return self.sites[0].kind == "conv"

    @property
    def look(self) -> tuple[object, ...]:
        """What two spots that are drawn alike have in common."""
        return self.place, self.sites[0].kind, self.is_searched, self.attention


@dataclass(frozen=True)
class Part:
    """A block, a module, or a piece of the line between them.

    Args:
        names: Paths of what it stands for, in flow order: of one block, or of several equal ones.
        form: `skip`: a block with a shortcut; `dense`: a layer whose output is concatenated with its input; `box`: a
            block or module without; `line`: sites between the boxes.
    """

    names: tuple[str, ...]
    stage: str
    form: str
    spots: tuple[Spot, ...]

    def at(self, place: str) -> tuple[Spot, ...]:
        """Return the spots of one place, in flow order."""
        return tuple(spot for spot in self.spots if spot.place == place)

    @property
    def look(self) -> tuple[object, ...]:
        """What two equal blocks of a stage have in common; the digits of their names may differ."""
        pattern = re.sub(r"\d+", "#", self.names[0])
        return self.stage, self.form, pattern, tuple(spot.look for spot in self.spots)

    @property
    def end(self) -> Site:
        """The last site, whose map is the output."""
        return self.spots[-1].sites[-1]


@dataclass(frozen=True)
class Stage:
    """Consecutive parts of one stage; `shape` is that of its output, after that of its first block if that is larger.

    Units: channels, height and width.
    """

    name: str
    shape: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Architecture:
    """A network: image, stem, stages, and what follows the last map.

    Args:
        has_stem: Whether layers without a site come before the first site.
        tail: Spots from the global pooling on: the head, and sites behind it.
        output: The network's output in words.
    """

    image: str
    has_stem: bool
    stages: tuple[Stage, ...]
    tail: tuple[Spot, ...]
    output: str

    @property
    def parts(self) -> Iterator[Part]:
        """The parts of all stages."""
        return (part for stage in self.stages for part in stage.parts)

    @property
    def spots(self) -> Iterator[Spot]:
        """The places for attention, each site in one of them."""
        yield from (spot for part in self.parts for spot in part.spots)
        yield from self.tail


def read_architecture(table: SiteTable, placement: Placement, searched: Sequence[str]) -> Architecture:
    """Return the structure of a network, with every site once; consecutive equal blocks of a stage are folded.

    Of the sites at its ends and before convolutions, it has those that are used or searched.
    """
    sites = table.sites_with({*placement, *searched})
    first_of_tail = next((n for n, site in enumerate(sites) if site.kind == "head"), len(sites))
    spots = _Spots(placement, frozenset(searched))
    parts = folded(_without_long_lines(_parts(sites[:first_of_tail], spots)))
    tail = _merged([spots.of(site, "line") for site in sites[first_of_tail:]])
    size = table.image_size
    return Architecture(
        image=f"{table.in_channels}{TIMES}{size}{TIMES}{size}",
        has_stem=_has_stem(table, sites[:1]),
        stages=tuple(_stage(name, tuple(group)) for name, group in groupby(parts, key=lambda part: part.stage)),
        tail=tuple(tail),
        output=table.output,
    )


def _has_stem(table: SiteTable, begin: Sequence[Site]) -> bool:
    """Return whether the first site's input differs from the image, so that layers without a site come before it."""
    first = begin[0] if begin else None
    if first is None or first.kind == "output":
        return False
    channels = first.replaced.in_channels if first.replaced else first.channels
    return (channels, first.height) != (table.in_channels, table.image_size)


@dataclass(frozen=True)
class _Spots:
    """Makes spots: knows the placement and the searched sites."""

    placement: Placement
    searched: frozenset[str]

    def of(self, site: Site, place: str) -> Spot:
        return Spot(place, (site,), site.name in self.searched, self.placement.attentions.get(site.name))


def _parts(sites: Sequence[Site], spots: _Spots) -> Iterator[Part]:
    """Group the sites by block or module; a part comes where its last site is."""
    blocks = {site.name.rpartition(".")[0] for site in sites if _kind_word(site) in RESIDUAL}
    paths = [_path_of(site, blocks) for site in sites]
    last = {path: number for number, path in enumerate(paths)}
    members: dict[str, list[Site]] = {}
    for path, site in zip(paths, sites, strict=True):
        members.setdefault(path, []).append(site)
    seen: list[str] = []
    for path in sorted(members, key=last.__getitem__):
        is_container = any(other.startswith(f"{path}.") for other in seen)
        yield _part(path, members[path], spots, is_container=is_container)
        seen.append(path)


def _kind_word(site: Site) -> str | None:
    """Return the kind that ends a site's name, as in `stage1.block1.branch`; None if its name is a module's path."""
    word = site.name.rpartition(".")[2]
    if site.enters:
        return site.kind
    named = re.sub(r"\d+$", "", word) if site.kind == "conv" else word
    return site.kind if named == site.kind and named in KINDS and "." in site.name else None


def _path_of(site: Site, blocks: set[str]) -> str:
    """Return the path of the innermost block with a shortcut that has the site, else of its block or module."""
    path = site.name
    while path:
        if path in blocks:
            return path
        path = path.rpartition(".")[0]
    return site.name.rpartition(".")[0] if _kind_word(site) else site.name


def _part(path: str, sites: Sequence[Site], spots: _Spots, *, is_container: bool) -> Part:
    is_dense = DENSE.fullmatch(path) is not None
    has_skip = any(_kind_word(site) in RESIDUAL for site in sites)
    made = [spots.of(site, "line" if is_dense else _place(site, path)) for site in sites]
    is_box = not is_container and any(spot.is_searched or spot.place == "line" for spot in made)
    form = "dense" if is_dense else "skip" if has_skip else "box" if is_box else "line"
    if form == "line":
        made = [replace(spot, place="line") for spot in made]
    return Part((path,), sites[-1].stage, form, tuple(_merged(made)))


def _place(site: Site, path: str) -> str:
    """Return where a site lies in its block or module."""
    word, inner = _kind_word(site), site.name.removeprefix(path).split(".")
    if site.name == path or word == "output":
        return "after"
    if word in ("shortcut", "merge"):
        return {"shortcut": "arc", "merge": "join"}[word]
    return "arc" if any(skip in inner for skip in SKIPS) else "line"


def _merged(spots: Iterable[Spot]) -> Iterator[Spot]:
    """Let more than `ALONE` neighbouring sites that were not searched share one spot."""
    for (place, is_plain), group in groupby(spots, key=lambda spot: (spot.place, _is_plain(spot))):
        run = list(group)
        if is_plain and len(run) > ALONE:
            yield Spot(place, tuple(site for spot in run for site in spot.sites), is_searched=False, attention=None)
        else:
            yield from run


def _is_plain(spot: Spot) -> bool:
    return not spot.is_searched and spot.sites[0].kind not in ("conv", "merge", "head")


def _without_long_lines(parts: Iterable[Part]) -> Iterator[Part]:
    """Join neighbouring pieces of the line of a stage in which nothing was searched."""

    def is_quiet(part: Part) -> bool:
        return part.form == "line" and not any(spot.is_searched for spot in part.spots)

    for (quiet, _), group in groupby(parts, key=lambda part: (is_quiet(part), part.stage)):
        run = list(group)
        if quiet and len(run) > 1:
            names = tuple(name for part in run for name in part.names)
            yield Part(names, run[0].stage, "line", tuple(_merged(spot for part in run for spot in part.spots)))
        else:
            yield from run


def folded(parts: Iterable[Part]) -> Iterator[Part]:
    """Replace consecutive equal blocks by one that stands for all of them."""
    for _, group in groupby(parts, key=lambda part: part.look):
        run = list(group)
        columns = zip(*(part.spots for part in run), strict=True)
        spots = [replace(column[0], sites=tuple(site for spot in column for site in spot.sites)) for column in columns]
        yield replace(run[0], names=tuple(name for part in run for name in part.names), spots=tuple(spots))


def _stage(name: str, parts: tuple[Part, ...]) -> Stage:
    ends = [part.end for part in parts if part.form != "line"] or [parts[-1].end]
    shapes = [TIMES.join(map(str, (site.channels, site.height, site.width))) for site in (ends[0], parts[-1].end)]
    has_one = (ends[0].height, ends[0].width) == (parts[-1].end.height, parts[-1].end.width)
    return Stage(name, shapes[1] if has_one else f" {ARROW} ".join(shapes), parts)


def part_name(names: Sequence[str], stage: str) -> str:
    """Return the name of a part, without its stage; of folded parts the first and the last.

    >>> part_name(["stage3.block2", "stage3.block3", "stage3.block4"], "stage3"), part_name(["layer1.0"], "stage1")
    ('block2\u20134', 'layer1.0')
    """
    stages = rf"^({re.escape(stage)}|denseblock\d+)\.(?=\D)"
    first, last = (re.sub(stages, "", name) for name in (names[0], names[-1]))
    if first == last:
        return first
    stem = first.rstrip("0123456789")
    is_series = stem not in (first, "") and stem == last.rstrip("0123456789")
    return f"{first}\N{EN DASH}{last.removeprefix(stem)}" if is_series else f"{first} … {last}"
