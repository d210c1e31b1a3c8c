"""The queue of confirm and retrain runs: each is trained once, and no sampler sees them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from nas_attn.comparison.answer import names_in
from nas_attn.placement import Placement
from nas_attn.records import FOUND, Artifact, Outcome, Stage, Task, TrialRecord
from nas_attn.space.bound import BoundSpace
from nas_attn.study.ledger import Ledger
from nas_attn.study.objectives import USUAL, Goals
from nas_attn.study.sampling import MAX_CRASHES


class TrialStore(Protocol):
    """Stores one file of a training by the key of its placement, its seed and its epochs."""

    def has(self, key: str, seed: int, epochs: int) -> bool:
        """Return whether the file is stored."""
        ...

    def is_lost(self, key: str, seed: int, epochs: int) -> bool:
        """Return whether the file was stored once, and is missing or damaged now."""
        ...

    def write(self, key: str, seed: int, epochs: int, content: bytes) -> None:
        """Store the file."""
        ...

    def read(self, key: str, seed: int, epochs: int) -> bytes | None:
        """Return the content of the file, or None if there is none."""
        ...


@dataclass(frozen=True)
class PlannedRun:
    """One run that is trained once.

    Args:
        artifacts: The files that it must return.
    """

    stage: Stage
    label: str
    placement: Placement
    seed: int
    epochs: int
    artifacts: tuple[Artifact, ...] = ()

    @property
    def identity(self) -> tuple[Stage, str, int, int]:
        """Stage, placement key, seed and epochs: two runs that agree in them are the same training."""
        return (self.stage, self.placement.key, self.seed, self.epochs)


class PlannedRuns:
    """Hands out planned runs, skips those that an earlier session finished, and stores their values.

    Args:
        ledger: Its rows; rows left running by a dead driver must have been swept.
        bound: The space, for the cost of a placement.
        goals: The objectives of the run.
    """

    def __init__(self, ledger: Ledger, bound: BoundSpace, goals: Goals = USUAL) -> None:
        self._ledger, self._bound, self.goals = ledger, bound, goals
        self._rows = {record.number: record for record in ledger.records()}
        self._first_number = len(self._rows)
        self._queue: deque[PlannedRun] = deque()
        self._live: dict[int, PlannedRun] = {}
        self._held: dict[int, list[PlannedRun]] = {}
        self._alone: set[str] = set()
        self._begun: dict[int, TrialRecord] = {}
        self._crashes = Counter(row.identity for row in self._rows.values() if row.has_crashed_here)
        self._labels: dict[str, str] = {}

    def plan(self, plans: Iterable[PlannedRun], *, first: bool = False, again: bool = False) -> None:
        """Queue runs that are neither done nor queued; `first` puts them at the front, `again` repeats done ones."""
        known = {plan.identity for plan in (*self._queue, *self.held(), *self._live.values())}
        known |= set() if again else self._settled()
        fresh = list({plan.identity: plan for plan in plans if plan.identity not in known}.values())
        self._queue = deque([*fresh, *self._queue] if first else [*self._queue, *fresh])

    def name_arms(self, labels: Mapping[str, str]) -> None:
        """Store the labels of the arms by placement key.

        Arms that an earlier session asked for keep theirs, unless another placement has become `found #1`.
        """
        if not self._labels:
            self._labels = self._ledger.note("arms")
        found = [_found_in(names) for names in (self._labels, labels)]
        known = {**self._labels, **labels} if found[0] in (None, found[1]) else dict(labels)
        if known != self._labels:
            self._labels = known
            self._ledger.set_note("arms", known)

    def note(self, name: str) -> dict[str, Any]:
        """Return a note of the ledger, or an empty one."""
        return self._ledger.note(name)

    def set_note(self, name: str, content: Mapping[str, Any]) -> None:
        """Store a note in the ledger."""
        self._ledger.set_note(name, content)

    def is_done(self, plan: PlannedRun) -> bool:
        """Return whether a run ended with a value."""
        return any(row.state == "complete" and row.identity == plan.identity for row in self._rows.values())

    def ask(self, n_seeds: int = 1) -> Task | None:
        """Begin the next planned run, or return None if the queue is empty.

        Args:
            n_seeds: Greatest number of seeds of an arm to hand out as one task. Only the first one begins; the others
                wait for its outcome (`further`).
        """
        if not self._queue:
            return None
        plan = self._queue.popleft()
        task = self._begin(plan)
        held = self._alike(plan)[: n_seeds - 1]
        if not held:
            return task
        self._held[task.number] = held
        self._queue = deque(other for other in self._queue if other not in held)
        return replace(task, further_seeds=tuple(other.seed for other in held))

    def release(self, task: Task) -> Task:
        """Return a task without its further seeds, which go back to the queue."""
        self._put_back(self._held.pop(task.number, []))
        return replace(task, further_seeds=())

    def further(self, number: int, outcome: Outcome) -> list[tuple[Task, Outcome]]:
        """Record the runs whose trainings came with an outcome up to their ends, and return those.

        The others go back to the queue: an arm whose seeds did not train as one is trained with one at a time then.
        """
        held = {plan.seed: plan for plan in self._held.pop(number, [])}
        came = []
        for each in outcome.further:
            task = self._begin(held.pop(each.seed))
            for epoch, value in each.curve.items():
                self.report(task.number, epoch, value)
            came.append((task, each.outcome))
        if held and outcome.cause != "interrupted":
            self._alone.add(self._live[number].placement.key)
        self._put_back(held.values())
        return came

    def _put_back(self, plans: Iterable[PlannedRun]) -> None:
        """Put retrainings back into the queue, each before those of later seeds."""
        for plan in plans:
            later = (at for at, other in enumerate(self._queue) if other.stage == "retrain" and other.seed > plan.seed)
            self._queue.insert(next(later, len(self._queue)), plan)

    def _alike(self, plan: PlannedRun) -> list[PlannedRun]:
        """Return the waiting retrainings of the same arm that can train as one with this one."""
        if plan.stage != "retrain" or plan.placement.key in self._alone:
            return []
        return [
            other
            for other in self._queue
            if other.identity == replace(plan, seed=other.seed).identity and "weights" not in other.artifacts
        ]

    def _begin(self, plan: PlannedRun) -> Task:
        cost = self._bound.cost(plan.placement)
        record = self._ledger.begin(
            plan.stage, plan.placement, plan.seed, plan.epochs, cost, label=plan.label,
            values=self.goals.known(plan.placement, cost),
        )  # fmt: skip
        self._live[record.number], self._begun[record.number] = plan, record
        return Task(record.number, plan.stage, plan.placement, plan.seed, plan.epochs, plan.label, plan.artifacts)

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Record the value of one epoch; nothing stops a planned run early."""
        self._ledger.report(number, epoch, value)
        return False

    def finish(self, number: int, outcome: Outcome) -> TrialRecord:
        """Record how a run ended, and return its row; one whose worker died is queued again."""
        outcome = self.goals.completed(self._begun.pop(number), outcome)
        record = self._ledger.finish(number, outcome)
        plan = self._live.pop(number)
        self._rows[number] = record
        if outcome.cause == "crashed":
            self._crashes[plan.identity] += 1
            if self._crashes[plan.identity] < MAX_CRASHES:
                self._queue.append(plan)
        return record

    def waiting(self) -> list[PlannedRun]:
        """Return the planned runs that wait for a worker."""
        return list(self._queue)

    def held(self) -> list[PlannedRun]:
        """Return the planned runs that train as one with a run that has begun."""
        return [plan for held in self._held.values() for plan in held]

    def keep(self, is_kept: Callable[[PlannedRun], bool]) -> None:
        """Drop the planned runs that wait in the queue and are not kept."""
        self._queue = deque(plan for plan in self._queue if is_kept(plan))

    def n_waiting(self, stage: Stage) -> int:
        """Return the number of planned runs of a stage that have not ended."""
        waiting = [plan for plan in (*self._queue, *self.held()) if plan.stage == stage]
        return len(waiting) + sum(plan.stage == stage for plan in self._live.values())

    def n_done(self, stage: Stage) -> int:
        """Return the number of runs of a stage that ended with a value."""
        return sum(row.stage == stage and row.state == "complete" for row in self._rows.values())

    def values(self, stage: Stage, placement: Placement, epochs: int) -> dict[int, float]:
        """Return the value by seed of a placement's finished runs."""
        return {
            row.seed: row.value
            for row in self._rows.values()
            if row.stage == stage and row.key == placement.key and row.epochs == epochs
            if row.state == "complete" and row.value is not None
        }

    def records(self) -> tuple[TrialRecord, ...]:
        """Return all rows, in the order of their numbers."""
        return tuple(self._rows[number] for number in sorted(self._rows))

    def _settled(self) -> set[tuple[Stage, str, int, int]]:
        """Return the identities that need no further run in this session."""
        return {
            row.identity
            for row in self._rows.values()
            if row.state == "complete"
            or row.cause in ("oom", "nan")
            or (row.cause == "crashed" and self._crashes[row.identity] >= MAX_CRASHES)
            or (row.cause in ("error", "timeout") and row.number >= self._first_number)
        }


def _found_in(labels: Mapping[str, str]) -> str | None:
    """Return the key of the placement that is called `found #1`, or None."""
    return next((key for key, label in labels.items() if FOUND in names_in(label)), None)
