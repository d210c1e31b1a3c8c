"""The job: search, then confirm the best, then retrain the arms; every run of it goes through one executor."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nas_attn.config import Budget, Recipe
from nas_attn.errors import RunStopped
from nas_attn.placement import NONE, Placement
from nas_attn.records import Outcome, Stage, Task, TrialRecord
from nas_attn.space.search_space import BoundSpace
from nas_attn.study.planned import FinalStudy, Plan
from nas_attn.study.sampling import SearchStudy, ranking

FAILURES_IN_A_ROW = 5
"""Failures of one cause, one after the other, after which the run stops: they are no accident."""

CONFIRM_SEEDS = 2
"""New seeds that each of the best is run with before one of them is called the winner."""

CONFIRM_OFFSET, RETRAIN_OFFSET = 10_000, 20_000
"""Distance of the later stages' seeds from the run's: no stage uses a seed of another."""


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Winner:
    """What the confirm stage decided, on validation alone.

    Args:
        placement: The best placement with attention; None if no such trial ended.
        recommended: `found #1`, or `none` if no attention did as well.
        confirmed: Mean validation value over the confirm seeds, by placement key.
    """

    placement: Placement | None
    recommended: str
    confirmed: dict[str, float]


class Stages:
    """Hands out the runs of all three stages; idle workers retrain the fixed arms before a stage begins.

    Args:
        search: The search and its ledger.
        final: The ledger of confirm and retrain.
        seed: The run's seed.
        weights: Folder for the winner's weights.
        arms: Further placements to compare with, by label.
        watch: Called after every change, for the display; must be quick.
    """

    def __init__(
        self,
        search: SearchStudy,
        final: FinalStudy,
        bound: BoundSpace,
        *,
        budget: Budget,
        recipe: Recipe,
        seed: int,
        weights: Path,
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
        self._row: list[str] = []
        for record in search.records():
            self._look_at(record)
        self.final.plan(self._arm_plans(self.fixed_arms()))
        self._advance()

    def ask(self) -> Task | None:
        """Return the next run of the earliest stage that has one."""
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
        """Pass one epoch on to the ledger; return whether the scheduler stops the trial.

        A value that is not finite is no point of a curve; the end of the run says what became of it.
        """
        if not math.isfinite(value):
            return False
        study = self.search if task.stage == "search" else self.final
        return study.report(task.number, epoch, value)

    def finish(self, task: Task, outcome: Outcome) -> None:
        """Pass the end of a run on to the ledger, and begin the next stage when its time has come."""
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
        """Whether all stages are done, or the run has given up."""
        if self.error is not None:
            return True
        return self.winner is not None and not self.live and not self.final.n_waiting("retrain")

    @property
    def stage(self) -> Stage:
        """The earliest stage that is not done."""
        if not self.search.is_finished:
            return "search"
        return "retrain" if self.winner is not None else "confirm"

    def fixed_arms(self) -> list[tuple[str, Placement]]:
        """Return the arms that need no search: none, each attention of the space everywhere, those asked for."""
        names = dict.fromkeys(name for rule in self._bound.space.sites for name in rule.attentions)
        everywhere = [(f"{name} everywhere", self._bound.everywhere(name)) for name in names]
        return [("none", NONE), *everywhere, *self._more_arms.items()]

    def arms(self) -> list[tuple[str, Placement]]:
        """Return all arms, equal placements once, their labels joined by " = "."""
        found = self.winner.placement if self.winner else None
        arms = [*([("found #1", found)] if found is not None else []), *self.fixed_arms()]
        labels: dict[str, list[str]] = {}
        for label, placement in arms:
            labels.setdefault(placement.key, []).append(label)
        placements = {placement.key: placement for _, placement in arms}
        return [(" = ".join(names), placements[key]) for key, names in labels.items()]

    @property
    def n_confirm(self) -> int:
        """How many runs the confirm stage will have."""
        return CONFIRM_SEEDS * (1 + self.budget.top)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every arm is retrained with."""
        return tuple(self._seed + RETRAIN_OFFSET + index for index in range(self.budget.seeds))

    @property
    def retrain_epochs(self) -> int:
        """Length of a retraining."""
        return self.recipe.retrain_epochs or self.recipe.epochs

    def weights_of(self, placement: Placement) -> Path:
        """Return the file of a placement's weights, trained with the first seed."""
        return self._weights / f"{placement.key}-{self.seeds[0]}-{self.retrain_epochs}.safetensors"

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
        """Keep the best trial of the search."""
        if record.stage != "search" or record.state != "complete" or record.value is None:
            return
        if self.best is None or self.best.value is None or record.value > self.best.value:
            self.best, self._best_is_new = record, True

    def _best(self) -> list[Placement]:
        """Return the best few of the search that have attention."""
        placements = {row.key: row.placement for row in self.search.records()}
        ranked = [placements[key] for key, _ in ranking(self.search.records())]
        return [placement for placement in ranked if len(placement)][: self.budget.top]

    def _confirm_plans(self) -> list[Plan]:
        seeds = [self._seed + CONFIRM_OFFSET + index for index in range(CONFIRM_SEEDS)]
        candidates = [(f"best {rank}", placement) for rank, placement in enumerate(self._best(), 1)]
        return [
            Plan("confirm", label, placement, seed, self.recipe.epochs)
            for seed in seeds
            for label, placement in [("none", NONE), *candidates]
        ]

    def _decide(self) -> Winner:
        """Rank the candidates on the mean of their new seeds."""
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

    def _arm_plans(self, arms: list[tuple[str, Placement]]) -> list[Plan]:
        """Return the retrainings seed by seed, so that an unfinished run still compares arms over the same seeds."""
        return [
            Plan("retrain", label, placement, seed, self.retrain_epochs, self._weights_for(label, placement, seed))
            for seed in self.seeds
            for label, placement in arms
        ]

    def _weights_for(self, label: str, placement: Placement, seed: int) -> str | None:
        """Return where the weights go: every arm that may be exported keeps those of its first seed."""
        return str(self.weights_of(placement)) if seed == self.seeds[0] else None

    def _lost_weights(self, plans: list[Plan]) -> list[Plan]:
        """Return the run to repeat when it was finished, but its weights, which are to be exported, are gone."""
        assert self.winner is not None, "weights are looked for once the winner is known"
        key = (self.winner.placement or NONE).key
        needed = [plan for plan in plans if plan.placement.key == key and plan.weights is not None]
        return [plan for plan in needed if self.final.is_done(plan) and not Path(str(plan.weights)).exists()]

    def _count_failures(self, record: TrialRecord) -> None:
        """Give up when one cause fails trial after trial."""
        if record.state != "fail":
            self._row.clear()
        elif record.cause != "interrupted":
            self._row = [cause for cause in self._row if cause == record.cause] + [str(record.cause)]
        if len(self._row) >= FAILURES_IN_A_ROW and self.error is None:
            reason = str(record.reason).rstrip(".")
            self.error = RunStopped(
                f"{len(self._row)} trials in a row failed by the same cause, so the run stops; the last one said: "
                f"{reason}. What is finished is kept, and the same command goes on once the cause is mended."
            )
