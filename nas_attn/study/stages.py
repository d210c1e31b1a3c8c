"""The stages of a run: search, confirm the best, retrain the arms; one executor runs the trials of all of them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from nas_attn.config import Budget, Recipe
from nas_attn.errors import RunStopped
from nas_attn.placement import NONE, Placement
from nas_attn.records import Artifact, Outcome, Stage, Task, TrialRecord
from nas_attn.space.bound import BoundSpace
from nas_attn.study.planned import PlannedRun, PlannedRuns
from nas_attn.study.sampling import SearchStudy, ranking

FAILURES_IN_A_ROW = 5
"""Number of failures in a row with the same cause after which the run stops."""

CONFIRM_SEEDS = 2
"""Number of new seeds per candidate in the confirm stage, which decides the winner."""

CONFIRM_OFFSET, RETRAIN_OFFSET = 10_000, 20_000
"""Offsets of the later stages' seeds from the run's seed: no stage uses a seed of another."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Winner:
    """The decision of the confirm stage, on validation values alone.

    Args:
        placement: The best placement with attention; None if no such trial has a value.
        recommended: `found #1`, or `none` if no attention did as well.
        confirmed: Mean validation value over the confirm seeds, by placement key.
    """

    placement: Placement | None
    recommended: str
    confirmed: dict[str, float]


class WeightStore(Protocol):
    """Stores the weights of retrained models by placement, seed and epochs."""

    def has(self, placement: Placement, seed: int, epochs: int) -> bool:
        """Return whether these weights are stored."""
        ...

    def write(self, placement: Placement, seed: int, epochs: int, content: bytes) -> None:
        """Store weights in safetensors format."""
        ...


class Stages:
    """Hands out the trials of all three stages; workers that are idle between stages retrain the fixed arms.

    Args:
        search: The search and its ledger.
        final: The queue of confirm and retrain runs.
        seed: The run's seed.
        weights: Stores the weights of every arm's first seed.
        arms: Further placements to compare with, by label.
        watch: Called after every change, for the display; must return quickly.
    """

    def __init__(
        self,
        search: SearchStudy,
        final: PlannedRuns,
        bound: BoundSpace,
        *,
        budget: Budget,
        recipe: Recipe,
        seed: int,
        weights: WeightStore,
        arms: Mapping[str, Placement] | None = None,
        watch: Callable[[Stages], None] = lambda _: None,
    ) -> None:
        self.search, self.final, self._bound = search, final, bound
        self.budget, self.recipe, self._seed = budget, recipe, seed
        self._weights, self._watch, self._more_arms = weights, watch, arms or {}
        self.live: dict[tuple[Stage, int], tuple[Task, float]] = {}
        self.error: RunStopped | None = None
        self.winner: Winner | None = None
        self.best: TrialRecord | None = None
        self._best_is_new = False
        self._confirming = False
        self._causes: list[str] = []
        for record in search.records():
            self._look_at(record)
        self.final.plan(self._arm_plans(self.fixed_arms()))
        self._advance()

    def ask(self) -> Task | None:
        """Return the next trial of the earliest stage that has one."""
        if self.error is not None:
            return None
        task = self.search.ask()
        if task is None:
            self._advance()
            task = self.final.ask()
        if task is not None:
            self.live[task.stage, task.number] = (task, time.monotonic())
            log.info("begin %s %d: seed %d, %s", task.stage, task.number, task.seed, task.placement)
            self._watch(self)
        return task

    def report(self, task: Task, epoch: int, value: float) -> bool:
        """Record the value of one epoch; return whether the scheduler stops the trial.

        A value that is not finite is not recorded; the outcome of the trial reports it.
        """
        if not math.isfinite(value):
            return False
        study = self.search if task.stage == "search" else self.final
        return study.report(task.number, epoch, value)

    def finish(self, task: Task, outcome: Outcome) -> None:
        """Store the artifacts of a trial and record its outcome; begin the next stage if this one is done."""
        if "weights" in outcome.artifacts:
            self._weights.write(task.placement, task.seed, task.epochs, outcome.artifacts["weights"])
        study = self.search if task.stage == "search" else self.final
        record = study.finish(task.number, outcome)
        self.live.pop((task.stage, task.number))
        reason = f" ({outcome.reason})" if outcome.reason else ""
        log.info("end %s %d: %s %s%s", task.stage, task.number, outcome.state, outcome.value, reason)
        self._count_failures(record)
        self._look_at(record)
        self._advance()
        self._watch(self)

    def take_new_best(self) -> TrialRecord | None:
        """Return the best trial of the search if it is new since the last call."""
        is_new, self._best_is_new = self._best_is_new, False
        return self.best if is_new else None

    @property
    def is_finished(self) -> bool:
        """Whether all stages are done, or the run has stopped by an error."""
        if self.error is not None:
            return True
        return self.winner is not None and not self.live and not self.final.n_waiting("retrain")

    @property
    def stage(self) -> Stage:
        """The earliest stage that is not finished."""
        if not self.search.is_finished:
            return "search"
        return "retrain" if self.winner is not None else "confirm"

    def fixed_arms(self) -> list[tuple[str, Placement]]:
        """Return the arms that need no search: none, each attention of the space everywhere, and the requested ones."""
        names = dict.fromkeys(name for rule in self._bound.space.sites for name in rule.attentions)
        everywhere = [(f"{name} everywhere", self._bound.everywhere(name)) for name in names]
        return [("none", NONE), *everywhere, *self._more_arms.items()]

    def arms(self) -> list[tuple[str, Placement]]:
        """Return all arms; equal placements appear once, with their labels joined by " = "."""
        found = self.winner.placement if self.winner else None
        arms = [*([("found #1", found)] if found is not None else []), *self.fixed_arms()]
        labels: dict[str, list[str]] = {}
        for label, placement in arms:
            labels.setdefault(placement.key, []).append(label)
        placements = {placement.key: placement for _, placement in arms}
        return [(" = ".join(names), placements[key]) for key, names in labels.items()]

    @property
    def n_confirm(self) -> int:
        """Number of runs of the confirm stage."""
        return CONFIRM_SEEDS * (1 + self.budget.top)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every arm is retrained with, in their order."""
        return tuple(self._seed + RETRAIN_OFFSET + index for index in range(self.budget.seeds))

    @property
    def retrain_epochs(self) -> int:
        """Number of epochs of a retraining."""
        return self.recipe.retrain_epochs or self.recipe.epochs

    def _advance(self) -> None:
        if not self._confirming and self.search.is_finished:
            self._confirming = True
            self.final.plan(self._confirm_plans(), first=True)
        if self._confirming and self.winner is None and not self.final.n_waiting("confirm"):
            self.winner = self._decide()
            plans = self._arm_plans(self.arms())
            self.final.plan(plans, first=True)
            self.final.plan(self._lost_weights(plans), again=True)
        self.final.name_arms({placement.key: label for label, placement in self.arms()})

    def _look_at(self, record: TrialRecord) -> None:
        """Update the best trial of the search."""
        if record.stage != "search" or record.state != "complete" or record.value is None:
            return
        if self.best is None or self.best.value is None or record.value > self.best.value:
            self.best, self._best_is_new = record, True

    def _best(self) -> list[Placement]:
        """Return the best placements of the search that have attention."""
        placements = {row.key: row.placement for row in self.search.records()}
        ranked = [placements[key] for key, _ in ranking(self.search.records())]
        return [placement for placement in ranked if len(placement)][: self.budget.top]

    def _confirm_plans(self) -> list[PlannedRun]:
        seeds = [self._seed + CONFIRM_OFFSET + index for index in range(CONFIRM_SEEDS)]
        candidates = [(f"best {rank}", placement) for rank, placement in enumerate(self._best(), 1)]
        return [
            PlannedRun("confirm", label, placement, seed, self.recipe.epochs)
            for seed in seeds
            for label, placement in [("none", NONE), *candidates]
        ]

    def _decide(self) -> Winner:
        """Rank the candidates by the mean over their new seeds."""
        means = {
            placement.key: mean
            for placement in [NONE, *self._best()]
            if (mean := self.final.mean("confirm", placement, self.recipe.epochs)) is not None
        }
        candidates = [placement for placement in self._best() if placement.key in means]
        if not candidates:
            return Winner(None, "none", means)
        best = max(candidates, key=lambda placement: means[placement.key])
        none = means.get(NONE.key)
        recommended = "none" if none is not None and none >= means[best.key] else "found #1"
        return Winner(best, recommended, means)

    def _arm_plans(self, arms: list[tuple[str, Placement]]) -> list[PlannedRun]:
        """Return the retrainings seed by seed, so that an unfinished run compares arms over the same seeds."""
        return [
            PlannedRun("retrain", label, placement, seed, self.retrain_epochs, self._artifacts(seed))
            for seed in self.seeds
            for label, placement in arms
        ]

    def _artifacts(self, seed: int) -> tuple[Artifact, ...]:
        """Return the artifacts of a retraining: the weights, for the first seed of each arm."""
        return ("weights",) if seed == self.seeds[0] else ()

    def _lost_weights(self, plans: list[PlannedRun]) -> list[PlannedRun]:
        """Return the finished runs of the winner whose weights are missing, because the export needs them."""
        assert self.winner is not None, "only the winner's weights are needed"
        key = (self.winner.placement or NONE).key
        return [
            plan
            for plan in plans
            if plan.placement.key == key and "weights" in plan.artifacts and self.final.is_done(plan)
            if not self._weights.has(plan.placement, plan.seed, plan.epochs)
        ]

    def _count_failures(self, record: TrialRecord) -> None:
        """Stop the run after too many failures in a row with the same cause."""
        if record.state != "fail":
            self._causes.clear()
        elif record.cause != "interrupted":
            self._causes = [cause for cause in self._causes if cause == record.cause] + [str(record.cause)]
        if len(self._causes) >= FAILURES_IN_A_ROW and self.error is None:
            reason = str(record.reason).rstrip(".")
            self.error = RunStopped(
                f"{len(self._causes)} trials in a row failed with the same cause, so the run stops. The last error: "
                f"{reason}. Finished trials are stored; fix the cause, and the same command resumes the run."
            )
