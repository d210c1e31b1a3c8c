"""The time of a run: how long its trainings take, what is left, and when the search must end for the retraining."""

from __future__ import annotations

import heapq
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from nas_attn.records import Stage, TrialRecord
from nas_attn.study.lengths import Lengths

FINISH = "finish"
TIME_BUDGET = "time budget"

_MARGIN, _UNSEEN_MARGIN = 0.05, 0.15
"""Share of the time of what is left that is kept free at least, and as long as no retraining has ended."""

_ENOUGH = 8
"""Number of search trials from which on their mean says whether all seeds have room."""

_DEVIATIONS = 2.0
"""Number of standard deviations of the time of what is left that are kept free where nothing can be taken away."""

_MOST_GAP = 1.0
"""Longest time in seconds between two trainings of a worker that counts as the engine's; longer ones are waits."""

_MOST_COLD = 120.0
"""Seconds of a training from which on the start of its worker, with its imports, does not count."""

_CLOSING, _CLOSING_PER_ARM = 6.0, 1.5
"""Seconds after the last training: measuring the arms, writing their models and the report; at least the start-up."""

_EXACT = 64
"""Number of planned trainings at the end of the queue that are laid on the workers one by one, in their order."""

_MOST_CROWDING = 8.0
"""Largest factor by which other programs are taken to delay the end of a run: they may end as well."""


@dataclass(frozen=True)
class Work:
    """What is left of a run: the trainings that have not begun, and how long the running ones run already.

    Args:
        n_search: Number of trainings of the search, and of the random search beside it.
        planned: Stage and placement key of the others, in their order; the key is "" where it is not known yet.
        live: Stage, placement key and age in seconds of every running training, and the number of seeds that it trains.
        n_arms: Number of arms.
        rounds: Of the planned ones, those in each round of the confirm stage; each round waits for the one before.
        n_last: Number of the planned ones at the end, which wait for the last round.
    """

    n_search: int
    planned: tuple[tuple[Stage, str], ...]
    live: tuple[tuple[Stage, str, float, int], ...]
    n_arms: int
    rounds: tuple[int, ...] = ()
    n_last: int = 0


@dataclass
class Pace:
    """Measures the trainings of a run and estimates the rest.

    Args:
        growth: Time of a retraining divided by that of a search trial, until retrainings have shown it.
        seconds: The time budget from `begun` on; None has none.
        is_finish_asked: Returns whether the user has asked to end the search.
        clock: Returns the time in seconds.
        begun: When the command began.
        screen: Number of search trials that the screen costs.
        slowdown: Returns how many times longer one process takes at present, beside so many trainings of this run.
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
    slowdown: Callable[[int], float] = lambda n_own: 1.0
    workers: int = 1
    n_measured: int = 0
    is_checked: bool = False
    _searched: Lengths = field(default_factory=Lengths)
    _placements: set[str] = field(default_factory=set)
    _short: Lengths = field(default_factory=Lengths)
    _long: Lengths = field(default_factory=Lengths)
    _n_begun: int = 0
    _startup: float = 0.0
    _starting: set[tuple[Stage, int]] = field(default_factory=set)
    _cold: Lengths = field(default_factory=Lengths)
    _extra: Lengths = field(default_factory=Lengths)
    _gap: Lengths = field(default_factory=Lengths)
    _freed: list[float] = field(default_factory=list)

    def learn(self, records: Iterable[TrialRecord]) -> None:
        """Take the durations of trainings of earlier sessions."""
        for record in records:
            if record.answered_from is None:
                self._count(record)
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

    def ends(self, records: Sequence[TrialRecord], seconds: float) -> None:
        """Take the duration of a training.

        Args:
            records: Its row, and those of the seeds that trained as one with it.
            seconds: Its time as the driver saw it, with the way to the worker and back.
        """
        self._freed.append(self.clock())
        is_first = (records[0].stage, records[0].number) in self._starting
        for record in records:
            self._end(record, seconds / len(records), is_first=is_first)

    def _end(self, record: TrialRecord, seconds: float, *, is_first: bool) -> None:
        if not is_first:
            self._count(record)
        if record.state != "complete" or record.answered_from is not None or record.stage == "screen":
            return
        self.n_measured += 1
        if is_first:
            self._cold.add(record.seconds / (self.growth if record.stage == "retrain" else 1.0))
        else:
            self._mean(record.stage, record)
            self._extra.add(max(0.0, seconds - record.seconds))

    @property
    def is_cold(self) -> bool:
        """Whether too little is known for a decision: only the first, short trainings, which also start workers.

        Where another training of this length would take half of the time that is left, what is known must do.
        """
        trial, left = self.trial, self.left
        return not self.is_warm and trial is not None and left is not None and left > 2 * trial

    @property
    def is_warm(self) -> bool:
        """Whether a training is known that did not start its worker, or took so long that the start hardly counts."""
        trial = self.trial
        return self._short.n + self._long.n > 0 or (trial is not None and trial > _MOST_COLD)

    @property
    def is_vague(self) -> bool:
        """Whether the mean of the search trials may still be far off."""
        return self._short.n < _ENOUGH

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
    def left(self) -> float | None:
        """Seconds that are left of the time budget; None without one."""
        return None if self.seconds is None else self.seconds - (self.clock() - self.begun)

    @property
    def placement(self) -> float | None:
        """Mean time per placement of the search in seconds: stopped trials take less, further seeds of one more."""
        if not self._placements:
            return self.trial
        return (self._searched.total + self._overhead * self._searched.n) / len(self._placements)

    def rest(self, work: Work) -> float | None:
        """Return the seconds until the result; None before the first training has ended."""
        search, short = self.placement, self.trial
        if search is None or short is None:
            return None
        free = [max(0.0, number * self._takes(stage, key) - age) for stage, key, age, number in work.live]
        free = _busy(free[: self.workers] + [0.0] * (self.workers - len(free)), work.n_search, search)
        decided = self._decided(work, free)
        seconds = {planned: self._takes(*planned) for planned in set(work.planned)}
        for planned, number in Counter(work.planned[:-_EXACT]).items():
            free = _busy(free, number, seconds[planned])
        for planned in work.planned[-_EXACT:]:
            free = _busy(free, 1, seconds[planned])
        closing = (_CLOSING + _CLOSING_PER_ARM * work.n_arms) * self.slowdown(self.workers)
        return max(*free, decided) + max(closing, self._startup)

    def _decided(self, work: Work, free: list[float]) -> float:
        """Return the earliest time at which what waits for the confirm stage can end; 0 if nothing does.

        Args:
            free: When each worker is free after the search.
        """
        if not work.rounds:
            return 0.0
        n_short = sum(math.ceil(number / self.workers) for number in work.rounds)
        last = self._takes(*work.planned[-1]) if work.n_last else 0.0
        is_searching = work.n_search or any(stage != "retrain" for stage, *_ in work.live)
        begins = max(free) if is_searching else min(free)
        return begins + n_short * self._takes("confirm", "") + math.ceil(work.n_last / self.workers) * last

    def fits(self, work: Work) -> bool:
        """Return whether work fits into what is left of the time budget, as far as that is known.

        What is kept free follows how the trainings differ in length. Their mean may still turn out to be another one.
        """
        return self._leaves(work, self._deviation(work, Lengths.scatter))

    def fits_surely(self, work: Work) -> bool:
        """Return whether work fits also if the mean of the trainings turns out to be larger."""
        return self._leaves(work, _DEVIATIONS * self._deviation(work, Lengths.doubt))

    def _leaves(self, work: Work, deviation: float) -> bool:
        """Return whether work leaves so many seconds of the time budget, and the share that is kept free at least."""
        left, rest = self.left, self.rest(work)
        if left is None or rest is None:
            return left is None or left > 0
        least = (_MARGIN if self._long.n else _UNSEEN_MARGIN) * rest
        return rest + max(least, deviation) <= left

    def _deviation(self, work: Work, of: Callable[[Lengths, float], float]) -> float:
        """Return the deviation of the time of work, with what the newest trainings take longer than is usual."""
        count = Counter(stage == "retrain" for stage, *_ in (*work.planned, *work.live))
        n_short, n_long = (work.n_search + count[False]) / self.workers, count[True] / self.workers
        left = [(self._short, n_short), (self._long, n_long)]
        if not self._long.n:
            left = [(self._short, n_short + self.growth * n_long)]
        drift = sum(lengths.drift * rounds for lengths, rounds in left)
        return drift + math.hypot(*(of(lengths, rounds) for lengths, rounds in left))

    @property
    def _overhead(self) -> float:
        return (self._extra.value or 0.0) + (self._gap.value or 0.0)

    def _count(self, record: TrialRecord) -> None:
        """Count the time that a placement of the search has taken, however its training ended."""
        if record.stage in ("search", "control") and record.cause != "interrupted":
            self._searched.add(record.seconds)
            self._placements.add(f"{record.stage} {record.key}")

    def _mean(self, stage: Stage, record: TrialRecord) -> None:
        """Take the time of a training; the next one of the search is any placement, of which the mean is expected."""
        expected = self._known_short if stage in ("search", "control") else self._expected(stage, record.key)
        (self._long if stage == "retrain" else self._short).add(record.seconds, record.key, expected)

    def _takes(self, stage: Stage, key: str) -> float:
        """Return the seconds of a training with the engine's share; the first training must have ended."""
        if stage in ("search", "control"):
            return self.placement or 0.0
        if stage == "screen":
            return self.screen * (self.trial or 0.0)
        return (self._expected(stage, key) or 0.0) + self._overhead

    def _expected(self, stage: Stage, key: str) -> float | None:
        """Return the seconds of a training without the engine's share, by those of its own placement if there are any.

        The arms of a comparison differ: an attention at every site may double the time of the network without any.
        """
        own = self._long.of(key) if stage == "retrain" else None
        if own is not None:
            return own
        short = self._short.of(key) or self._known_short
        return short if short is None or stage != "retrain" else short * self._grown(short)

    def _grown(self, weight: float) -> float:
        """Return the time of a retraining divided by that of a search trial, from the placements that have had both.

        Args:
            weight: Seconds of a search trial for which the expected growth stands until others speak.
        """
        long, short = self.growth * weight, weight
        for key, number, total in self._long.by_key():
            searched = self._short.of(key)
            if searched is not None:
                long, short = long + total, short + number * searched
        return long / short if short else self.growth

    @property
    def _known_short(self) -> float | None:
        """Mean time of a search trial without the engine's share, from the best source that there is."""
        if self._short.value is not None:
            return self._short.value
        return self._cold.value if self._long.value is None else self._long.value / self.growth


def crowding(n_own: int) -> float:
    """Return how many times longer one process takes at present, because other programs use the cores of this machine.

    Args:
        n_own: Number of trainings of this run, which end before its last steps.
    """
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):  # a system that does not know
        return 1.0
    return min(_MOST_CROWDING, max(1.0, (load - n_own + 1) / (os.cpu_count() or 1)))


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
