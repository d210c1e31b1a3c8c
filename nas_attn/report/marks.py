"""The marks of the figures, computed: where each one lies, how it looks and what its title says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nas_attn.comparison.answer import names_in
from nas_attn.placement import Placement, SiteTable
from nas_attn.records import BARE, FOUND, RunRecord, TrialRecord
from nas_attn.report.importance import rows_of
from nas_attn.report.palette import family_colour
from nas_attn.report.tables import Arm, main_family, measured, trials_of
from nas_attn.report.trials import Step
from nas_attn.report.words import CAUSES, Scale, minus

SHAPES = {"complete": "dot", "pruned": "triangle", "fail": "cross", "running": "ring"}
FULL_TITLES = 200
"""Number of placements whose titles name every option."""

ENDED = {"complete": "complete", "pruned": "stopped early", "fail": "failed", "running": "not finished"}


@dataclass(frozen=True)
class Mark:
    """One mark of a figure.

    Args:
        x, y: In the units of the axes; y is None for a trial without a value.
        shape: `dot`, `ring`, `triangle`, `cross`, `diamond` or `star`.
        colour: A name of the palette: `f0`, `f1`, ... for families, `plain` for no attention.
        interval: Ends of the value's interval.
    """

    x: float
    y: float | None
    title: str
    shape: str
    colour: str
    interval: tuple[float, float] | None = None


class Colours:
    """One name of the palette for each family of attention, the same in every run."""

    def __init__(self, families: Iterable[str], table: SiteTable | None = None) -> None:
        names = sorted(set(families))
        self.table = table
        self.by_family = {name: family_colour(name) for name in names}

    @classmethod
    def of(cls, run: RunRecord) -> Colours:
        """Return the colours of all families that any trial used."""
        trials = trials_of(run)
        families = (attention.name for trial in trials for attention in trial.placement.attentions.values())
        return cls(families, run.table)

    def family(self, name: str | None) -> str:
        """Return the colour of a family; `plain` for none."""
        return "plain" if name in (None, BARE) else family_colour(name)

    def placement(self, placement: Placement) -> str:
        """Return the colour of the family that a placement uses most."""
        return self.family(main_family(placement, self.table))


def history_marks(steps: Sequence[Step], colours: Colours, scale: Scale) -> list[Mark]:
    """Return one mark per trial of the search: its number and its value."""
    titled = short_placements(step.trial.placement for step in steps)
    return [_history_mark(step, titled, colours.placement(step.trial.placement), scale) for step in steps]


def _history_mark(step: Step, titled: Mapping[Placement, str], colour: str, scale: Scale) -> Mark:
    trial = step.trial
    answered = trial.answered_from is not None
    ending = f"answered from trial {trial.answered_from}" if answered else ENDED[trial.state]
    cause = f" ({CAUSES.get(trial.cause, trial.cause)})" if trial.cause else ""
    value = "" if step.value is None else f" {scale.value(step.value)}"
    title = minus(f"trial {trial.number}: {trial.label or titled[trial.placement]}, {ending}{cause}{value}")
    return Mark(trial.number, step.value, title, "diamond" if answered else SHAPES[trial.state], colour)


def trial_marks(trials: Iterable[TrialRecord], cost: str, colours: Colours, scale: Scale) -> list[Mark]:
    """Return one mark per trained placement: its `cost` ("n_parameters" or "n_macs") and mean validation value.

    Of many, a title names the first trial with the placement, which the figure of the search shows in words.
    """
    rows = [trial for trial in measured(trials) if getattr(trial, cost) is not None]
    costs = {trial.placement: float(getattr(trial, cost)) for trial in reversed(rows)}
    labels = {trial.placement: trial.label for trial in rows if trial.label}
    first = {trial.placement: f"trial {trial.number}" for trial in reversed(rows)}
    titled = first if len(costs) > FULL_TITLES else {placement: str(placement) for placement in costs}
    return [
        _cost_mark(placement, labels.get(placement, ""), costs[placement], value, colours, scale, titled[placement])
        for placement, value in rows_of(rows)
    ]


def arm_marks(arms: Iterable[Arm], cost: str, colours: Colours, scale: Scale) -> list[Mark]:
    """Return one mark per arm: its `cost` ("n_parameters" or "n_macs") and its mean test value with the interval."""
    marks = []
    for arm in arms:
        x = getattr(arm, cost)
        if arm.summary and x is not None:
            mark = _cost_mark(arm.placement, arm.label, float(x), arm.summary.mean, colours, scale)
            marks.append(replace(mark, interval=arm.summary.interval))
    return marks


def short_placements(placements: Iterable[Placement]) -> dict[Placement, str]:
    """Return placements in words; of many they leave out the options that are the same wherever they appear.

    Such options stand in the space of the run, and would make up most of the page.
    """
    found = list(dict.fromkeys(placements))
    if len(found) <= FULL_TITLES:
        return {placement: str(placement) for placement in found}
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for placement in found:
        for attention in placement.attentions.values():
            for option, value in attention.options.items():
                values[attention.name, option].add(repr(value))
    fixed = {known for known, seen in values.items() if len(seen) == 1}
    return {placement: str(_varied(placement, fixed)) for placement in found}


def _varied(placement: Placement, fixed: Collection[tuple[str, str]]) -> Placement:
    """Return a placement without the options in `fixed`, given as pairs of attention and option."""
    return Placement(
        {
            site: replace(
                attention,
                options={
                    option: value
                    for option, value in attention.options.items()
                    if (attention.name, option) not in fixed
                },
            )
            for site, attention in placement.attentions.items()
        }
    )


def _cost_mark(
    placement: Placement, label: str, cost: float, value: float, colours: Colours, scale: Scale, words: str = ""
) -> Mark:
    shape = "star" if FOUND in names_in(label) else "dot" if len(placement) else "ring"
    title = minus(f"{label or words or placement}: {scale.value(value)}, {cost:,.0f}")
    return Mark(cost, value, title, shape, colours.placement(placement))
