"""Proposals of search trials: an Optuna sampler over the ledger of the search.

The sampler uses an in-memory Optuna study, which is rebuilt from the ledger at each start. The ledger has one row per
trial, and one per proposal that it answers with a known value. A long search proposes known placements most of the
time: it answers none, and tries their neighbours.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from nas_attn.comparison.ranking import Ranking
from nas_attn.config import Engine
from nas_attn.errors import RunError
from nas_attn.placement import Placement
from nas_attn.records import OF_SCREEN, SETTLED, Outcome, Stage, Task, TrialRecord
from nas_attn.space.bound import BoundSpace
from nas_attn.study.ledger import DIRECTIONS, Ledger
from nas_attn.study.neighbours import neighbours
from nas_attn.study.objectives import USUAL, Goals
from nas_attn.study.samplers.named import find_sampler
from nas_attn.study.samplers.proposals import Proposals
from nas_attn.study.tally import Tally

MAX_RUNS = 3
"""Number of seeds that a placement among the best gets in the search when the sampler proposes it again."""

MAX_CRASHES = 3
"""Number of times that a placement whose worker died is run in one session."""

N_BEST = 5
"""Number of best placements of a ranking that are tried first."""

_HISTORY = 2_000
"""Maximum number of finished trials that the sampler uses, the newest ones: the time per proposal grows with it."""

_PROPOSALS = 30
"""Number of proposals in a row without a new trial before an untried placement is drawn at random."""

_LONG = 1_000
"""Number of placements with a result from which on an untried neighbour of a known proposal is tried instead."""

_MEASURED = 200
"""Number of untried placements over the limit of a measured value after which a space counts as exhausted."""

_DRAWS = 10_000
"""Number of random draws after which a space counts as exhausted."""


@dataclass
class _Live:
    """A running trial: its ledger row, its Optuna trial, and the epochs that this one knows."""

    record: TrialRecord
    trial: optuna.Trial
    epochs: set[int] = field(default_factory=set)


class SearchStudy:
    """Proposes placements, answers repeated ones from the ledger, and writes the ledger.

    Args:
        ledger: The rows of the search; rows left running by a dead driver must have been swept.
        bound: The space, bound to the backbone's sites.
        engine: Sampler, scheduler and seed.
        budget: Number of distinct placements that must end with a result.
        epochs: Length of a trial's schedule.
        top: Number of best placements that are trained with a new seed when they are proposed again.
        stage: The stage of its trials.
        priors: Placements to train before the sampler proposes any, with their labels; None takes those of the space.
        goals: The objectives, and the limit on what is measured before a training.
    """

    def __init__(
        self,
        ledger: Ledger,
        bound: BoundSpace,
        engine: Engine,
        *,
        budget: int,
        epochs: int,
        top: int,
        stage: Stage = "search",
        priors: Iterable[tuple[str, Placement]] | None = None,
        goals: Goals = USUAL,
    ) -> None:
        self.goals = goals
        self._ledger, self._bound, self._engine, self._stage = ledger, bound, engine, stage
        self._budget, self._epochs, self._top = budget, epochs, top
        self._choices = dict(bound.choices)
        self._distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(values) for name, values in self._choices.items()
        }
        self._rows: dict[int, TrialRecord] = {}
        self.tally = Tally()
        self._by_key: dict[str, list[TrialRecord]] = defaultdict(list)
        self._live: dict[int, _Live] = {}
        self._done: set[str] = set()
        self._exhausted = self._is_closed = self._is_held = False
        self._ranking: Ranking | None = None
        self.best: TrialRecord | None = None
        self._best_is_new = False
        for record in ledger.records():
            self._keep(record)
        self._crashes = Counter(row.key for row in self._rows.values() if row.has_crashed_here)
        self._first_number = len(self._rows)
        seed = (engine.seed * 1_000_003 + len(self._rows)) % 2**32
        self._random = random.Random(seed)
        self._proposals = Proposals(
            engine,
            seed=seed,
            epochs=epochs,
            directions=[DIRECTIONS[goal.direction] for goal in goals.objectives] or [DIRECTIONS["max"]],
            distributions=self._distributions,
            name=stage,
            conditions=bound.conditions,
        )
        for record in [row for row in self._rows.values() if row.value is not None][-_HISTORY:]:
            self._refuse_other_parameters(record)
            if bound.placement(record.params).key == record.key:  # older versions read some values in another way
                self._remember(record)
        self._queue = deque([*self._interrupted(), *(bound.priors() if priors is None else priors)])
        if find_sampler(engine.sampler).enumerates:
            self._enumerate()

    def ask(self) -> Task | None:
        """Begin the next trial, or return None if the budget allows no further trial now."""
        while self._queue and self.n_open:
            label, placement = self._queue.popleft()
            if not self._is_known(placement.key) and self._is_allowed(placement):
                params = self._bound.params(placement)
                if params is not None:  # an interrupted one of an older version may lie outside
                    return self._begin(placement, self._proposals.ask(params), label=label)
        return self._propose() if self.n_open and not self._exhausted and not self._is_held else None

    def hold(self) -> None:
        """Begin only the first placements until `follow` is called."""
        self._is_held = True

    def follow(self, ranking: Ranking | None) -> None:
        """Try the best of a ranking after the first placements, and propose none of its worst; None changes nothing."""
        self._is_held, self._ranking = False, ranking
        if ranking is not None and not self._is_closed:
            self._queue.extend((f"{OF_SCREEN} #{n}", found) for n, found in enumerate(ranking.best(N_BEST), 1))

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Record the validation value of one epoch; return whether the scheduler stops the trial here."""
        self._ledger.report(number, epoch, value)
        live = self._live[number]
        trial = live.trial
        if self.goals.are_several:
            return False  # Optuna stops trials of one objective only
        if epoch not in live.epochs:  # Optuna takes the first value of an epoch, and warns of another
            live.epochs.add(epoch)
            trial.report(value, epoch)
        return epoch < self._epochs and self._proposals.is_poor(trial)

    def _is_allowed(self, placement: Placement) -> bool:
        """Return whether a placement is within the limits; only then it is measured, if its objectives ask for it."""
        return self._bound.check(placement) is None and not self.goals.refuses(placement)

    def finish(self, number: int, outcome: Outcome) -> TrialRecord:
        """Record how a trial ended, and return its row; a crashed one is queued again."""
        outcome = self.goals.completed(self._live[number].record, outcome)
        record = self._ledger.finish(number, outcome)
        trial = self._live.pop(number).trial
        self._keep(record)
        self._proposals.tell(trial, self._values_of(record))
        if outcome.cause == "crashed":
            self._crashes[record.key] += 1
            if self._crashes[record.key] < MAX_CRASHES and not self._is_closed:
                self._queue.appendleft((record.label, record.placement))
        return record

    def close(self) -> None:
        """Begin no further trial; those that run go on."""
        self._exhausted = self._is_closed = True
        self._queue.clear()

    def take_new_best(self) -> TrialRecord | None:
        """Return the best trial if it is new since the last call."""
        is_new, self._best_is_new = self._best_is_new, False
        return self.best if is_new else None

    @property
    def n_done(self) -> int:
        """Number of distinct placements with a result, or with a failure by memory or NaN."""
        return len(self._done)

    @property
    def n_open(self) -> int:
        """Number of placements that may still begin."""
        n_open = max(0, self._budget - self.n_done - self.n_fresh)
        return min(n_open, len(self._queue)) if self._exhausted else n_open

    @property
    def n_fresh(self) -> int:
        """Number of placements that are running for the first time."""
        return len({live.record.key for live in self._live.values()} - self._done)

    @property
    def is_finished(self) -> bool:
        """Whether nothing runs and nothing more will begin."""
        return not self._live and self.n_open == 0

    def records(self) -> tuple[TrialRecord, ...]:
        """Return all rows, in the order of their numbers."""
        return tuple(self._rows[number] for number in sorted(self._rows))

    def _begin(self, placement: Placement, trial: optuna.Trial, *, label: str | None, seed: int = 0) -> Task:
        record = self._ledger.begin(
            self._stage,
            placement,
            self._engine.seed + seed,
            self._epochs,
            self._bound.cost(placement),
            label=label,
            params=trial.params,
            choices=self._choices,
            values=self.goals.known(placement, self._bound.cost(placement)),
        )
        self._live[record.number] = _Live(record, trial)
        return Task(record.number, self._stage, placement, record.seed, self._epochs)

    def _propose(self) -> Task | None:
        """Ask the sampler until it proposes a placement that must be trained."""
        for _ in range(_PROPOSALS):
            trial = self._proposals.ask()
            placement = self._bound.placement(trial.params)
            if self._is_known(placement.key) or (self._is_allowed(placement) and not self._is_poor(placement)):
                task = self._answer(placement, trial)
                if task is not None:
                    return task
            else:
                self._proposals.tell(trial, None)
        drawn = self._draw()
        if drawn is None:
            self._exhausted = True
            return None
        params = self._bound.params(drawn)
        assert params is not None, f"a drawn placement must lie in the space, but got {drawn}"
        return self._begin(drawn, self._proposals.ask(params), label=None)

    def _answer(self, placement: Placement, trial: optuna.Trial) -> Task | None:
        """Begin a trial if the placement is new or among the best; otherwise answer from the ledger and return None."""
        key = placement.key
        if not self._is_known(key):
            return self._begin(placement, trial, label=None)
        complete = [row for row in self._by_key[key] if row.state == "complete" and row.answered_from is None]
        if complete and len(complete) < MAX_RUNS and not self._is_running(key) and key in self._best_keys():
            return self._begin(placement, trial, label=None, seed=len(complete))
        if self.n_done >= _LONG:
            return self._begin_near(trial)
        answered = [row for row in self._by_key[key] if row.value is not None and row.answered_from is None]
        if answered and not self._is_running(key):
            self._repeat(answered[-1], trial)
        else:
            self._proposals.tell(trial, None)
        return None

    def _begin_near(self, trial: optuna.Trial) -> Task | None:
        """Begin an untried placement that differs from a proposal in one decision, or return None if there is none."""
        self._proposals.withdraw(trial)
        for near in neighbours(self._bound, trial.params, self._random):
            if self._is_candidate(near) and not self.goals.refuses(near):
                params = self._bound.params(near)
                assert params is not None, f"a neighbour must lie in the space, but got {near}"
                return self._begin(near, self._proposals.ask(params), label=None)
        return None

    def _repeat(self, known: TrialRecord, trial: optuna.Trial) -> None:
        """Answer a proposal with the known value of its placement."""
        record = replace(
            known, params=trial.params, answered_from=known.number, label=None, curve={}, seconds=0.0, facts={}
        )
        self._keep(self._ledger.add(record, self._choices))
        self._proposals.tell(trial, self._values_of(known))

    def _values_of(self, record: TrialRecord) -> list[float] | None:
        """Return the values of a complete trial for the sampler; None for others: those of a pruned one come early."""
        return self.goals.values_of(record) if record.state == "complete" else None

    def _enumerate(self) -> None:
        """Queue every placement without a result; the sampler proposes none."""
        first = {placement.key: (label, placement) for label, placement in reversed(self._queue)}
        every = {placement.key: (None, placement) for placement in self._bound.enumerate()}
        queued = (dict(reversed(first.items())) | every | first).values()
        self._queue = deque(each for each in queued if self._is_candidate(each[1]))
        self._exhausted = True

    def _remember(self, record: TrialRecord) -> None:
        """Add a trial of an earlier session to the in-memory study; its curve is reported to the scheduler again."""
        curve = {} if self.goals.are_several else record.curve
        self._proposals.remember(record.params, curve, self._values_of(record))

    def _refuse_other_parameters(self, record: TrialRecord) -> None:
        """Refuse a trial whose parameters are not those of the space. Raises: RunError."""
        is_known = record.params.keys() == self._choices.keys() and all(
            value in self._choices[name] for name, value in record.params.items()
        )
        if not is_known:
            other = sorted(record.params.keys() ^ self._choices.keys()) or sorted(record.params)
            raise RunError(
                f"The run must have the parameters of this space, but trial {record.number} has others, such as "
                f"'{other[0]}', because an older version named the sites otherwise: its report stays readable; choose "
                "another --out."
            )

    def _draw(self) -> Placement | None:
        """Return an untried placement within the limits, drawn at random, or None if there is none."""
        if len(self._by_key) >= self._bound.n_placements:
            return None
        if self._bound.n_placements <= _DRAWS:
            untried = [found for found in self._bound.enumerate() if self._is_candidate(found)]
            drawn = self._random.sample(untried, min(len(untried), _MEASURED))
            return next((found for found in drawn if not self.goals.refuses(found)), None)
        n_refused = 0
        for _ in range(_DRAWS):
            params = {name: self._random.choice(values) for name, values in self._choices.items()}
            placement = self._bound.placement(params)
            if self._is_candidate(placement):
                if not self.goals.refuses(placement):
                    return placement
                n_refused += 1
                if n_refused >= _MEASURED:
                    break
        return None

    def _interrupted(self) -> list[tuple[str | None, Placement]]:
        """Return the placements whose training an earlier session began and did not end."""
        return [
            (row.label, row.placement)
            for rows in self._by_key.values()
            if not any(row.state in ("complete", "pruned") or row.cause in SETTLED for row in rows)
            for row in rows[-1:]
        ]

    def _is_candidate(self, placement: Placement) -> bool:
        return not (self._is_known(placement.key) or self._bound.check(placement) or self._is_poor(placement))

    def _is_poor(self, placement: Placement) -> bool:
        """Return whether the ranking that the search follows has a placement among its worst."""
        return self._ranking is not None and self._ranking.is_poor(placement)

    def _is_known(self, key: str) -> bool:
        """Return whether a placement is running, has a result, or would fail again."""
        return self._is_running(key) or any(self._settles(row) for row in self._by_key.get(key, []))

    def _settles(self, row: TrialRecord) -> bool:
        failed_here = row.cause == "error" and row.number >= self._first_number
        crashed_out = row.cause == "crashed" and self._crashes[row.key] >= MAX_CRASHES
        return _counts(row) or failed_here or crashed_out

    def _is_running(self, key: str) -> bool:
        return any(live.record.key == key for live in self._live.values())

    def _best_keys(self) -> list[str]:
        if self.goals.are_several:
            return self.goals.front(self.records())
        return [key for key, _ in self.tally.ranking(self._top)]

    def _keep(self, record: TrialRecord) -> None:
        """Add a row; it is the best one if no earlier trial of a full budget has as good a value."""
        best = -math.inf if self.best is None or self.best.value is None else self.best.value
        if record.state == "complete" and record.value is not None and record.value > best:
            self.best, self._best_is_new = record, True
        self._rows[record.number] = record
        self._by_key[record.key].append(record)
        self.tally.add(record)
        if _counts(record):
            self._done.add(record.key)


def ranking(records: tuple[TrialRecord, ...]) -> list[tuple[str, float]]:
    """Return (key, mean value over its trained seeds) of every placement with a full budget, the best first."""
    tally = Tally()
    for row in records:
        tally.add(row)
    return tally.ranking()


def _counts(row: TrialRecord) -> bool:
    return row.state in ("complete", "pruned") or row.cause in SETTLED
