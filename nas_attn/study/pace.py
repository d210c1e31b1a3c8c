"""The time of a run: how long its trainings take, what is left, and when the search must end for the retraining."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from nas_attn.records import Stage, TrialRecord

FINISH = "finish"
TIME_BUDGET = "time budget"

_MARGIN, _UNSEEN_MARGIN = 1.05, 1.15
"""Factor on the estimated time of what is left, and as long as no retraining has ended: trainings differ in length."""

_MOST_GAP = 1.0
"""Longest time in seconds between two trainings of a worker that counts as the engine's; longer ones are waits."""

_MOST_COLD = 120.0
"""Seconds of a training from which on the start of its worker, with its imports, does not count."""

_CLOSING, _CLOSING_PER_ARM = 6.0, 1.5
"""Seconds after the last training: measuring the arms, writing their models and the report; at least the start-up."""


@dataclass(frozen=True)
class Work:
    """What is left of a run: numbers of trainings that have not begun, and how long the running ones run already.

    Args:
        n_search: Of the search, and of the random search beside it.
        live: Stage and age in seconds of every running training.
        n_arms: Number of arms.
    """

    n_search: int
    n_confirm: int
    n_retrain: int
    live: tuple[tuple[Stage, float], ...]
    n_arms: int


@dataclass
class _Mean:
    n: int = 0
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.n += 1
        self.total += seconds

    @property
    def value(self) -> float | None:
        return self.total / self.n if self.n else None


@dataclass
class Pace:
    """Measures the trainings of a run and estimates the rest.

    Args:
        growth: Time of a retraining divided by that of a search trial; used until retrainings have ended.
        seconds: The time budget from `begun` on; None has none.
        is_finish_asked: Returns whether the user has asked to end the search.
        clock: Returns the time in seconds.
        begun: When the command began.
        screen: Number of search trials that the screen costs.
        workers: Number of trainings that run at the same time.
        n_measured: Number of trainings of this session that went to their end.
        is_checked: Whether the time budget was found to be long enough.
    """

    growth: float = 1.0
    seconds: float | None = None
    is_finish_asked: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    begun: float = field(default_factory=time.monotonic)
    screen: int = 0
    workers: int = 1
    n_measured: int = 0
    is_checked: bool = False
    _short: _Mean = field(default_factory=_Mean)
    _long: _Mean = field(default_factory=_Mean)
    _n_begun: int = 0
    _startup: float = 0.0
    _starting: set[tuple[Stage, int]] = field(default_factory=set)
    _cold: _Mean = field(default_factory=_Mean)
    _extra: _Mean = field(default_factory=_Mean)
    _gap: _Mean = field(default_factory=_Mean)
    _freed: list[float] = field(default_factory=list)

    def learn(self, records: Iterable[TrialRecord]) -> None:
        """Take the durations of trainings of earlier sessions."""
        for record in records:
            if record.state == "complete" and record.answered_from is None and record.stage != "screen":
                self._mean(record.stage, record)

    def begins(self, stage: Stage, number: int) -> None:
        """Note that a training begins, on the worker that was freed first; the first ones of a session start theirs."""
        if not self._n_begun:
            self._startup = self.clock() - self.begun
        self._n_begun += 1
        if self._n_begun <= self.workers:
            self._starting.add((stage, number))
        if self._freed:
            self._gap.add(min(self.clock() - self._freed.pop(0), _MOST_GAP))

    def ends(self, record: TrialRecord, seconds: float) -> None:
        """Take the duration of a training.

        Args:
            seconds: Its time as the driver saw it, with the way to the worker and back.
        """
        self._freed.append(self.clock())
        if record.state != "complete" or record.answered_from is not None or record.stage == "screen":
            return
        self.n_measured += 1
        if (record.stage, record.number) in self._starting:
            self._cold.add(record.seconds / (self.growth if record.stage == "retrain" else 1.0))
        else:
            self._mean(record.stage, record)
            self._extra.add(max(0.0, seconds - record.seconds))

    @property
    def is_cold(self) -> bool:
        """Whether too little is known for a decision: only the first, short trainings, which also start workers.

        With half of the time budget gone, what is known must do.
        """
        trial, is_known = self.trial, self._short.n + self._long.n > 0
        if is_known or trial is None or trial > _MOST_COLD or self.seconds is None:
            return False
        return self.clock() - self.begun < self.seconds / 2

    @property
    def n_retrained(self) -> int:
        """Number of retrainings whose time is known."""
        return self._long.n

    @property
    def trial(self) -> float | None:
        """Mean time of a search trial in seconds, with the engine's share; None before the first one."""
        mean = self._known_short
        return None if mean is None else mean + self._overhead

    @property
    def retraining(self) -> float | None:
        """Mean time of a retraining in seconds, with the engine's share; None before the first training."""
        short, long = self._known_short, self._long.value
        mean = long if long is not None else None if short is None else short * self.growth
        return None if mean is None else mean + self._overhead

    @property
    def left(self) -> float | None:
        """Seconds that are left of the time budget; None without one."""
        return None if self.seconds is None else self.seconds - (self.clock() - self.begun)

    def rest(self, work: Work) -> float | None:
        """Return the seconds until the result; None before the first training has ended."""
        short, long = self.trial, self.retraining
        if short is None or long is None:
            return None
        mean: dict[Stage, float] = {"search": short, "control": short, "confirm": short, "retrain": long}
        mean["screen"] = self.screen * short
        free = [max(0.0, mean[stage] - age) for stage, age in work.live][: self.workers]
        free += [0.0] * (self.workers - len(free))
        for number, seconds in ((work.n_search, short), (work.n_confirm, short), (work.n_retrain, long)):
            free = _busy(free, number, seconds)
        return max(free) + max(_CLOSING + _CLOSING_PER_ARM * work.n_arms, self._startup)

    def fits(self, work: Work) -> bool:
        """Return whether work fits into what is left of the time budget, as far as that is known."""
        left, rest = self.left, self.rest(work)
        margin = _MARGIN if self._long.n else _UNSEEN_MARGIN
        return left is None or (rest * margin <= left if rest is not None else left > 0)

    @property
    def _overhead(self) -> float:
        return (self._extra.value or 0.0) + (self._gap.value or 0.0)

    def _mean(self, stage: Stage, record: TrialRecord) -> None:
        (self._long if stage == "retrain" else self._short).add(record.seconds)

    @property
    def _known_short(self) -> float | None:
        """Mean time of a search trial without the engine's share, from the best source that there is."""
        if self._short.value is not None:
            return self._short.value
        return self._cold.value if self._long.value is None else self._long.value / self.growth


def _busy(free: list[float], number: int, seconds: float) -> list[float]:
    """Return when each worker is free after so many trainings of equal length, each on the first free worker.

    >>> _busy([0.0, 3.0], 3, 5.0)
    [8.0, 10.0]
    """
    rounds, rest = divmod(number, len(free))
    heap = [when + rounds * seconds for when in free]  # a round of equal trainings keeps the distances of the workers
    heapq.heapify(heap)
    for _ in range(rest):
        heapq.heapreplace(heap, heap[0] + seconds)
    return list(heap)
