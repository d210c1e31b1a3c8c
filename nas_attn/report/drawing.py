"""The network as a line with stations: one per site, laid out stage by stage in panels that wrap, and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from nas_attn.placement import Attention, Placement, Site, SiteTable
from nas_attn.report.chart import COLUMN, Chart
from nas_attn.report.inline_svg import View
from nas_attn.report.marks import Colours
from nas_attn.report.palette import LIGHT
from nas_attn.report.words import options_of

PANEL_WIDTH = 236
SPINE = 13  # distance of the line from the left edge of the panel
TOP = 46  # height of a panel's heading
TALLEST = 520  # a stage that is taller continues in another panel
NAME_LETTERS = 30
NOTED = 3  # this many consecutive sites that were not searched, or more, get a note
OPTION_LETTERS = 34
UNIT = COLUMN * 72 / (2 * PANEL_WIDTH)  # points per unit of the drawing: two panels fill a column
TIMES = "\N{MULTIPLICATION SIGN}"
END = 36  # height of the output below the last stage
SMALL, PLAIN, LINE = 9, 26, 16  # height of a site that was not searched; of a searched one; of a line of text under it


@dataclass(frozen=True)
class Station:
    """One site: its place in the panel, and the text beside it.

    Args:
        y: Centre of the mark, from the top of the panel.
        lines: Options of the attention, wrapped.
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
    """A stage, or a part of a long one.

    Args:
        end: Output of the network, below the last stage; empty for the others.
    """

    title: str
    subtitle: str
    height: float
    stations: tuple[Station, ...]
    end: str = ""


@dataclass
class _Draft:
    """A panel under construction; `y` is the top of the next station."""

    stage: str
    stations: list[Station] = field(default_factory=list)
    y: float = TOP


def draw_network(table: SiteTable, placement: Placement, searched: Sequence[str]) -> tuple[Panel, ...]:
    """Return the panels of a network, with every site once, in the order of the data flow."""
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
    ends = [*[""] * (len(drafts) - 1), table.output]
    return tuple(
        _panel(draft, continued=stages[index] == draft.stage, end=ends[index]) for index, draft in enumerate(drafts)
    )


def _runs(sites: Sequence[Site], searched: frozenset[str]) -> list[list[Site]]:
    """Split the sites into single searched ones and runs of consecutive ones that were not searched, by stage."""
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
    """Return whether a run of small stations is long enough for text beside it."""
    return len(run) >= NOTED


def _room(run: Sequence[Site], index: int, is_searched: bool) -> float:
    """Return the space below a station, so that a run of small ones and its note do not overlap the next one."""
    if is_searched or index < len(run) - 1:
        return 0.0
    return max(2.0, PLAIN - 2 - SMALL * len(run)) if _is_noted(run) else 0.0


def _panel(draft: _Draft, *, continued: bool, end: str) -> Panel:
    sites = [station.site for station in draft.stations]
    sizes = dict.fromkeys(f"{site.height}{TIMES}{site.width}" for site in sites)
    widths = [site.channels for site in sites]
    channels = f"{min(widths)}" if min(widths) == max(widths) else f"{min(widths)} to {max(widths)}"
    return Panel(
        title=f"{draft.stage} (continued)" if continued else draft.stage,
        subtitle=f"{' and '.join(sizes)} map, {channels} channels",
        height=draft.y + (END if end else 14),
        stations=tuple(draft.stations),
        end=end,
    )


def _shortened(name: str) -> str:
    """Return a name that fits; a long one is cut at its beginning, since its end identifies the site."""
    return name if len(name) <= NAME_LETTERS else "…" + name[-NAME_LETTERS + 1 :]


def _broken(options: Sequence[str]) -> tuple[str, ...]:
    """Return options joined by commas, wrapped into lines."""
    lines: list[str] = []
    for option in options:
        if lines and len(lines[-1]) + len(option) + 2 <= OPTION_LETTERS:
            lines[-1] += f", {option}"
        else:
            lines.append(option if len(option) <= OPTION_LETTERS else option[: OPTION_LETTERS - 1] + "…")
    return tuple(lines)


def network_chart(panels: Sequence[Panel], colours: Colours) -> Chart:
    """Draw the panels, two beside each other; the page shows them one by one."""
    rows = [panels[index : index + 2] for index in range(0, len(panels), 2)]
    heights = [max(panel.height for panel in row) for row in rows]
    figure = Figure(figsize=(COLUMN, sum(heights) * UNIT / 72))
    titles: dict[str, list[str]] = {}
    views: list[View] = []
    for index, row in enumerate(rows):
        top = sum(heights[:index])
        for column, panel in enumerate(row):
            group, left = f"panel-{len(views)}", column * PANEL_WIDTH
            _draw_panel(_panel_axes(figure, panel, left, top, sum(heights), group), panel, colours, titles)
            box = (left * UNIT, top * UNIT, PANEL_WIDTH * UNIT, panel.height * UNIT)
            views.append(View(group, f"{panel.title}, {panel.subtitle}", box))
    return Chart("network", "The network, stage by stage, with its sites", figure, titles, tuple(views))


def _panel_axes(figure: Figure, panel: Panel, left: float, top: float, height: float, group: str) -> Any:
    """Return axes that measure a panel in its own units, from its top left corner."""
    width = 2 * PANEL_WIDTH
    box = (left / width, 1 - (top + panel.height) / height, PANEL_WIDTH / width, panel.height / height)
    axes = figure.add_axes(box, gid=group)
    axes.set_xlim(0, PANEL_WIDTH)
    axes.set_ylim(panel.height, 0)
    axes.axis("off")
    return axes


def _draw_panel(axes: Any, panel: Panel, colours: Colours, titles: dict[str, list[str]]) -> None:
    _write(axes, 0, 14, panel.title, size=13, weight="bold")
    _write(axes, 0, 31, panel.subtitle, colour="muted")
    end = panel.height - (END - 10 if panel.end else 4)
    axes.plot([SPINE] * 2, [46, end], color=LIGHT["faint"], lw=1.2, zorder=0, clip_on=False)
    for station in panel.stations:
        _draw_station(axes, station, colours, titles)
    if panel.end:
        axes.plot([SPINE], [end + 4], "s", ms=9 * UNIT, color=LIGHT["muted"], mew=0, clip_on=False)
        _write(axes, SPINE + 16, end + 4, panel.end, colour="muted")


def _draw_station(axes: Any, station: Station, colours: Colours, titles: dict[str, list[str]]) -> None:
    attention, site = station.attention, station.site
    colour = colours.family(attention.name) if attention else "plain" if station.is_searched else "faint"
    size = 13 if attention else 10 if station.is_searched else 5
    face = LIGHT[colour if attention else "paper"]
    axes.plot(
        [SPINE], [station.y], "o", ms=size * UNIT, mec=LIGHT[colour], mfc=face, mew=0.8, gid=site.name, clip_on=False
    )
    content = str(attention) if attention else "no attention" if station.is_searched else "not searched"
    shape = f"{site.channels} channels, {site.height}{TIMES}{site.width}"
    titles[site.name] = [f"{site.name} ({site.kind}, {shape}): {content}"]
    if station.is_searched:
        _write(axes, SPINE + 16, station.y, station.name, size=12.5, colour="ink" if attention else "muted")
    elif station.note:
        _write(axes, SPINE + 16, station.y, station.note, colour="muted")
    if attention:
        _write(axes, SPINE + 16, station.y + LINE + 1, attention.name, size=12.5, colour=colour, weight="bold")
    for number, line in enumerate(station.lines, 2):
        _write(axes, SPINE + 16, station.y + number * LINE + 1, line, colour="muted")


def _write(
    axes: Any, x: float, y: float, text: str, *, size: float = 11.5, colour: str = "ink", weight: str = "normal"
) -> None:
    """Write a line of text that is centred vertically at y."""
    axes.text(x, y, text, fontsize=size * UNIT, color=LIGHT[colour], fontweight=weight, va="center")
