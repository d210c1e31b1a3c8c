"""The confirm stage: the best placements of a search are trained with new seeds, and the best mean wins.

The more trials a search has, the luckier are its best ones. So a long search confirms more placements, in rounds of one
new seed each: the better half of them goes on, until two are left (sequential halving: Karnin, Koren & Somekh, ICML
2013).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from nas_attn.comparison.objectives import front, knee
from nas_attn.config import Budget
from nas_attn.placement import NONE, Placement
from nas_attn.records import BARE, OF_CONTROL, Artifact
from nas_attn.study.planned import PlannedRun, PlannedRuns
from nas_attn.study.sampling import SearchStudy

CONFIRM_SEEDS = 2
"""Number of new seeds of each candidate of a short search, of no attention, and of the last two of a long one."""

TRIALS_PER_CANDIDATE, MOST_CANDIDATES = 8, 16
"""Number of trials of a long search for each placement that is confirmed, and greatest number of those."""

CONFIRM_OFFSET = 10_000
"""Offset of their seeds from the run's seed."""


@dataclass(frozen=True)
class Round:
    """So many placements take part, and have so many new seeds at its end."""

    n_placements: int
    n_seeds: int


def rounds_of(budget: Budget, n_trials: int, *, several: bool) -> tuple[Round, ...]:
    """Return the rounds of the confirm stage after a search of so many trials.

    Args:
        several: Whether there are several objectives: the candidates are a front, and none is left out.

    >>> rounds_of(Budget(), 24, several=False)
    (Round(n_placements=3, n_seeds=2),)
    >>> [(each.n_placements, each.n_seeds) for each in rounds_of(Budget(), 100, several=False)]
    [(12, 1), (6, 2), (3, 3), (2, 5)]
    """
    number = min(n_trials // TRIALS_PER_CANDIDATE, MOST_CANDIDATES)
    if budget.top is not None or several or number <= budget.n_top:
        return (Round(budget.n_top, CONFIRM_SEEDS),)
    rounds: list[Round] = []
    while number > 2:
        rounds.append(Round(number, len(rounds) + 1))
        number = (number + 1) // 2
    return (*rounds, Round(2, len(rounds) + CONFIRM_SEEDS))


def n_confirm_runs(rounds: Sequence[Round]) -> tuple[int, ...]:
    """Return the number of trainings of each round for the placements of one search, no attention apart."""
    before = (0, *(each.n_seeds for each in rounds))
    return tuple(each.n_placements * (each.n_seeds - n) for each, n in zip(rounds, before, strict=False))


@dataclass(frozen=True)
class Winner:
    """The decision of the confirm stage, on validation values alone.

    Args:
        placement: The best placement with attention; None if no such trial has a value.
        confirmed: Mean validation value over its confirm seeds, by placement key.
        control: The best one that the random search found; None without such a search.
        others: With several objectives, the other placements that were confirmed, in their order.
        knee: With several objectives, the knee of the front of all that were confirmed, no attention among them.
    """

    placement: Placement | None
    confirmed: dict[str, float]
    control: Placement | None = None
    others: tuple[Placement, ...] = ()
    knee: Placement | None = None


class Confirmation:
    """Plans the rounds of the stage, each when the one before has ended, and decides.

    Args:
        searches: The search, and the random search beside it if there is one.
        final: The queue of the runs.
        seed: The run's seed.
        epochs: Length of a training.
        kept: The form in which predictions are stored.
    """

    def __init__(
        self,
        searches: Sequence[SearchStudy],
        final: PlannedRuns,
        budget: Budget,
        *,
        seed: int,
        epochs: int,
        kept: Artifact,
    ) -> None:
        self._searches, self._final, self._budget = searches, final, budget
        self._first_seed, self._epochs, self._kept = seed + CONFIRM_OFFSET, epochs, kept
        self._goals = searches[0].goals
        self._n_rounds = 0

    def goes_on(self) -> bool:
        """Plan the next round if none is running; return whether the stage has runs that have not ended."""
        while self._n_rounds < len(self._rounds()) and not self._final.n_waiting("confirm"):
            self._n_rounds += 1
            self._final.plan(self._plans(), first=True)
        return self._final.n_waiting("confirm") > 0

    def unplanned(self, n_search: int | None = None) -> tuple[int, ...]:
        """Return the number of runs of each round that is not planned yet.

        Args:
            n_search: Number of search trials that will begin; None takes all that the budget allows.
        """
        first, *others = (len(self._searches) * number for number in n_confirm_runs(self._rounds(n_search)))
        return (first + CONFIRM_SEEDS, *others)[self._n_rounds :]  # the first round has those of no attention

    def decide(self) -> Winner:
        """Return the best placement of each search by the mean over the new seeds.

        With several objectives it is the knee of the front of the placements with attention.
        """
        found, *others = self._candidates()
        control = others[0] if others else []
        values = self._values([NONE, *found, *control])
        known = {placement.key: statistics.fmean(each) for placement, each in values.items()}
        if self._goals.are_several:
            return self._decide_by_knee(found, control, known)

        def best(placements: Sequence[Placement]) -> Placement | None:
            left = _ranked(self._values(self._left(placements, len(self._rounds()))))
            return left[0] if left else None

        return Winner(best(found), known, best(control))

    def _rounds(self, n_search: int | None = None) -> tuple[Round, ...]:
        """Return the rounds of the stage if so many search trials are still to begin; None takes all."""
        search = self._searches[0]
        n_trials = search.n_done + search.n_fresh + (search.n_open if n_search is None else n_search)
        return rounds_of(self._budget, n_trials, several=self._goals.are_several)

    def _candidates(self) -> list[list[Placement]]:
        """Return the placements of each search to confirm, the best first."""
        number = self._rounds()[0].n_placements
        return [search.goals.best(search.records(), number) for search in self._searches]

    def _plans(self) -> list[PlannedRun]:
        """Return the runs of the rounds so far, seed by seed; one that both searches found is trained once."""
        runs = [(index, BARE, NONE) for index in range(CONFIRM_SEEDS)]
        for n_search, placements in enumerate(self._candidates()):
            labels = {placement: f"best {rank}" for rank, placement in enumerate(placements, 1)} if not n_search else {}
            runs += [
                (index, labels.get(placement, OF_CONTROL), placement)
                for n_before, each in enumerate(self._rounds()[: self._n_rounds])
                for placement in self._left(placements, n_before)
                for index in range(each.n_seeds)
            ]
        return [
            PlannedRun("confirm", label, placement, self._first_seed + index, self._epochs, (self._kept,))
            for index, label, placement in sorted(runs, key=lambda run: run[0])
        ]

    def _left(self, placements: Sequence[Placement], n_rounds: int) -> Sequence[Placement]:
        """Return the placements that are left after so many rounds; after the last one, those that it decides among.

        Those without a value are out, and so are the worse ones.
        """
        rounds, left = self._rounds(), placements
        for each, following in list(pairwise(rounds))[:n_rounds]:
            left = _ranked(self._values(left, each.n_seeds))[: following.n_placements]
        return left

    def _values(self, placements: Sequence[Placement], n_seeds: int | None = None) -> dict[Placement, list[float]]:
        """Return the values of the first new seeds, or of all, of each placement that has any."""
        found = {}
        for placement in placements:
            by_seed = self._final.values("confirm", placement, self._epochs)
            last = math.inf if n_seeds is None else self._first_seed + n_seeds - 1
            values = [value for seed, value in by_seed.items() if seed <= last]
            if values:
                found[placement] = values
        return found

    def _decide_by_knee(
        self, candidates: Sequence[Placement], control: Sequence[Placement], means: dict[str, float]
    ) -> Winner:
        goals = self._goals
        rows = [row for row in self._final.records() if row.stage == "confirm" and row.epochs == self._epochs]
        points = goals.points(rows)

        def knee_of(placements: Sequence[Placement]) -> Placement | None:
            with_values = [placement for placement in placements if placement.key in points]
            on_front = front(with_values, lambda placement: points[placement.key], goals.objectives)
            return knee(on_front, lambda placement: points[placement.key], goals.objectives)

        found = knee_of(candidates)
        others = tuple(placement for placement in candidates if found is not None and placement.key != found.key)
        return Winner(found, means, knee_of(control), others, knee_of([NONE, *candidates]))


def _ranked(values: Mapping[Placement, Sequence[float]]) -> list[Placement]:
    """Return placements by their means, the best first; those of which trainings failed come last."""
    return sorted(values, key=lambda placement: (-len(values[placement]), -statistics.fmean(values[placement])))
