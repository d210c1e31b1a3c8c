"""The stages of a run: search, confirm the best, retrain the arms; one executor runs the trials of all of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping

from nas_attn.comparison.answer import Answer, Sample
from nas_attn.comparison.looks import Look
from nas_attn.config import Budget, Recipe
from nas_attn.errors import RunStopped
from nas_attn.placement import NONE, Placement
from nas_attn.records import BARE, FOUND, RANDOM, Artifact, Outcome, Stage, Task, TrialRecord
from nas_attn.space.bound import BoundSpace
from nas_attn.study.arm_files import ArmFiles
from nas_attn.study.checkpoints import Checkpoints, CheckpointStore, TrialLogs
from nas_attn.study.confirm import Confirmation, Winner
from nas_attn.study.early_end import ENDED, EarlyEnd, look_at_rest, look_at_time
from nas_attn.study.failures import Failures
from nas_attn.study.judging import Looks
from nas_attn.study.lineup import Lineup
from nas_attn.study.pace import Pace
from nas_attn.study.planned import PlannedRun, PlannedRuns, TrialStore
from nas_attn.study.remarks import Remarks
from nas_attn.study.samplers.proposals import SamplerFailed
from nas_attn.study.samples import Samples
from nas_attn.study.sampling import SearchStudy
from nas_attn.study.screen import Screening

AUTO_SEEDS = 5
"""Number of seeds of the first look of `--seeds auto`, and number that each further one adds."""

RETRAIN_OFFSET = 20_000
"""Offset of the retrainings' seeds from the run's seed: no stage uses a seed of another."""

log = logging.getLogger(__name__)


class Stages:
    """Hands out the trials of all three stages; workers that are idle between stages retrain the fixed arms.

    Args:
        search: The search and its ledger.
        control: The random search beside it, whose best placement is an arm; None runs none.
        screening: The network with shared weights before it; None trains none.
        final: The queue of confirm and retrain runs.
        seed: The run's seed.
        weights: Stores the weights of every arm's first seed.
        predictions: Stores the predictions of every confirm and retrain run.
        kept: The form in which predictions are stored.
        seeds_at_once: Number of seeds of an arm to retrain as one training.
        arms: Further placements to compare with, by label.
        checkpoints: Stores the states of running trials; None stores none.
        logs: Stores what the trainings print; None stores nothing.
        given: The placement to retrain as `found #1`; with it nothing is searched or confirmed.
        pace: Measures the trainings, and knows the time budget; None has none.
        watch: Called after every change, for the display; must return quickly.
        ended: Called with the row of every trial that ended.
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
        weights: TrialStore,
        predictions: TrialStore,
        kept: Artifact = "predictions",
        seeds_at_once: int = 1,
        arms: Mapping[str, Placement] | None = None,
        given: Placement | None = None,
        control: SearchStudy | None = None,
        screening: Screening | None = None,
        checkpoints: CheckpointStore | None = None,
        logs: TrialLogs | None = None,
        pace: Pace | None = None,
        watch: Callable[[Stages], None] = lambda _: None,
        ended: Callable[[TrialRecord], None] = lambda _: None,
    ) -> None:
        self.search, self.control, self.final, self._bound = search, control, final, bound
        self.searches = (search,) if control is None else (search, control)
        self.screening = screening
        self._first: tuple[Screening | SearchStudy, ...] = (*filter(None, [screening]), *self.searches)
        self.budget, self.recipe, self._seed = budget, recipe, seed
        self._files, self._kept = ArmFiles(weights, predictions), kept
        self._seeds_at_once = seeds_at_once
        self._watch, self._ended, self._given = watch, ended, given
        self.lineup = Lineup(bound, arms or {}, budget, seed)
        rows = [row for study in (*self._first, final) for row in study.records()]
        self.pace = pace or Pace()
        self.pace.learn(rows)
        self._checkpoints, self._logs = Checkpoints(checkpoints, rows), logs
        early = EarlyEnd.read(final.note(ENDED), budget)
        if early is not None:
            self.budget = early.limited(budget)
            for each in self.searches:
                each.close()
        self.asked_seeds = budget.seeds
        self.live: dict[tuple[Stage, int], tuple[Task, float]] = {}
        self.error: RunStopped | None = None
        self.winner: Winner | None = None
        self.answer: Answer | None = None
        self._looks, self._failures = Looks(final), Failures()
        self._remarks = Remarks(final)
        self._samples = Samples(final, predictions, search.goals, bound)
        self._n_judged = 0
        self._restored: set[tuple[str, int, int]] = set()
        self._confirmation = Confirmation(self.searches, final, budget, seed=seed, epochs=recipe.epochs, kept=kept)
        self.final.plan([] if given else self._arm_plans(self._seeded_arms(self.seeds)))
        self._advance()
        self._tidy()

    def ask(self) -> Task | None:
        """Return the next trial of the earliest stage that has one."""
        if self.error is not None:
            return None
        look_at_time(self)
        try:
            task = next((task for study in self._first if (task := study.ask()) is not None), None)
        except SamplerFailed as error:
            self.error = error
        if self.error is not None:
            return None
        if task is None:
            self._advance()
            task = self.final.ask(self._seeds_at_once)
        if task is not None:
            task = self._checkpoints.begin(task)
            task = task if task.checkpoint is None else self.final.release(task)  # it was begun alone
            self.pace.begins(task.stage, task.number)
            self.live[task.stage, task.number] = (task, self.pace.clock())
            log.info("begin %s %d: seed %d, %s", task.stage, task.number, task.seed, task.placement)
            self._watch(self)
        return task

    def report(self, task: Task, epoch: int, value: float) -> bool:
        """Record the value of one epoch; return whether the scheduler stops the trial.

        A value that is not finite is not recorded; the outcome of the trial reports it.
        """
        self._checkpoints.report(task, epoch)
        if not math.isfinite(value):
            return False
        return self._study(task.stage).report(task.number, epoch, value)

    def save(self, task: Task, content: bytes) -> None:
        """Store the checkpoint of a running trial."""
        self._checkpoints.save(task, content)

    def show(self, task: Task, text: str) -> None:
        """Add to the log of a trial what its training printed."""
        if self._logs is not None:
            self._logs.write(task.stage, task.number, text)

    def note(self, sentence: str) -> None:
        """Record something that the user should know about the run, for the terminal, the log and the report."""
        if self._remarks.add(sentence):
            self._watch(self)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user should know about the run, in sentences."""
        return self._remarks.sentences

    @property
    def unexported(self) -> Mapping[str, str]:
        """Why the weights of an arm cannot be exported, by the key of its placement."""
        return self._remarks.unexported

    def finish(self, task: Task, outcome: Outcome) -> None:
        """Record the outcomes of a task with their artifacts; begin the next stage if this one is done."""
        further = self.final.further(task.number, outcome) if task.further_seeds else []
        seconds = self.pace.clock() - self.live.pop((task.stage, task.number))[1]
        records = [self._record(*each) for each in ((task, outcome), *further)]
        self.pace.ends(records, seconds)
        self.error = self.error or self._failures.count(records)
        self._remarks.look_at_seeds(outcome)
        look_at_rest(self)
        self._advance()
        self._tidy()
        self._watch(self)

    def _record(self, task: Task, outcome: Outcome) -> TrialRecord:
        """Store the artifacts of a trial, record its outcome, and return its row."""
        self._files.write(task, outcome)
        outcome = self._checkpoints.end(task, outcome)
        record = self._finished(task, outcome)
        reason = f" ({outcome.reason})" if outcome.reason else ""
        log.info("end %s %d: %s %s%s", task.stage, task.number, outcome.state, outcome.value, reason)
        if outcome.trace is not None:
            log.info("%s", outcome.trace.rstrip())
            self.show(task, outcome.trace)
        self._remarks.look_at_weights(task, outcome)
        self._ended(record)
        return record

    def _finished(self, task: Task, outcome: Outcome) -> TrialRecord:
        """Record how a trial ended; a sampler that fails at it ends the run."""
        try:
            return self._study(task.stage).finish(task.number, outcome)
        except SamplerFailed as error:  # the row was written before the sampler failed
            self.error = error
            return next(row for row in self._study(task.stage).records() if row.number == task.number)

    def _tidy(self) -> None:
        """Delete the left-over checkpoints when the run has come to its end."""
        if self.error is None and self.is_finished:
            self._checkpoints.clear()

    def _study(self, stage: Stage) -> Screening | SearchStudy | PlannedRuns:
        """Return the study that the trials of a stage belong to."""
        studies = {"screen": self.screening, "search": self.search, "control": self.control}
        return studies.get(stage) or self.final

    @property
    def is_searched(self) -> bool:
        """Whether the search, and the random search beside it, are done."""
        return all(search.is_finished for search in self.searches)

    @property
    def is_finished(self) -> bool:
        """Whether all stages are done, or the run has stopped by an error."""
        if self.error is not None:
            return True
        return self.winner is not None and not self.live and not self.final.n_waiting("retrain")

    @property
    def stage(self) -> Stage:
        """The earliest stage that is not finished."""
        if self.screening is not None and not self.screening.is_finished and self.search.n_open:
            return "screen"
        if not self.is_searched:
            return "control" if self.search.is_finished else "search"
        return "retrain" if self.winner is not None else "confirm"

    def fixed_arms(self) -> list[tuple[str, Placement]]:
        """Return the arms that need no search: none, each attention of the space everywhere, and the requested ones."""
        return list(self.lineup.fixed)

    def arms(self) -> list[tuple[str, Placement]]:
        """Return all arms of one placement; equal placements appear once, with their labels joined by " = "."""
        return self.lineup.arms(self.winner)

    def controls(self) -> tuple[Placement, ...]:
        """Return the placements of the arm `random`, one per seed in turn; empty before `found #1` is known."""
        return self.lineup.controls(self.winner)

    @property
    def n_seeds_planned(self) -> int:
        """Number of seeds per arm that are planned now; `--seeds auto` may add more."""
        planned = {plan.seed for plan in (*self.final.waiting(), *self.final.held()) if plan.stage == "retrain"}
        last = max(planned, default=self._seed + RETRAIN_OFFSET - 1) - self._seed - RETRAIN_OFFSET + 1
        return max(first_seeds(self.budget), last)

    @property
    def n_unknown_arms(self) -> int:
        """Number of arms that are known only after the confirm stage."""
        n_found = (self.budget.n_top if self.search.goals.are_several else 1) * len(self.searches)
        return 0 if self.winner is not None else n_found + (self.budget.n_controls > 0)

    def unplanned_confirm(self, n_search: int | None = None) -> tuple[int, ...]:
        """Return the number of runs of each round of the confirm stage that is not planned yet.

        Args:
            n_search: Number of search trials that will begin; None takes all that the budget allows.
        """
        return () if self._given or self.winner is not None else self._confirmation.unplanned(n_search)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every arm is retrained with, in their order; `--seeds auto` may add more to some arms."""
        return self.first_seeds(first_seeds(self.budget))

    def first_seeds(self, number: int) -> tuple[int, ...]:
        """Return the first seeds of the retraining."""
        return tuple(self._seed + RETRAIN_OFFSET + index for index in range(number))

    @property
    def retrain_epochs(self) -> int:
        """Number of epochs of a retraining."""
        return self.recipe.retrain_epochs or self.recipe.epochs

    def _advance(self) -> None:
        if self.winner is None and self.is_searched and (self._given or not self._confirmation.goes_on()):
            self.winner = Winner(self._given, {}) if self._given else self._confirmation.decide()
            plans = self._arm_plans(self._seeded_arms(self.seeds))
            self.final.plan(plans, first=True)
            self.final.plan(self._lost_files(plans), again=True)
        if self.winner is not None:
            self.final.plan(self._begun_plans())
            if not self.final.n_waiting("retrain"):
                self.final.plan(self._first_weights(), again=True)
            n_done = self.final.n_done("retrain")
            if not self.final.n_waiting("retrain") and (self.answer is None or n_done != self._n_judged):
                self._n_judged = n_done
                self._judge()
        labels = {placement.key: label for label, placement in self.arms()}
        self.final.name_arms(labels | dict.fromkeys((placement.key for placement in self.controls()), RANDOM))

    def _judge(self) -> None:
        """Compare the arms over their finished retrainings, and plan more seeds where `--seeds auto` asks for them."""
        found = self.winner.placement if self.winner else None
        self.answer = self._looks.judge(self.samples(), (found or NONE).key, self.budget)
        self.final.plan(self._more_plans(self.answer))

    @property
    def looks(self) -> Mapping[str, tuple[Look, ...]]:
        """The looks at the test values, the oldest first, by the key of the placement that was `found #1`."""
        return self._looks.taken

    def _begun_plans(self) -> list[PlannedRun]:
        """Return the retrainings up to the next look that an interrupted session of `--seeds auto` had begun."""
        found = self.winner.placement if self.winner else None
        if found is None or self.budget.seeds != "auto":
            return []
        seeds = self.first_seeds(self.budget.max_seeds)
        begun = self.final.values("retrain", found, self.retrain_epochs).keys() & set(seeds)
        most = max((seeds.index(seed) + 1 for seed in begun), default=0)
        n_seeds = min(-(-most // AUTO_SEEDS) * AUTO_SEEDS, self.budget.max_seeds)
        return self._arm_plans({seed: [(FOUND, found), (BARE, NONE)] for seed in self.first_seeds(n_seeds)})

    def _more_plans(self, answer: Answer) -> list[PlannedRun]:
        """Return the retrainings that `--seeds auto` adds to the undecided arms; empty if it does not go on."""
        if self.budget.seeds != "auto" or answer.is_decided:
            return []
        n_seeds = min(len(answer.headline.by_seed) + AUTO_SEEDS, self.budget.max_seeds) if answer.headline else 0
        arms = [(label, placement) for label, placement in self.arms() if label in answer.undecided]
        return self._arm_plans(dict.fromkeys(self.first_seeds(n_seeds), arms))

    def retrained(self) -> dict[str, list[int]]:
        """Return the seeds whose retraining has a value, by the label of the arm."""
        return {sample.label: sorted(sample.by_seed) for sample in self.samples()}

    def samples(self) -> tuple[Sample, ...]:
        """Return the test values of the arms, and of each image where predictions are stored."""
        arms: dict[str, tuple[Placement, ...]] = {label: (placement,) for label, placement in self.arms()}
        arms |= {RANDOM: self.controls()} if self.controls() else {}
        return tuple(self._samples.of(label, placements, self.retrain_epochs) for label, placements in arms.items())

    def _seeded_arms(self, seeds: Iterable[int]) -> dict[int, list[tuple[str, Placement]]]:
        """Return what is retrained with each seed: every arm, and the seed's random control."""
        arms, controls = self.arms() if self.winner else self.fixed_arms(), self.controls()
        return {
            seed: [*arms, *([(RANDOM, controls[index % len(controls)])] if controls else [])]
            for index, seed in enumerate(seeds)
        }

    def _arm_plans(self, arms: Mapping[int, list[tuple[str, Placement]]]) -> list[PlannedRun]:
        """Return the retrainings seed by seed, so that an unfinished run compares arms over the same seeds."""
        return [
            PlannedRun("retrain", label, placement, seed, self.retrain_epochs, self._artifacts(label, placement, seed))
            for seed, placed in arms.items()
            for label, placement in placed
        ]

    def _artifacts(self, label: str, placement: Placement, seed: int) -> tuple[Artifact, ...]:
        """Return the artifacts of a retraining: its predictions, and the weights of each arm's first seed."""
        return (self._kept, "weights") if seed == self.seeds[0] and label != RANDOM else (self._kept,)

    def _lost_files(self, plans: list[PlannedRun]) -> list[PlannedRun]:
        """Return the finished runs whose weights are missing, or whose stored files were lost or damaged since."""
        lost = [plan for plan in plans if self.final.is_done(plan) and self._files.has_lost(plan, self.unexported)]
        self._remarks.look_at_lost([plan for plan in lost if self._files.are_damaged(plan)])
        return lost

    def weights_seed(self, placement: Placement) -> int | None:
        """Return the first seed whose retraining of this placement has a value, whose weights are exported, or None."""
        return min(self.final.values("retrain", placement, self.retrain_epochs), default=None)

    def weights_place(self, placement: Placement) -> tuple[str, int, int]:
        """Return key, seed and epochs of the training whose weights are exported for a placement."""
        seed = self.weights_seed(placement)
        return placement.key, self.seeds[0] if seed is None else seed, self.retrain_epochs

    def _first_weights(self) -> list[PlannedRun]:
        """Return, once, the runs that store the weights of arms whose first seed failed for good."""
        plans = []
        for label, placement in self.arms():
            seed = self.weights_seed(placement)
            place = (placement.key, seed or 0, self.retrain_epochs)
            known = placement.key in self.unexported or place in self._restored
            if seed in (None, self.seeds[0]) or known or self._files.weights.has(*place):
                continue
            self._restored.add(place)
            artifacts: tuple[Artifact, ...] = (self._kept, "weights")
            plans.append(PlannedRun("retrain", label, placement, place[1], self.retrain_epochs, artifacts))
        return plans


def first_seeds(budget: Budget) -> int:
    """Return the number of seeds of every arm before `--seeds auto` adds any."""
    return budget.seeds if isinstance(budget.seeds, int) else min(AUTO_SEEDS, budget.max_seeds)
