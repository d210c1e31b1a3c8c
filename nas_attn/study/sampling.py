"""What to try next: an Optuna sampler over the ledger of the search.

The sampler thinks on a study in memory, which is rebuilt from the ledger at each start; the ledger gets one row for
each trial that is begun, and for each proposal that it has already answered.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from nas_attn.config import Engine
from nas_attn.placement import Placement, Value
from nas_attn.records import Outcome, Task, TrialRecord
from nas_attn.space.search_space import BoundSpace
from nas_attn.study.ledger import Ledger

MAX_RUNS = 3
"""Seeds that a placement among the best gets in the search, when the sampler proposes it again."""

MAX_CRASHES = 3
"""Times that a placement whose worker died is begun again in one session."""

_HISTORY = 2_000
"""Finished trials that the sampler sees: the newest; its time to think grows with them."""

_PROPOSALS = 30
"""Proposals in a row that may be useless before an untried placement is drawn at random."""

_DRAWS = 10_000
"""Random draws after which a space counts as exhausted."""


@dataclass
class _Live:
    """A trial that is running: its row, and the thought behind it."""

    record: TrialRecord
    thought: optuna.Trial


class SearchStudy:
    """Proposes placements, answers what is known already, and keeps the ledger true.

    Args:
        ledger: The rows of the search; rows that a dead driver left running must have been swept.
        bound: The space, bound to the backbone's sites.
        engine: Sampler, scheduler and seed.
        budget: Distinct placements that shall end with a result.
        epochs: Length of a trial's schedule.
        top: Placements that count as the best: proposed again, they get a new seed instead of an answer.
    """

    def __init__(
        self, ledger: Ledger, bound: BoundSpace, engine: Engine, *, budget: int, epochs: int, top: int
    ) -> None:
        self._ledger, self._bound, self._engine = ledger, bound, engine
        self._budget, self._epochs, self._top = budget, epochs, top
        self._choices = dict(bound.choices)
        self._distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(values) for name, values in self._choices.items()
        }
        self._rows: dict[int, TrialRecord] = {}
        self._by_key: dict[str, list[TrialRecord]] = defaultdict(list)
        self._live: dict[int, _Live] = {}
        self._done: set[str] = set()
        self._crashes: Counter[str] = Counter()
        self._exhausted = False
        for record in ledger.records():
            self._keep(record)
        self._first_number = len(self._rows)
        seed = (engine.seed * 1_000_003 + len(self._rows)) % 2**32
        self._random = random.Random(seed)
        self._mind = optuna.create_study(
            direction="maximize", sampler=_sampler(engine.sampler, seed), pruner=_pruner(engine.scheduler, epochs)
        )
        for record in [row for row in self._rows.values() if row.value is not None][-_HISTORY:]:
            self._remember(record)
        self._queue = deque(self._planned())

    def ask(self) -> Task | None:
        """Begin the next trial, or return None while there is nothing to begin: the budget is given out."""
        while self._queue and self.n_open:
            label, placement = self._queue.popleft()
            if self._bound.check(placement) is None and not self._is_known(placement.key):
                params = self._bound.params(placement)
                assert params is not None, f"a planned placement must lie in the space, but got {placement}"
                return self._begin(placement, self._think(params), label=label)
        return self._propose() if self.n_open and not self._exhausted else None

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Take one epoch's validation value; return whether the scheduler stops the trial here."""
        self._ledger.report(number, epoch, value)
        live = self._live[number]
        live.record = replace(live.record, curve={**live.record.curve, epoch: value})
        live.thought.report(value, epoch)
        return epoch < self._epochs and live.thought.should_prune()

    def finish(self, number: int, outcome: Outcome) -> TrialRecord:
        """Write how a trial ended; what was interrupted or crashed is planned again. Return its row."""
        self._ledger.finish(number, outcome)
        live = self._live.pop(number)
        record = replace(
            live.record,
            state=outcome.state,
            value=_last(live.record.curve) if outcome.state == "pruned" else outcome.value,
            cause=outcome.cause,
            reason=outcome.reason,
            seconds=outcome.seconds,
            facts=dict(outcome.facts),
        )
        self._keep(record)
        if outcome.state == "complete":
            self._mind.tell(live.thought, outcome.value)
        else:
            self._reject(live.thought)
        if outcome.cause == "crashed":
            self._crashes[record.key] += 1
            if self._crashes[record.key] < MAX_CRASHES:
                self._queue.append((record.label, record.placement))
        return record

    @property
    def n_done(self) -> int:
        """Distinct placements that count as tried: with a result, or failed by memory or by NaN."""
        return len(self._done)

    @property
    def n_open(self) -> int:
        """Placements that may still be begun."""
        return max(0, self._budget - self.n_done - self.n_fresh)

    @property
    def n_fresh(self) -> int:
        """Placements that run for the first time."""
        return len({live.record.key for live in self._live.values()} - self._done)

    @property
    def is_finished(self) -> bool:
        """Whether nothing runs and nothing more will be begun."""
        return not self._live and (self.n_open == 0 or (self._exhausted and not self._queue))

    def records(self) -> tuple[TrialRecord, ...]:
        """Return the rows as this session knows them."""
        return tuple(self._rows[number] for number in sorted(self._rows))

    def _begin(self, placement: Placement, thought: optuna.Trial, *, label: str | None, seed: int = 0) -> Task:
        cost = self._bound.cost(placement)
        record = TrialRecord(
            number=-1,
            stage="search",
            state="running",
            placement=placement,
            key=placement.key,
            seed=self._engine.seed + seed,
            epochs=self._epochs,
            params=thought.params,
            n_parameters=cost.n_parameters,
            n_macs=cost.n_macs,
            label=label,
        )
        record = replace(record, number=self._ledger.begin(record, self._choices))
        self._live[record.number] = _Live(record, thought)
        return Task(record.number, "search", placement, record.seed, self._epochs)

    def _propose(self) -> Task | None:
        """Ask the sampler until it names something that is worth training."""
        for _ in range(_PROPOSALS):
            thought = self._think()
            placement = self._bound.placement(thought.params)
            if self._bound.check(placement) is None:
                task = self._answer(placement, thought)
                if task is not None:
                    return task
            else:
                self._reject(thought)
        drawn = self._draw()
        if drawn is None:
            self._exhausted = True
            return None
        params = self._bound.params(drawn)
        assert params is not None, f"a drawn placement must lie in the space, but got {drawn}"
        return self._begin(drawn, self._think(params), label=None)

    def _answer(self, placement: Placement, thought: optuna.Trial) -> Task | None:
        """Begin a trial of what is new or worth another seed; otherwise answer it from the ledger and return None."""
        key = placement.key
        if not self._is_known(key):
            return self._begin(placement, thought, label=None)
        complete = [row for row in self._by_key[key] if row.state == "complete" and row.answered_from is None]
        if complete and len(complete) < MAX_RUNS and not self._is_running(key) and key in self._best_keys():
            return self._begin(placement, thought, label=None, seed=len(complete))
        answered = [row for row in self._by_key[key] if row.value is not None and row.answered_from is None]
        if answered and not self._is_running(key):
            self._repeat(answered[-1], thought)
        else:
            self._reject(thought)
        return None

    def _repeat(self, known: TrialRecord, thought: optuna.Trial) -> None:
        """Answer a proposal with the value that its placement has already."""
        record = replace(
            known, params=thought.params, answered_from=known.number, label=None, curve={}, seconds=0.0, facts={}
        )
        self._keep(replace(record, number=self._ledger.begin(record, self._choices)))
        if known.state == "complete":
            self._mind.tell(thought, known.value)
        else:
            self._reject(thought)  # a value of fewer epochs is not told as one of the full budget

    def _think(self, params: Mapping[str, Value] | None = None) -> optuna.Trial:
        """Return a thought with every parameter suggested; `params` fixes them."""
        if params is not None:
            self._mind.enqueue_trial(dict(params))
        return self._mind.ask(self._distributions)

    def _reject(self, thought: optuna.Trial) -> None:
        """Let the sampler rank a thought last, unless it was stopped with values of its own."""
        self._mind.tell(thought, state=TrialState.PRUNED)

    def _remember(self, record: TrialRecord) -> None:
        """Let the sampler and the scheduler know a trial of an earlier session."""
        thought = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=dict(record.params), distributions=self._distributions
        )
        self._mind.add_trial(thought)
        trial = optuna.Trial(self._mind, self._mind.get_trials(deepcopy=False)[-1]._trial_id)
        for epoch, value in record.curve.items():
            trial.report(value, epoch)
            trial.should_prune()
        if record.state == "complete":
            self._mind.tell(trial, record.value)
        else:
            self._reject(trial)

    def _draw(self) -> Placement | None:
        """Return an untried placement within the limits, uniformly from what random draws reach; None if none is."""
        if len(self._by_key) >= self._bound.n_placements:
            return None
        if self._bound.n_placements <= _DRAWS:
            untried = [found for found in self._bound.enumerate() if self._is_worth(found)]
            return self._random.choice(untried) if untried else None
        for _ in range(_DRAWS):
            params = {name: self._random.choice(values) for name, values in self._choices.items()}
            placement = self._bound.placement(params)
            if self._is_worth(placement):
                return placement
        return None

    def _planned(self) -> list[tuple[str | None, Placement]]:
        """Return what must be begun before the sampler is asked: what was cut off, then the priors."""
        cut_off = [
            (row.label, row.placement)
            for rows in self._by_key.values()
            if not any(row.state in ("complete", "pruned") or row.cause in ("oom", "nan") for row in rows)
            for row in rows[-1:]
        ]
        return cut_off + list(self._bound.priors())

    def _is_worth(self, placement: Placement) -> bool:
        return not self._is_known(placement.key) and self._bound.check(placement) is None

    def _is_known(self, key: str) -> bool:
        """Whether a placement runs, has a result, or failed in a way that would only repeat itself."""
        return self._is_running(key) or any(self._settles(row) for row in self._by_key.get(key, []))

    def _settles(self, row: TrialRecord) -> bool:
        failed_here = row.cause == "error" and row.number >= self._first_number
        crashed_out = row.cause == "crashed" and self._crashes[row.key] >= MAX_CRASHES
        return _counts(row) or failed_here or crashed_out

    def _is_running(self, key: str) -> bool:
        return any(live.record.key == key for live in self._live.values())

    def _best_keys(self) -> list[str]:
        return [key for key, _ in ranking(self.records())[: self._top]]

    def _keep(self, record: TrialRecord) -> None:
        self._rows[record.number] = record
        self._by_key[record.key].append(record)
        if _counts(record):
            self._done.add(record.key)


def ranking(records: tuple[TrialRecord, ...]) -> list[tuple[str, float]]:
    """Return (key, mean value over its trained seeds) of every placement with a full budget, the best first."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in records:
        if row.state == "complete" and row.answered_from is None and row.value is not None:
            values[row.key].append(row.value)
    means = [(key, statistics.fmean(found)) for key, found in values.items()]
    return sorted(means, key=lambda pair: -pair[1])


def _counts(row: TrialRecord) -> bool:
    return row.state in ("complete", "pruned") or row.cause in ("oom", "nan")


def _last(curve: Mapping[int, float]) -> float | None:
    return curve[max(curve)] if curve else None


def _sampler(name: str, seed: int) -> BaseSampler:
    """Return the sampler by its name; many categorical parameters of few values ask for the multivariate TPE."""
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "nsga2":
        return NSGAIISampler(seed=seed)
    return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _pruner(name: str, epochs: int) -> BasePruner:
    """Return the scheduler's rule: halving at a quarter and a half of the epochs, the better half goes on."""
    if name == "none":
        return NopPruner()
    return SuccessiveHalvingPruner(min_resource=max(1, math.ceil(epochs / 4)), reduction_factor=2)
