"""Confirming and retraining: planned runs, each done once, that no sampler ever sees."""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from nas_attn.placement import Placement
from nas_attn.records import Outcome, Stage, Task, TrialRecord
from nas_attn.space.search_space import BoundSpace
from nas_attn.study.ledger import Ledger
from nas_attn.study.sampling import MAX_CRASHES


@dataclass(frozen=True)
class Plan:
    """One run that shall be done once.

    Args:
        weights: File that the trained weights go to; None keeps none.
    """

    stage: Stage
    label: str
    placement: Placement
    seed: int
    epochs: int
    weights: str | None = None

    @property
    def identity(self) -> tuple[str, str, int, int]:
        """What makes two plans the same training."""
        return (self.stage, self.placement.key, self.seed, self.epochs)


class FinalStudy:
    """Works plans off, skips what an earlier session finished, and remembers the values.

    Args:
        ledger: Its rows; rows that a dead driver left running must have been swept.
        bound: The space, for the cost of a placement.
    """

    def __init__(self, ledger: Ledger, bound: BoundSpace) -> None:
        self._ledger, self._bound = ledger, bound
        self._rows = {record.number: record for record in ledger.records()}
        self._first_number = len(self._rows)
        self._queue: deque[Plan] = deque()
        self._live: dict[int, tuple[Plan, TrialRecord]] = {}
        self._crashes: Counter[tuple[str, str, int, int]] = Counter()
        self._labels: dict[str, str] = {}

    def plan(self, plans: Iterable[Plan], *, first: bool = False, again: bool = False) -> None:
        """Add what is neither done nor planned; `first` puts it before what waits, `again` repeats what is done."""
        known = {plan.identity for plan in self._queue} | {plan.identity for plan, _ in self._live.values()}
        known |= set() if again else self._settled()
        fresh = list({plan.identity: plan for plan in plans if plan.identity not in known}.values())
        self._queue = deque([*fresh, *self._queue] if first else [*self._queue, *fresh])

    def name_arms(self, labels: Mapping[str, str]) -> None:
        """Keep what the arms are called, by placement key: the winner may change when a run is extended."""
        if labels != self._labels:
            self._labels = dict(labels)
            self._ledger.set_note("arms", self._labels)

    def is_done(self, plan: Plan) -> bool:
        """Whether a plan ended with a value."""
        return any(
            row.state == "complete" and (row.stage, row.key, row.seed, row.epochs) == plan.identity
            for row in self._rows.values()
        )

    def ask(self) -> Task | None:
        """Begin the next planned run, or return None when none waits."""
        if not self._queue:
            return None
        plan = self._queue.popleft()
        cost = self._bound.cost(plan.placement)
        record = TrialRecord(
            number=-1,
            stage=plan.stage,
            state="running",
            placement=plan.placement,
            key=plan.placement.key,
            seed=plan.seed,
            epochs=plan.epochs,
            n_parameters=cost.n_parameters,
            n_macs=cost.n_macs,
            label=plan.label,
        )
        record = replace(record, number=self._ledger.begin(record, {}))
        self._live[record.number] = (plan, record)
        return Task(record.number, plan.stage, plan.placement, plan.seed, plan.epochs, plan.label, plan.weights)

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Take one epoch's value; nothing stops a planned run early."""
        self._ledger.report(number, epoch, value)
        plan, record = self._live[number]
        self._live[number] = (plan, replace(record, curve={**record.curve, epoch: value}))
        return False

    def finish(self, number: int, outcome: Outcome) -> TrialRecord:
        """Write how a run ended; one whose worker died is begun again. Return its row."""
        self._ledger.finish(number, outcome)
        plan, record = self._live.pop(number)
        record = replace(
            record,
            state=outcome.state,
            value=outcome.value,
            cause=outcome.cause,
            reason=outcome.reason,
            seconds=outcome.seconds,
            facts=dict(outcome.facts),
        )
        self._rows[number] = record
        if outcome.cause == "crashed":
            self._crashes[plan.identity] += 1
            if self._crashes[plan.identity] < MAX_CRASHES:
                self._queue.append(plan)
        return record

    def n_waiting(self, stage: Stage) -> int:
        """Return how many planned runs of a stage have not ended."""
        waiting = [plan for plan in self._queue if plan.stage == stage]
        return len(waiting) + sum(plan.stage == stage for plan, _ in self._live.values())

    def values(self, stage: Stage, placement: Placement, epochs: int) -> dict[int, float]:
        """Return the value by seed of a placement's finished runs."""
        return {
            row.seed: row.value
            for row in self._rows.values()
            if row.stage == stage and row.key == placement.key and row.epochs == epochs
            if row.state == "complete" and row.value is not None
        }

    def mean(self, stage: Stage, placement: Placement, epochs: int) -> float | None:
        """Return the mean over the seeds of a placement's finished runs, or None when there is none."""
        values = self.values(stage, placement, epochs)
        return statistics.fmean(values.values()) if values else None

    def records(self) -> tuple[TrialRecord, ...]:
        """Return the rows as this session knows them."""
        return tuple(self._rows[number] for number in sorted(self._rows))

    def _settled(self) -> set[tuple[str, str, int, int]]:
        """Return the identities that need no further run in this session."""
        return {
            (row.stage, row.key, row.seed, row.epochs)
            for row in self._rows.values()
            if row.state == "complete"
            or row.cause in ("oom", "nan")
            or (row.cause == "error" and row.number >= self._first_number)
        }
