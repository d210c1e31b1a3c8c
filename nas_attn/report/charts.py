"""The charts as records: every mark with its place in per cent. The page and nothing else draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from nas_attn.placement import Placement, SiteTable
from nas_attn.records import RunRecord, TrialRecord
from nas_attn.report.importance import Marginal, rows_of
from nas_attn.report.scales import Axis, cost_axis, linear_axis
from nas_attn.report.tables import FOUND, NONE, Arm, Step, main_family, measured, names_in, pareto
from nas_attn.report.words import CAUSES, Scale, short_tick
from nas_attn.statistics import Comparison, Summary

N_COLOURS = 8


@dataclass(frozen=True)
class Dot:
    """One mark of a chart.

    Args:
        x, y: In per cent from the left and from the bottom.
        shape: `dot`, `ring`, `triangle`, `cross`, `diamond`, `star`.
        colour: A colour's name: `f0` ... `f7` for families, `plain` for no attention.
        low, high: Ends of the value's interval, from the bottom.
    """

    x: float
    y: float
    title: str
    shape: str = "dot"
    colour: str = "plain"
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class StripRow:
    """One sample on a line: its values, its mean and its interval."""

    label: str
    dots: tuple[Dot, ...]
    mean: float
    low: float | None
    high: float | None
    colour: str
    is_main: bool = True


@dataclass(frozen=True)
class Strip:
    """Samples under each other on one axis; `zero` is where no difference lies."""

    axis: Axis
    rows: tuple[StripRow, ...]
    zero: float | None = None


@dataclass(frozen=True)
class Segment:
    """A straight line, in per cent."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Scatter:
    """Marks over two axes, with a line."""

    x: Axis
    y: Axis
    dots: tuple[Dot, ...]
    line: tuple[Segment, ...]


class Colours:
    """One colour's name for each family, the same in the whole report."""

    def __init__(self, families: Iterable[str]) -> None:
        names = sorted(set(families))
        self.by_family = {name: f"f{index % N_COLOURS}" for index, name in enumerate(names)}

    @classmethod
    def of(cls, run: RunRecord) -> Colours:
        """Return the colours of all families that any trial used."""
        trials = (*run.search, *run.confirm, *run.retrain)
        return cls(attention.name for trial in trials for attention in trial.placement.attentions.values())

    def family(self, name: str | None) -> str:
        """Return the colour of a family; plain for none."""
        return self.by_family.get(name or NONE, "plain")

    def placement(self, placement: Placement, table: SiteTable | None) -> str:
        """Return the colour of the family that a placement uses most."""
        return self.family(main_family(placement, table))


def arms_strip(arms: Sequence[Arm], table: SiteTable | None, colours: Colours, scale: Scale) -> Strip | None:
    """Return the test values of the arms by seed, or None when there are none."""
    known = [(arm, arm.summary) for arm in arms if arm.summary is not None]
    if not known:
        return None
    samples = [(arm.by_seed, summary) for arm, summary in known]
    axis = linear_axis(_extent(samples), lambda value: tick(value, scale))
    rows = [
        _strip_row(arm.label, arm.by_seed, summary, axis, colours.placement(arm.placement, table), scale.value)
        for arm, summary in known
    ]
    return Strip(axis, tuple(rows))


def differences_strip(comparisons: Sequence[Comparison], main: Sequence[str], scale: Scale) -> Strip | None:
    """Return paired differences by seed, or None when no seed is shared; `main` names the rows of the verdict."""
    known = [(comparison, comparison.summary) for comparison in comparisons if comparison.summary is not None]
    if not known:
        return None
    samples = [(comparison.by_seed, summary) for comparison, summary in known]
    axis = linear_axis([0.0, *_extent(samples)], lambda value: signed_tick(value, scale))
    rows = [
        _strip_row(
            comparison.baseline,
            comparison.by_seed,
            summary,
            axis,
            comparison.word.replace(" ", "-"),
            scale.difference,
            comparison.baseline in main,
        )
        for comparison, summary in known
    ]
    return Strip(axis, tuple(rows), zero=axis.at(0.0))


def _extent(samples: Iterable[tuple[Mapping[int, float], Summary]]) -> list[float]:
    """Return all values and interval ends of samples."""
    values: list[float] = []
    for by_seed, summary in samples:
        ends = (summary.low, summary.mean, summary.high)
        values += [*by_seed.values(), *(end for end in ends if end is not None)]
    return values


def _strip_row(
    label: str,
    by_seed: Mapping[int, float],
    summary: Summary,
    axis: Axis,
    colour: str,
    write: Callable[[float], str],
    is_main: bool = True,
) -> StripRow:
    dots = [Dot(axis.at(value), 0.0, f"seed {seed}: {write(value)}") for seed, value in by_seed.items()]
    low = None if summary.low is None else axis.at(summary.low)
    high = None if summary.high is None else axis.at(summary.high)
    return StripRow(label, tuple(dots), axis.at(summary.mean), low, high, colour, is_main)


def tick(value: float, scale: Scale) -> str:
    """Return a tick's label: as few digits as its value needs."""
    return f"{value * scale.factor:.6g}{scale.unit}"


def signed_tick(value: float, scale: Scale) -> str:
    """Return the label of a tick on an axis of differences."""
    return f"{value * scale.factor:+.6g}" if value else "0"


def history_chart(steps: Sequence[Step], table: SiteTable | None, colours: Colours, scale: Scale) -> Scatter | None:
    """Return the trials in order with the best so far, or None when there is no trial.

    Trials without a value (failed, or still running) lie on the floor of the chart.
    """
    if not steps:
        return None
    values = [step.value for step in steps if step.value is not None] or [0.0, 1.0]
    y = linear_axis(values, lambda value: tick(value, scale))
    numbers = [step.trial.number for step in steps]
    x = linear_axis(numbers, lambda value: f"{value:g}" if value == int(value) else "", n_ticks=6)
    dots = [_history_dot(step, x, y, table, colours, scale) for step in steps]
    return Scatter(x, y, tuple(dots), _best_line(steps, x, y))


SHAPES = {"complete": "dot", "pruned": "triangle", "fail": "cross", "running": "ring"}


ENDED = {"complete": "complete", "pruned": "stopped early", "fail": "failed", "running": "not finished"}


def _history_dot(step: Step, x: Axis, y: Axis, table: SiteTable | None, colours: Colours, scale: Scale) -> Dot:
    trial = step.trial
    answered = trial.answered_from is not None
    told = f"answered from trial {trial.answered_from}" if answered else ENDED[trial.state]
    value = "" if step.value is None else f" {scale.value(step.value)}"
    reason = f" by {CAUSES.get(trial.cause, trial.cause)}" if trial.cause else ""
    title = f"trial {trial.number}: {trial.label or trial.placement}, {told}{reason}{value}"
    return Dot(
        x.at(trial.number),
        0.0 if step.value is None else y.at(step.value),
        title,
        "diamond" if answered else SHAPES[trial.state],
        colours.placement(trial.placement, table),
    )


def _best_line(steps: Sequence[Step], x: Axis, y: Axis) -> tuple[Segment, ...]:
    """Return the best so far as stairs."""
    corners: list[tuple[float, float]] = []
    for step in steps:
        if step.best is not None and (step.improved or step is steps[-1]):
            here = (x.at(step.trial.number), y.at(step.best))
            corners += [(here[0], corners[-1][1]), here] if corners else [here]
    return tuple(Segment(*a, *b) for a, b in pairwise(corners) if a != b)


@dataclass(frozen=True)
class CostPoint:
    """One placement with its cost and value; `low` and `high` where there is an interval."""

    placement: Placement
    label: str
    cost: float
    value: float
    low: float | None = None
    high: float | None = None


def trial_points(trials: Iterable[TrialRecord], cost: str) -> list[CostPoint]:
    """Return every trained placement with `cost` ("n_parameters" or "n_macs") and its mean validation value."""
    rows = [trial for trial in measured(trials) if getattr(trial, cost) is not None]
    value_of = dict(rows_of(rows))
    first = {trial.placement: trial for trial in reversed(rows)}
    named = {trial.placement: trial.label for trial in rows if trial.label}
    return [CostPoint(p, named.get(p) or "", float(getattr(first[p], cost)), value) for p, value in value_of.items()]


def arm_points(arms: Iterable[Arm], cost: str) -> list[CostPoint]:
    """Return every arm with its cost, its mean test value and its interval."""
    known = [(arm, arm.summary, getattr(arm, cost)) for arm in arms]
    return [
        CostPoint(a.placement, a.label, float(c), s.mean, s.low, s.high) for a, s, c in known if s and c is not None
    ]


def cost_chart(points: Sequence[CostPoint], table: SiteTable | None, colours: Colours, scale: Scale) -> Scatter | None:
    """Return value against cost with the Pareto line, or None without points."""
    if not points:
        return None
    ends = [end for point in points for end in (point.value, point.low, point.high) if end is not None]
    y = linear_axis(ends, lambda value: tick(value, scale), n_ticks=4)
    x = cost_axis((point.cost for point in points), short_tick)
    front = pareto((point.cost, point.value) for point in points)
    dots = [
        Dot(
            x.at(point.cost),
            y.at(point.value),
            f"{point.label or point.placement}: {scale.value(point.value)}, {point.cost:,.0f}",
            _cost_shape(point),
            colours.placement(point.placement, table),
            low=None if point.low is None else y.at(point.low),
            high=None if point.high is None else y.at(point.high),
        )
        for point in points
    ]
    corners: list[tuple[float, float]] = []
    for cost, value in front:
        corners += [(x.at(cost), corners[-1][1])] if corners else []
        corners += [(x.at(cost), y.at(value))]
    return Scatter(x, y, tuple(dots), tuple(Segment(*a, *b) for a, b in pairwise(corners)))


def _cost_shape(point: CostPoint) -> str:
    if FOUND in names_in(point.label):
        return "star"
    return "dot" if len(point.placement) else "ring"


@dataclass(frozen=True)
class HeatCell:
    """A site's mean with one attention; `strength` from 0 to 1 is how deep it is coloured, `sign` which way."""

    marginal: Marginal | None
    strength: float = 0.0
    sign: str = ""


@dataclass(frozen=True)
class HeatRow:
    """The cells of one site, or of sites that the search decided together."""

    sites: tuple[str, ...]
    cells: tuple[HeatCell, ...]


@dataclass(frozen=True)
class Heat:
    """Sites by attentions; `none` is the first column."""

    attentions: tuple[str, ...]
    rows: tuple[HeatRow, ...]


def heat_map(found: Sequence[Marginal]) -> Heat | None:
    """Return marginal means as a table, or None when no attention was measured anywhere."""
    names = sorted({marginal.attention for marginal in found} - {NONE})
    if not names:
        return None
    largest = max((abs(marginal.effect.mean) for marginal in found if marginal.effect), default=0.0) or 1.0
    by_place = {(marginal.sites, marginal.attention): marginal for marginal in found}
    columns = (NONE, *names)
    rows = [
        HeatRow(sites, tuple(_heat_cell(by_place.get((sites, name)), largest) for name in columns))
        for sites in dict.fromkeys(marginal.sites for marginal in found)
    ]
    return Heat(columns, tuple(rows))


def _heat_cell(marginal: Marginal | None, largest: float) -> HeatCell:
    if marginal is None or marginal.effect is None:
        return HeatCell(marginal)
    mean = marginal.effect.mean
    return HeatCell(marginal, round(abs(mean) / largest, 3), "up" if mean > 0 else "down" if mean < 0 else "")
