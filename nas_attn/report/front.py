"""The front of several objectives as the report shows it: the arms on test, and the trials of the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas_attn.comparison.objectives import KNEE_RULE, Objective, front, means, objectives_in
from nas_attn.placement import Placement
from nas_attn.records import RANDOM, RunRecord, TrialRecord
from nas_attn.report.tables import Arm, arms_of, measured


@dataclass(frozen=True)
class FrontRow:
    """One arm, or one placement of the search, with the mean of each objective.

    Args:
        point: The values in the order of the objectives.
        is_front: Whether no other one of the same kind dominates it.
        is_knee: Whether it is the placement of `best.json`.
    """

    label: str
    placement: Placement
    point: tuple[float, ...]
    n: int
    is_front: bool = False
    is_knee: bool = False

    def value(self, index: int, goals: Sequence[Objective]) -> str:
        """Return one value as text with its unit."""
        return goals[index].value(self.point[index])


@dataclass(frozen=True)
class Front:
    """The numbers of the section on the front.

    Args:
        arms: The retrained arms, on test; the best first objective first.
        trials: The placements of the search, on validation.
    """

    goals: tuple[Objective, ...]
    arms: tuple[FrontRow, ...]
    trials: tuple[FrontRow, ...]
    rule: str = KNEE_RULE

    @property
    def knee(self) -> FrontRow | None:
        """The arm of `best.json`; None before the export."""
        return next((row for row in self.arms if row.is_knee), None)

    @property
    def n_searched(self) -> int:
        """Number of placements on the front of the search."""
        return sum(row.is_front for row in self.trials)

    @property
    def n_arms(self) -> int:
        """Number of arms on the front of the test values."""
        return sum(row.is_front for row in self.arms)


def front_of(run: RunRecord) -> Front | None:
    """Return the front of a run; None with a single objective."""
    goals = objectives_in(run.config)
    if len(goals) < 2:
        return None
    arms = [row for arm in arms_of(run) if arm.label != RANDOM and (row := _arm_row(run, arm, goals)) is not None]
    groups: dict[Placement, list[TrialRecord]] = {}
    for trial in measured(run.search):
        groups.setdefault(trial.placement, []).append(trial)
    trials = [
        FrontRow(next((row.label for row in rows if row.label), None) or str(placement), placement, point, len(rows))
        for placement, rows in groups.items()
        if (point := _point(rows, goals)) is not None
    ]
    key = (run.best or {}).get("placement")
    knee = Placement.from_dict(key) if isinstance(key, Mapping) else None
    ranked = sorted(arms, key=lambda row: -row.point[0])
    return Front(goals, _marked(ranked, goals, knee), _marked(trials, goals, knee))


def front_values(run: RunRecord, placement: Placement, goals: Sequence[Objective]) -> dict[str, float]:
    """Return the mean of each objective of an arm over its retrainings, by name; empty without any."""
    rows = [trial for trial in measured(run.retrain) if trial.placement == placement]
    point = _point(rows, goals) if goals else None
    return {} if point is None else dict(zip((goal.name for goal in goals), point, strict=True))


def front_sentence(run: RunRecord) -> str:
    """Return the sentence on the front for the first lines of the report; empty with a single objective."""
    found = front_of(run)
    if found is None or not found.trials:
        return ""
    *firsts, last = [goal.noun for goal in found.goals]
    head = f"The search for {', '.join(firsts)} and {last} found a front of {_count(found.n_searched, 'placement')}"
    if found.knee is None:
        return f"{head}."
    values = ", ".join(
        f"{'' if goal.unit else f'{goal.noun} '}{found.knee.value(index, found.goals)}"
        for index, goal in enumerate(found.goals)
    )
    return f"{head}; best.json holds its knee, '{found.knee.label}' ({values} on test)."


def _arm_row(run: RunRecord, arm: Arm, goals: Sequence[Objective]) -> FrontRow | None:
    rows = [trial for trial in measured(run.retrain) if trial.placement == arm.placement and trial.epochs == arm.epochs]
    point = _point(rows, goals)
    return None if point is None else FrontRow(arm.label, arm.placement, point, len(rows))


def _point(rows: Sequence[TrialRecord], goals: Sequence[Objective]) -> tuple[float, ...] | None:
    names = [goal.name for goal in goals[1:]]
    known = [
        [row.value, *(row.values[name] for name in names)]
        for row in rows
        if row.value is not None and all(name in row.values for name in names)
    ]
    return means(known) if known else None


def _marked(rows: Sequence[FrontRow], goals: Sequence[Objective], knee: Placement | None) -> tuple[FrontRow, ...]:
    best = {id(row) for row in front(rows, lambda row: row.point, goals)}
    return tuple(
        FrontRow(row.label, row.placement, row.point, row.n, id(row) in best, row.placement == knee) for row in rows
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
