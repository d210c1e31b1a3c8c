"""The figures for a paper: one column wide, text as text, each as SVG and PNG; drawn from tables, never computing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nas_attn.placement import Placement, SiteTable
from nas_attn.records import RunRecord
from nas_attn.report.charts import Colours, CostPoint, Heat, arm_points, heat_map, trial_points
from nas_attn.report.drawing import PANEL_WIDTH, SPINE, Panel, Station, draw_network
from nas_attn.report.importance import Marginal, marginals, rows_of, searched_sites
from nas_attn.report.palette import COLOURS, FAINT, INK, MUTED, PAPER
from nas_attn.report.tables import (
    FOUND,
    Arm,
    Step,
    against,
    arm_called,
    arms_of,
    found_placement,
    history_of,
    names_in,
    pareto,
)
from nas_attn.report.words import Scale, scale_of, short_tick
from nas_attn.statistics import Summary

COLUMN = 3.35  # inches: one column of most two-column papers
LINE = 0.12  # inches: a line of text
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Arial", "Helvetica", "Liberation Sans", "DejaVu Sans"],
    "font.size": 7.0,
    "axes.labelsize": 7.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "nas_attn",  # the same run gives the same file
}
DIVERGING = LinearSegmentedColormap.from_list("effect", [COLOURS["worse"], "#f6f5f2", COLOURS["better"]])


def write_figures(run: RunRecord, folder: Path) -> list[Path]:
    """Draw what the run has numbers for; return the files: NAME.svg and NAME.png each."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        return [path for name, figure in _figures(run) for path in _saved(figure, folder / name)]


def write_importance(heat: Heat, scale: Scale, stem: Path) -> list[Path]:
    """Draw marginal means alone; return STEM.svg and STEM.png."""
    with matplotlib.rc_context(STYLE):
        return _saved(importance_figure(heat, scale), stem)


def _figures(run: RunRecord) -> Iterator[tuple[str, Figure]]:
    arms, scale, colours = arms_of(run), scale_of(run), Colours.of(run)
    measured_arms = [arm for arm in arms if arm.summary is not None]
    if measured_arms:
        yield "arms", arms_figure(measured_arms, run.table, colours, scale)
    found = arm_called(measured_arms, FOUND)
    if found and len(measured_arms) > 1:
        yield "differences", differences_figure(found, measured_arms, scale)
    points = [(source, cost, _points(run, arms, source, cost)) for source in ("arms", "trials") for cost in COSTS]
    if any(found_points for _, _, found_points in points):
        yield "cost", cost_figure(points, run.table, colours, scale)
    if run.search:
        yield "history", history_figure(history_of(run.search), run.table, colours, scale)
    heat = heat_map(marginals(rows_of(run.search), searched_sites(run)))
    if heat is not None:
        yield "importance", importance_figure(heat, scale)
    if run.table is not None:
        panels = draw_network(run.table, found_placement(run) or Placement(), searched_sites(run))
        yield "network", network_figure(panels, colours)


COSTS = {"n_parameters": "Parameters", "n_macs": "MACs"}


def _points(run: RunRecord, arms: Sequence[Arm], source: str, cost: str) -> list[CostPoint]:
    return arm_points(arms, cost) if source == "arms" else trial_points(run.search, cost)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a name to write to, and put the file in its place when it is whole."""
    part = path.with_name(f".{path.name}.part")
    yield part
    os.replace(part, path)


def _saved(figure: Figure, stem: Path) -> list[Path]:
    svg, png = stem.with_suffix(".svg"), stem.with_suffix(".png")
    with _replacing(svg) as path:
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": "nas_attn"}, facecolor=PAPER)
    with _replacing(png) as path:
        figure.savefig(path, format="png", dpi=300, metadata={"Software": "nas_attn"}, facecolor=PAPER)
    return [svg, png]


def _new_figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _height_of(labels: Sequence[str], row: float) -> float:
    """Return the height of rows of which each has room for the tallest label, at least `row`. Units: inches."""
    most_lines = max((label.count("\n") + 1 for label in labels), default=1)
    return len(labels) * max(row, LINE * most_lines + 0.02)


def _strip(axes: Any, row: int, values: Sequence[float], summary: Summary, colour: str, scale: Scale) -> None:
    """Draw one sample on a line: its values, its interval and its mean."""
    factor = scale.factor
    if summary.low is not None and summary.high is not None:
        axes.plot([summary.low * factor, summary.high * factor], [row, row], color=colour, lw=1.6, alpha=0.55)
    axes.plot([value * factor for value in values], [row] * len(values), "o", ms=3, color=colour, alpha=0.45, mew=0)
    axes.plot([summary.mean * factor], [row], "|", ms=9, mew=1.6, color=colour)


def _finish_strips(axes: Any, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def arms_figure(arms: Sequence[Arm], table: SiteTable | None, colours: Colours, scale: Scale) -> Figure:
    """Draw every arm's test values by seed, with mean and 95 % interval."""
    labels = [_folded(arm.label) for arm in arms]
    figure, axes = _new_figure(0.55 + _height_of(labels, 0.24))
    for row, arm in enumerate(arms):
        assert arm.summary is not None, "an arm without values is not drawn"
        colour = COLOURS[colours.placement(arm.placement, table)]
        _strip(axes[0][0], row, list(arm.by_seed.values()), arm.summary, colour, scale)
    _finish_strips(axes[0][0], labels)
    axes[0][0].set_xlabel(_axis_name(f"Test {scale.noun}", scale))
    return figure


def differences_figure(found: Arm, arms: Sequence[Arm], scale: Scale) -> Figure:
    """Draw `found #1` minus every other arm, paired by seed, with mean and 95 % interval."""
    pairs = [against(found, arm) for arm in arms if arm.label != found.label]
    known = [(pair, pair.summary) for pair in pairs if pair.summary is not None]
    labels = [f"{_folded(pair.baseline)}\n({pair.word})" for pair, _ in known]
    figure, axes = _new_figure(0.55 + _height_of(labels, 0.24))
    axes[0][0].axvline(0.0, color=INK, lw=0.6)
    for row, (pair, summary) in enumerate(known):
        _strip(axes[0][0], row, list(pair.by_seed.values()), summary, COLOURS[pair.word.replace(" ", "-")], scale)
    _finish_strips(axes[0][0], labels)
    axes[0][0].set_xlabel(f"found #1 minus arm, test {scale.noun}{' (points)' if scale.points else ''}")
    return figure


def cost_figure(
    points: Sequence[tuple[str, str, list[CostPoint]]], table: SiteTable | None, colours: Colours, scale: Scale
) -> Figure:
    """Draw value against cost: the arms on test above, all trials on validation below, with Pareto lines."""
    sources = [source for source in ("arms", "trials") if any(s == source and found for s, _, found in points)]
    figure, axes = _new_figure(0.5 + 1.45 * len(sources), len(sources), 2, sharey="row")
    for source, cost, found in points:
        if not found:
            continue
        row, column = sources.index(source), list(COSTS).index(cost)
        _cost_panel(axes[row][column], found, table, colours, scale)
        if row == len(sources) - 1:
            axes[row][column].set_xlabel(COSTS[cost])
        if column == 0:
            split = "Test" if source == "arms" else "Validation"
            axes[row][column].set_ylabel(_axis_name(f"{split} {scale.noun}", scale))
    _legend(figure, colours, {"*": FOUND} if "arms" in sources else {})
    return figure


def _cost_panel(
    axes: Any, points: Sequence[CostPoint], table: SiteTable | None, colours: Colours, scale: Scale
) -> None:
    factor = scale.factor
    front = pareto((point.cost, point.value) for point in points)
    axes.step([cost for cost, _ in front], [v * factor for _, v in front], where="post", color=MUTED, lw=0.7, zorder=1)
    for point in points:
        colour = COLOURS[colours.placement(point.placement, table)]
        if point.low is not None and point.high is not None:
            axes.plot([point.cost] * 2, [point.low * factor, point.high * factor], color=colour, lw=1.0, alpha=0.5)
        face = colour if len(point.placement) else PAPER
        mark, size = ("*", 6.0) if FOUND in names_in(point.label) else ("o", 3.2)
        axes.plot([point.cost], [point.value * factor], mark, ms=size, mfc=face, mec=colour, mew=0.8, alpha=0.85)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_tick(value)))
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.grid(axis="y")


def _legend(figure: Figure, colours: Colours, marks: Mapping[str, str]) -> None:
    """Write below the drawing what its colours and marks mean."""
    names = [(name, "o", COLOURS[colour], COLOURS[colour]) for name, colour in colours.by_family.items()]
    names += [("none", "o", COLOURS["plain"], PAPER)]
    names += [(name, mark, MUTED, MUTED if mark == "*" else PAPER) for mark, name in marks.items()]
    handles = [
        Line2D([], [], ls="", marker=mark, ms=4, mec=edge, mfc=face, mew=0.8, label=name)
        for name, mark, edge, face in names
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=6, fontsize=5.8, handletextpad=0.1, columnspacing=1.0
    )


MARKS = {"complete": "o", "pruned": "v", "fail": "x", "running": "o"}


def history_figure(steps: Sequence[Step], table: SiteTable | None, colours: Colours, scale: Scale) -> Figure:
    """Draw the trials in order with the best so far; failures lie on the floor, answered trials are diamonds."""
    figure, grid = _new_figure(2.2)
    axes = grid[0][0]
    values = [step.value * scale.factor for step in steps if step.value is not None] or [0.0, scale.factor]
    floor = min(values) - 0.06 * (max(values) - min(values))
    best = [(step.trial.number, step.best * scale.factor) for step in steps if step.best is not None]
    axes.step([x for x, _ in best], [y for _, y in best], where="post", color=INK, lw=0.9, label="best so far")
    for step in steps:
        answered = step.trial.answered_from is not None
        mark = "D" if answered else MARKS[step.trial.state]
        colour = COLOURS[colours.placement(step.trial.placement, table)]
        height = floor if step.value is None else step.value * scale.factor
        face = colour if step.trial.state == "complete" and not answered and len(step.trial.placement) else PAPER
        axes.plot([step.trial.number], [height], mark, ms=3.2, mec=colour, mfc=face, mew=0.8, clip_on=False)
    axes.set_xlabel("Trial")
    axes.set_ylabel(_axis_name(f"Validation {scale.noun}", scale))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y")
    states = {trial_state(step) for step in steps}
    _legend(figure, colours, {mark: name for name, mark in TOLD.items() if name in states})
    return figure


TOLD = {"stopped early": "v", "failed": "x", "answered": "D"}


def trial_state(step: Step) -> str:
    """Return how a trial ended, in a word for people."""
    if step.trial.answered_from is not None:
        return "answered"
    return {"pruned": "stopped early", "fail": "failed"}.get(step.trial.state, step.trial.state)


def importance_figure(heat: Heat, scale: Scale) -> Figure:
    """Draw the marginal means: each cell a difference to `none` at its site, bold where its interval excludes 0."""
    names = [name for name in heat.attentions if name != "none"]
    labels = [_folded(", ".join(row.sites)) for row in heat.rows]
    figure, grid = _new_figure(0.6 + _height_of(labels, 0.26))
    axes = grid[0][0]
    signed = [[_signed(cell.strength, cell.sign) for cell in row.cells[1:]] for row in heat.rows]
    axes.imshow(signed, cmap=DIVERGING, vmin=-1.35, vmax=1.35, aspect="auto")
    for y, row in enumerate(heat.rows):
        for x, cell in enumerate(row.cells[1:]):
            if cell.marginal is not None:
                axes.text(x, y, _cell_text(cell.marginal, scale), ha="center", va="center", fontsize=5.6,
                          fontweight="bold" if cell.marginal.is_clear else "normal")  # fmt: skip
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(heat.rows)), labels)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    for spine in axes.spines.values():
        spine.set_visible(False)
    unit = "points" if scale.points else scale.noun
    about = f"Validation {scale.noun} minus that of placements with none there ({unit});"
    about += "\nin brackets n; bold: 95 % interval without 0"
    figure.supxlabel(about, fontsize=5.6)
    return figure


def _signed(strength: float, sign: str) -> float:
    return strength if sign == "up" else -strength


def _cell_text(marginal: Marginal, scale: Scale) -> str:
    effect = marginal.effect
    if effect is None:
        return f"({marginal.summary.n})"
    return f"{scale.signed(effect.mean)} ({marginal.summary.n})".replace("-", "\N{MINUS SIGN}")


def network_figure(panels: Sequence[Panel], colours: Colours) -> Figure:
    """Draw the network as on the page, two panels beside each other."""
    rows = [panels[index : index + 2] for index in range(0, len(panels), 2)]
    heights = [max(panel.height for panel in row) for row in rows]
    inches = COLUMN / (2 * PANEL_WIDTH)  # of one unit of the drawing
    figure = Figure(figsize=(COLUMN, sum(heights) * inches))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, 2 * PANEL_WIDTH)
    axes.set_ylim(sum(heights), 0)
    axes.axis("off")
    for index, row in enumerate(rows):
        for column, panel in enumerate(row):
            _draw_panel(axes, panel, colours, PANEL_WIDTH * column + 6, sum(heights[:index]))
    return figure


def _draw_panel(axes: Any, panel: Panel, colours: Colours, left: float, top: float) -> None:
    axes.text(left, top + 16, panel.title, fontsize=6.4, fontweight="bold", va="center")
    axes.text(left, top + 32, panel.subtitle, fontsize=4.8, color=MUTED, va="center")
    axes.plot([left + SPINE] * 2, [top + 42, top + panel.height - 6], color=FAINT, lw=1.2, zorder=0)
    for station in panel.stations:
        _draw_station(axes, station, colours, left, top + station.y)


def _draw_station(axes: Any, station: Station, colours: Colours, left: float, y: float) -> None:
    held = station.attention
    colour = COLOURS[colours.family(held.name)] if held else MUTED
    size = 5.0 if held else 3.6 if station.is_searched else 1.8
    axes.plot([left + SPINE], [y], "o", ms=size, mec=colour, mfc=colour if held else PAPER, mew=0.7)
    if station.is_searched:
        axes.text(left + SPINE + 14, y, station.name, fontsize=5.2, va="center")
    elif station.note:
        axes.text(left + SPINE + 14, y, station.note, fontsize=4.6, color=MUTED, va="center")
    lines = (held.name, *station.lines) if held else ()
    for number, line in enumerate(lines, 1):
        weight, shade, size = ("bold", colour, 5.2) if number == 1 else ("normal", MUTED, 4.6)
        axes.text(left + SPINE + 14, y + 16 * number, line, fontsize=size, color=shade, fontweight=weight, va="center")


def _axis_name(name: str, scale: Scale) -> str:
    return f"{name} (%)" if scale.unit else name


def _folded(label: str, width: int = 24) -> str:
    """Break a long label into lines at its blanks."""
    lines: list[str] = []
    for word in label.split(" "):
        if lines and len(lines[-1]) + len(word) < width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)
