"""The network as a line with stations: one for every site, laid out stage by stage in panels that wrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nas_attn.placement import Attention, Placement, Site, SiteTable
from nas_attn.report.words import options_of

PANEL_WIDTH = 236
SPINE = 13  # distance of the line from the panel's left edge
TOP = 46  # height of a panel's heading
TALLEST = 520  # a panel that would grow taller goes on in another
NAME_LETTERS = 30
NOTED = 3  # neighbours that were not searched get a note from this many on
OPTION_LETTERS = 34
TIMES = "\N{MULTIPLICATION SIGN}"
SMALL, PLAIN, LINE = 9, 26, 16  # height of a site that was not searched; of a searched one; of a line of text under it


@dataclass(frozen=True)
class Station:
    """One site: where it sits in its panel, and the text beside it.

    Args:
        y: Middle of the mark, from the panel's top.
        lines: Options of the attention, broken into lines.
        note: Text beside the first of several sites that were not searched.
    """

    site: Site
    y: float
    is_searched: bool
    attention: Attention | None
    name: str
    lines: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Panel:
    """A stage, or a part of a long one."""

    title: str
    subtitle: str
    height: float
    stations: tuple[Station, ...]
    is_first: bool
    is_last: bool


@dataclass
class _Draft:
    """A panel while stations are added; `y` is where the next one begins."""

    stage: str
    stations: list[Station] = field(default_factory=list)
    y: float = TOP


def draw_network(table: SiteTable, placement: Placement, searched: Sequence[str]) -> tuple[Panel, ...]:
    """Return the panels of a network, every site in one of them, in the order of the data flow."""
    drafts: list[_Draft] = []
    for run in _runs(table.sites, frozenset(searched)):
        for index, site in enumerate(run):
            is_searched = site.name in searched
            attention = placement.attentions.get(site.name)
            lines = _broken(options_of(attention)) if attention else ()
            height = PLAIN + LINE * (len(lines) + 1 if attention else 0) if is_searched else SMALL
            if not drafts or drafts[-1].stage != site.stage or drafts[-1].y + height > TALLEST:
                drafts.append(_Draft(site.stage))
            draft = drafts[-1]
            middle = draft.y + (PLAIN if is_searched else SMALL) / 2
            note = f"{len(run)} sites not searched" if index == 0 and not is_searched and _is_noted(run) else ""
            name = _shortened(site.name)
            draft.stations.append(Station(site, middle, is_searched, attention, name, lines, note))
            draft.y += height + _room(run, index, is_searched)
    stages = ["", *(draft.stage for draft in drafts)]
    return tuple(
        _panel(draft, continued=stages[index] == draft.stage, is_first=index == 0, is_last=index == len(drafts) - 1)
        for index, draft in enumerate(drafts)
    )


def _runs(sites: Sequence[Site], searched: frozenset[str]) -> list[list[Site]]:
    """Split the sites into single searched ones and runs of neighbours that were not searched, by stage."""
    runs: list[list[Site]] = []
    for site in sites:
        last = runs[-1][-1] if runs else None
        joins = last and site.name not in searched and last.name not in searched and last.stage == site.stage
        if joins:
            runs[-1].append(site)
        else:
            runs.append([site])
    return runs


def _is_noted(run: Sequence[Site]) -> bool:
    """Whether a run of small stations is long enough for text beside it."""
    return len(run) >= NOTED


def _room(run: Sequence[Site], index: int, is_searched: bool) -> float:
    """Return the room below a station: a run of small ones keeps clear of the next, and of its note."""
    if is_searched or index < len(run) - 1:
        return 0.0
    return max(2.0, PLAIN - 2 - SMALL * len(run)) if _is_noted(run) else 0.0


def _panel(draft: _Draft, *, continued: bool, is_first: bool, is_last: bool) -> Panel:
    sites = [station.site for station in draft.stations]
    sizes = dict.fromkeys(f"{site.height}{TIMES}{site.width}" for site in sites)
    widths = [site.channels for site in sites]
    channels = f"{min(widths)}" if min(widths) == max(widths) else f"{min(widths)} to {max(widths)}"
    return Panel(
        title=f"{draft.stage} (continued)" if continued else draft.stage,
        subtitle=f"{' and '.join(sizes)} map, {channels} channels",
        height=draft.y + 14,
        stations=tuple(draft.stations),
        is_first=is_first,
        is_last=is_last,
    )


def _shortened(name: str) -> str:
    """Return a name that fits; a long one loses its beginning, since its end tells sites apart."""
    return name if len(name) <= NAME_LETTERS else "…" + name[-NAME_LETTERS + 1 :]


def _broken(options: Sequence[str]) -> tuple[str, ...]:
    """Return options joined by commas, in lines of a bearable length."""
    lines: list[str] = []
    for option in options:
        if lines and len(lines[-1]) + len(option) + 2 <= OPTION_LETTERS:
            lines[-1] += f", {option}"
        else:
            lines.append(option if len(option) <= OPTION_LETTERS else option[: OPTION_LETTERS - 1] + "…")
    return tuple(lines)
