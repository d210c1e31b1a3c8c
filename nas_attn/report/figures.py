"""Draws the figures from tables and marks: one column wide, text as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from nas_attn.errors import showable
from nas_attn.placement import NONE
from nas_attn.records import FOUND, RunRecord
from nas_attn.report.chart import COLUMN, Chart, style
from nas_attn.report.drawing import network_chart
from nas_attn.report.evidence import drawn_of, learning_curves
from nas_attn.report.evidence_figures import evidence_charts
from nas_attn.report.front import front_of
from nas_attn.report.front_figure import front_chart
from nas_attn.report.importance import Heat, effects_of, heat_map, searched_sites
from nas_attn.report.marks import ENDED, SHAPES, Colours, Mark, arm_marks, history_marks, trial_marks
from nas_attn.report.palette import LIGHT, VERDICTS
from nas_attn.report.tables import Arm, arms_of, found_placement
from nas_attn.report.trials import Step, history_of, pareto
from nas_attn.report.verdict import Differences, differences_of
from nas_attn.report.words import Scale, minus, scale_of, short_tick
from nas_attn.statistics import Summary

LINE = 0.12  # inches: a line of text
LOG_FROM = 5.0  # a cost axis is logarithmic if its largest value is this many times the smallest
DIVERGING = LinearSegmentedColormap.from_list("effect", [LIGHT["worse"], "#f6f5f2", LIGHT["better"]])
MARKERS: Mapping[str, tuple[str, float, bool]] = {  # shape: matplotlib's code, size in points, whether it is filled
    "dot": ("o", 3.2, True),
    "ring": ("o", 3.2, False),
    "triangle": ("v", 3.4, False),
    "cross": ("x", 3.0, True),
    "diamond": ("D", 3.0, False),
    "star": ("*", 6.5, True),
}
COSTS = {"n_parameters": "Parameters", "n_macs": "MACs"}


@style()
def draw_charts(run: RunRecord) -> list[Chart]:
    """Return the figures that the run has numbers for."""
    return list(_charts(run))


def _charts(run: RunRecord) -> Iterator[Chart]:
    arms, scale, colours = arms_of(run), scale_of(run), Colours.of(run)
    measured_arms = [arm for arm in arms if arm.summary is not None]
    differences = differences_of(run)
    if differences:
        yield differences_chart(differences, scale)
    if measured_arms:
        yield arms_chart(measured_arms, colours, scale)
    found = front_of(run)
    if found is not None and (found.arms or found.trials):
        yield front_chart(found, colours)
    panels = {("arms", cost): arm_marks(arms, cost, colours, scale) for cost in COSTS} | {
        ("trials", cost): trial_marks(run.search, cost, colours, scale) for cost in COSTS
    }
    if any(panels.values()):
        yield cost_chart(panels, colours, scale)
    yield from evidence_charts(*drawn_of(run), learning_curves(run), colours, scale)
    if run.search:
        yield history_chart(history_of(run.search), colours, scale, control=history_of(run.control))
    heat = heat_map(effects_of(run))
    if heat is not None:
        yield importance_chart(heat, scale)
    if run.table is not None:
        placement = found_placement(run) or NONE
        yield network_chart(run.table, placement, searched_sites(run))


def _new_figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _height_of(labels: Sequence[str], row: float) -> float:
    """Return the height of rows of which each has room for the tallest label, at least `row`. Units: inches."""
    most_lines = max((label.count("\n") + 1 for label in labels), default=1)
    return len(labels) * max(row, LINE * most_lines + 0.02)


def _label_rows(axes: Any, labels: Sequence[str]) -> None:
    """Write a label of one or more lines left of each row.

    Each line is a text of its own with its end at the axis: an SVG of matplotlib places the lines of one text by the
    widths of the font that it measured, and a browser may show another one.
    """
    axes.set_yticks([])
    for row, label in enumerate(labels):
        lines = showable(label).split("\n")
        for number, line in enumerate(lines):
            offset = 72 * LINE * ((len(lines) - 1) / 2 - number)
            axes.annotate(
                line, (0, row), (-5, offset), ("axes fraction", "data"), "offset points", ha="right", va="center"
            )


class _Strips:
    """Samples below each other on one axis: every seed's value, the mean and its interval."""

    def __init__(self, labels: Sequence[str], write: Callable[[float], str], factor: float) -> None:
        self.figure, grid = _new_figure(0.55 + _height_of(labels, 0.24))
        self.axes, self.labels, self.write, self.factor = grid[0][0], labels, write, factor
        self.titles: dict[str, list[str]] = {}
        self._reach: list[tuple[float, float, float]] = []
        self._dots: list[Line2D] = []

    def add(self, by_seed: Mapping[int, float], summary: Summary, colour: str) -> None:
        """Draw one sample below the ones before it."""
        row, group = len(self._reach), f"seeds-{len(self._reach)}"
        ends = [end * self.factor for end in summary.interval or ()]
        if ends:
            self.axes.plot(ends, [row, row], color=LIGHT[colour], lw=1.6, alpha=0.55)
        values = [value * self.factor for value in by_seed.values()]
        dots = self.axes.plot(values, [row] * len(values), "o", ms=3, color=LIGHT[colour], alpha=0.45, mew=0, gid=group)
        self._dots += dots
        self._reach.append((min(*values, *ends, values[0]), summary.mean * self.factor, max(*values, *ends, values[0])))
        self.titles[group] = [minus(f"seed {seed}: {self.write(value)}") for seed, value in by_seed.items()]
        self.axes.plot([summary.mean * self.factor], [row], "|", ms=9, mew=1.6, color=LIGHT[colour])

    def finished(self, name: str, alt: str, x_label: str) -> Chart:
        """Return the figure with its axes labelled."""
        self.axes.set_ylim(len(self.labels) - 0.4, -0.6)
        low, high = usual_range(self._reach)
        margin = 0.06 * (high - low) or 0.5
        self.axes.set_xlim(low - margin, high + margin)
        for row, (_, mean, _) in enumerate(self._reach):
            if not low <= mean <= high:
                self._point_at(row, mean, is_right=mean > high)
        _label_rows(self.axes, self.labels)
        self.axes.spines["left"].set_visible(False)
        self.axes.grid(axis="x")
        self.axes.set_xlabel(x_label)
        return Chart(name, alt, self.figure, self.titles)

    def _point_at(self, row: int, mean: float, *, is_right: bool) -> None:
        """Write the mean of a row that lies beyond the axis, with an arrow to its side, in place of its dots."""
        self._dots[row].remove()
        del self.titles[f"seeds-{row}"]
        text = minus(self.write(mean / self.factor))
        x, align = (1.0, "right") if is_right else (0.0, "left")
        arrow = f"{text} \N{RIGHTWARDS ARROW}" if is_right else f"\N{LEFTWARDS ARROW} {text}"
        self.axes.annotate(
            *(arrow, (x, row), (0, 2), ("axes fraction", "data"), "offset points"),  # above the end of its interval
            ha=align, va="bottom", fontsize=6, color=LIGHT["muted"],
        )  # fmt: skip


def usual_range(reach: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Return the ends of an axis that shows the rows that lie together; up to a third of them may lie outside.

    A row is left out only if the axis without it is less than a third as long, so that outliers do not squeeze the
    others.

    Args:
        reach: Lowest value, mean and highest value of each row; at least one.

    >>> usual_range([(1.0, 1.5, 2.0), (1.2, 1.4, 1.9), (1.1, 1.6, 1.8), (30.0, 60.0, 90.0)])
    (1.0, 2.0)
    """
    middle = sorted(mean for _, mean, _ in reach)[len(reach) // 2]
    near = sorted(reach, key=lambda row: abs(row[1] - middle))
    for n_outside in range(len(reach) // 3, 0, -1):
        inside, next_in = near[: len(near) - n_outside], near[: len(near) - n_outside + 1]
        if _length(inside) < _length(next_in) / 3:
            return min(row[0] for row in inside), max(row[2] for row in inside)
    return min(row[0] for row in reach), max(row[2] for row in reach)


def _length(reach: Sequence[tuple[float, float, float]]) -> float:
    return max(row[2] for row in reach) - min(row[0] for row in reach)


def arms_chart(arms: Sequence[Arm], colours: Colours, scale: Scale) -> Chart:
    """Draw every arm's test values by seed, with mean and 95 % interval."""
    strips = _Strips([_folded(arm.label) for arm in arms], scale.value, scale.factor)
    for arm in arms:
        assert arm.summary is not None, "an arm without values is not drawn"
        strips.add(arm.by_seed, arm.summary, colours.placement(arm.placement))
    alt = f"Test {scale.noun} of every arm: each seed, the mean and its 95 % interval"
    return strips.finished("arms", alt, _axis_name(f"Test {scale.noun}", scale))


def differences_chart(differences: Differences, scale: Scale) -> Chart:
    """Draw `found #1` minus every other arm, paired by seed, with mean and 95 % interval."""
    labels = [f"{_folded(pair.baseline)}\n({pair.word})" for pair in differences.comparisons]
    strips = _Strips(labels, scale.difference, scale.factor)
    strips.axes.axvline(0.0, color=LIGHT["ink"], lw=0.6)
    for pair in differences.comparisons:
        assert pair.summary is not None, "a comparison without a seed in common is not drawn"
        strips.add(pair.by_seed, pair.summary, VERDICTS[pair.word])
    alt = f"Test {scale.noun} of {FOUND} minus that of every other arm: each seed, the mean and its 95 % interval"
    unit = " (points)" if scale.points else ""
    return strips.finished("differences", alt, f"{FOUND} minus arm, test {scale.noun}{unit}")


def _draw_marks(axes: Any, marks: Sequence[Mark], titles: dict[str, list[str]], factor: float, floor: float) -> None:
    """Draw marks, one artist for those that look alike, and add their titles; `floor` is where marks without y lie."""
    looks = groupby(sorted(marks, key=_look), key=_look)
    for (shape, colour), group in looks:
        alike = list(group)
        code, size, is_filled = MARKERS[shape]
        heights = [floor if mark.y is None else mark.y * factor for mark in alike]
        gid = f"marks-{len(titles)}"
        axes.plot(
            [mark.x for mark in alike], heights, code, ms=size, mec=LIGHT[colour], mew=0.8, alpha=0.85, gid=gid,
            mfc=LIGHT[colour if is_filled else "paper"], clip_on=False, zorder=3,
        )  # fmt: skip
        titles[gid] = [mark.title for mark in alike]


def _look(mark: Mark) -> tuple[str, str]:
    return mark.shape, mark.colour


def _legend(figure: Figure, colours: Colours, none: str, shapes: Iterable[tuple[str, str]]) -> None:
    """Write below the drawing what its colours and shapes mean; `none` is the shape of no attention."""
    entries = [(name, "dot", colour) for name, colour in colours.by_family.items()]
    entries += [("no attention", none, "plain"), *((name, shape, "muted") for name, shape in shapes)]
    handles = []
    for name, shape, colour in entries:
        code, size, is_filled = MARKERS[shape]
        face = LIGHT[colour if is_filled else "paper"]
        handles.append(Line2D([], [], ls="", marker=code, ms=size, mec=LIGHT[colour], mfc=face, mew=0.8, label=name))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=5, fontsize=6.2, handletextpad=0.1, columnspacing=1.0
    )


def cost_chart(panels: Mapping[tuple[str, str], Sequence[Mark]], colours: Colours, scale: Scale) -> Chart:
    """Draw value against cost: the arms on test above, all trials on validation below, with Pareto lines.

    Args:
        panels: The marks by source ("arms", "trials") and cost ("n_parameters", "n_macs").
    """
    sources = [source for source in ("arms", "trials") if any(panels[source, cost] for cost in COSTS)]
    figure, axes = _new_figure(0.5 + 1.45 * len(sources), len(sources), 2, sharey="row")
    titles: dict[str, list[str]] = {}
    for row, source in enumerate(sources):
        split = "Test" if source == "arms" else "Validation"
        axes[row][0].set_ylabel(_axis_name(f"{split} {scale.noun}", scale))
        for column, cost in enumerate(COSTS):
            if panels[source, cost]:
                _cost_panel(axes[row][column], panels[source, cost], titles, scale.factor)
    for column, name in enumerate(COSTS.values()):
        axes[-1][column].set_xlabel(name)
    _legend(figure, colours, "ring", [(FOUND, "star")] if "arms" in sources else [])
    alt = f"{scale.title} against parameters and MACs, with the line of what nothing cheaper beats"
    return Chart("cost", alt, figure, titles)


def _cost_panel(axes: Any, marks: Sequence[Mark], titles: dict[str, list[str]], factor: float) -> None:
    front = pareto((mark.x, mark.y) for mark in marks if mark.y is not None)
    costs, values = [cost for cost, _ in front], [value * factor for _, value in front]
    axes.step(costs, values, where="post", color=LIGHT["muted"], lw=0.7, zorder=1)
    for mark in marks:
        if mark.interval is not None:
            ends = [end * factor for end in mark.interval]
            axes.plot([mark.x] * 2, ends, color=LIGHT[mark.colour], lw=1.0, alpha=0.5, zorder=2)
    _draw_marks(axes, marks, titles, factor, floor=0.0)
    low, high = min(mark.x for mark in marks), max(mark.x for mark in marks)
    if low > 0.0 and high / low >= LOG_FROM:
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.xaxis.set_major_locator(FixedLocator(log_ticks(low, high)))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_tick(value)))
    axes.grid(axis="y")


def log_ticks(low: float, high: float, most: int = 3) -> list[float]:
    """Return at most `most` round ticks of a logarithmic axis from `low` to `high`, evenly spaced.

    >>> log_ticks(75_000, 2_300_000)
    [100000.0, 500000.0, 2000000.0]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside[:: math.ceil(len(inside) / most)]


def history_chart(steps: Sequence[Step], colours: Colours, scale: Scale, control: Sequence[Step] = ()) -> Chart:
    """Draw the trials in order with the best so far; trials without a value lie at the bottom.

    Args:
        control: The trials of a random search beside it, of which only the best so far is drawn.
    """
    figure, grid = _new_figure(2.2)
    axes, titles = grid[0][0], dict[str, list[str]]()
    marks = history_marks(steps, colours, scale)
    values = [mark.y * scale.factor for mark in marks if mark.y is not None] or [0.0, scale.factor]
    floor = min(values) - 0.06 * (max(values) - min(values))
    for searched, line in ((steps, "-"), (control, "--")):
        best = [(step.trial.number, step.best * scale.factor) for step in searched if step.best is not None]
        axes.step([x for x, _ in best], [y for _, y in best], line, where="post", color=LIGHT["ink"], lw=0.9)
    _draw_marks(axes, marks, titles, scale.factor, floor)
    axes.set_xlabel("Trial")
    axes.set_ylabel(_axis_name(f"Validation {scale.noun}", scale))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y")
    if all(mark.y is None for mark in marks):
        axes.set_yticks([])  # no value was measured
    shapes = {**{ENDED[state]: shape for state, shape in SHAPES.items()}, "answered": "diamond"}
    used = {mark.shape for mark in marks}
    _legend(figure, colours, "dot", [(name, shape) for name, shape in shapes.items() if shape in used - {"dot"}])
    beside = ", dashed that of a random search of the same cost" if control else ""
    return Chart("history", f"Validation {scale.noun} by trial; the line is the best so far{beside}", figure, titles)


@style()
def importance_chart(heat: Heat, scale: Scale) -> Chart:
    """Draw the effect of each attention at each site with its interval; bold where its sign is known."""
    labels = [_folded(", ".join(row.sites)) for row in heat.rows]
    figure, grid = _new_figure(0.6 + _height_of(labels, 0.3))
    axes = grid[0][0]
    signed = [[_signed(cell.strength, cell.sign) for cell in row.cells] for row in heat.rows]
    axes.imshow(signed, cmap=DIVERGING, vmin=-1.35, vmax=1.35, aspect="auto")
    for y, row in enumerate(heat.rows):
        for x, cell in enumerate(row.cells):
            if cell.effect is not None:
                weight = "bold" if cell.effect.is_clear else "normal"
                mean, ends = minus(scale.signed(cell.effect.mean)), minus(scale.signed_interval(cell.effect.summary))
                axes.text(x, y - 0.18, mean, ha="center", va="center", fontsize=5.8, fontweight=weight)
                axes.text(x, y + 0.22, ends, ha="center", va="center", fontsize=4.6)
    axes.set_xticks(range(len(heat.attentions)), heat.attentions)
    axes.tick_params(length=0)
    _label_rows(axes, labels)
    axes.xaxis.tick_top()
    for spine in axes.spines.values():
        spine.set_visible(False)
    unit = "points" if scale.points else scale.noun
    about = f"Effect on validation {scale.noun} ({unit}) by regression over all trials,"
    figure.supxlabel(f"{about}\nwith its 95 % interval; bold: the sign is known", fontsize=5.6)
    return Chart("importance", f"Effect on validation {scale.noun} of each attention at each site", figure)


def _signed(strength: float, sign: str) -> float:
    return strength if sign == "up" else -strength


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
