"""The trials as the report counts and orders them: history, outcomes, failures, and the Pareto front."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from nas_attn.records import RunRecord, TrialRecord
from nas_attn.report.tables import CUT_OFF, is_measured, trials_of


@dataclass(frozen=True)
class Step:
    """One trial in the history of the search.

    Args:
        value: The value of a complete trial, the last intermediate value of a pruned one, otherwise None.
        best: Best value of the complete trials up to and including this one; None before the first.
    """

    trial: TrialRecord
    value: float | None
    best: float | None
    improved: bool


@dataclass(frozen=True)
class Counts:
    """The number of search trials by outcome; each trial is in one count.

    Args:
        cut_off: Interrupted, and run again under another number.
        answered: Rows with the value of another trial, not trained again.
    """

    complete: int
    pruned: int
    fail: int
    running: int
    cut_off: int
    answered: int

    @property
    def ended(self) -> int:
        """Number of trials whose training ended."""
        return self.complete + self.pruned + self.fail


@dataclass(frozen=True)
class FailureGroup:
    """The failed trials of one stage and cause."""

    stage: str
    cause: str
    trials: tuple[TrialRecord, ...]


def counts_of(trials: Iterable[TrialRecord]) -> Counts:
    """Count the search trials by outcome."""
    tally = Counter(_ending(trial) for trial in trials)
    names = ("complete", "pruned", "fail", "running", "cut off", "answered")
    return Counts(*(tally[name] for name in names))


def _ending(trial: TrialRecord) -> str:
    if trial.answered_from is not None:
        return "answered"
    return "cut off" if trial.cause == CUT_OFF else trial.state


def history_of(trials: Iterable[TrialRecord]) -> tuple[Step, ...]:
    """Return the search trials in order, each with the best value so far."""
    steps: list[Step] = []
    best: float | None = None
    for trial in sorted(trials, key=lambda trial: trial.number):
        improved = is_measured(trial) and trial.value is not None and (best is None or trial.value > best)
        best = trial.value if improved else best
        steps.append(Step(trial, _shown_value(trial), best, improved))
    return tuple(steps)


def _shown_value(trial: TrialRecord) -> float | None:
    """Return the value of a complete trial, the last intermediate value of a pruned one, otherwise None."""
    value = trial.value
    if trial.state == "pruned" and value is None and trial.curve:
        value = trial.curve[max(trial.curve)]
    shown = trial.state in ("complete", "pruned") and value is not None and math.isfinite(value)
    return value if shown else None


def pareto(points: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return the Pareto front of (cost, value) points, from the cheapest on.

    >>> pareto([(1, 0.5), (2, 0.4), (3, 0.9), (3, 0.8)])
    ((1, 0.5), (3, 0.9))
    """
    front: list[tuple[float, float]] = []
    for cost, value in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return tuple(front)


def failures_of(run: RunRecord) -> tuple[FailureGroup, ...]:
    """Return the failed trials of all stages, grouped by stage and cause."""
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for trial in (*run.screen, *trials_of(run)):
        if trial.state == "fail":
            groups.setdefault((trial.stage, trial.cause or "error"), []).append(trial)
    return tuple(FailureGroup(stage, cause, tuple(rows)) for (stage, cause), rows in groups.items())
