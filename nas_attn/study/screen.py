"""The screen: before the search, a network with shared weights is trained and ranks placements for it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from nas_attn.comparison.ranking import JUDGED_IMAGES, RANKED, REFIT_IMAGES, Ranking
from nas_attn.placement import NONE
from nas_attn.records import Outcome, Paths, Task, TrialRecord
from nas_attn.space.bound import BoundSpace
from nas_attn.study.planned import PlannedRun, PlannedRuns
from nas_attn.study.sampling import SearchStudy

SCREEN_OFFSET = 40_000
"""Offset of the screen's seed from the run's seed: no stage uses a seed of another."""

MOST_RANKED, FEWEST_RANKED = 4_000, 20
"""Numbers of placements that are ranked, as far as the space has them."""

RANKING_SHARE = 1 / 3
"""Share of the price that pays for the ranking."""

JUDGED_PER_TRAINED = 4
"""Number of images that are judged in the time in which one is trained on: the gradient costs about twice the forward
pass, and larger batches are quicker."""

_LISTED = 20_000
"""Largest number of placements of a space that is listed as a whole."""


@dataclass(frozen=True)
class ScreenPlan:
    """The extent of a screen.

    Args:
        price: Number of trainings that it counts as.
        epochs: Length of its training's schedule.
        n_ranked: Largest number of placements to rank.
    """

    price: int
    epochs: int
    n_ranked: int

    @classmethod
    def of(cls, price: int, *, epochs: int, n_train: int, n_val: int) -> ScreenPlan:
        """Return the extent of a screen that costs as much as `price` trainings.

        Args:
            epochs: Length of a search trial's schedule.
        """
        n_trained = RANKING_SHARE * price * epochs * n_train
        n_judged = min(n_val, JUDGED_IMAGES) + min(n_train, REFIT_IMAGES)
        n_ranked = round(JUDGED_PER_TRAINED * n_trained / n_judged)
        trained = max(1, round((1 - RANKING_SHARE) * price * epochs))
        return cls(price, trained, min(MOST_RANKED, max(FEWEST_RANKED, n_ranked)))


class Screening:
    """Hands out the training of the network with shared weights, and has the search follow its ranking.

    While it runs, the search begins only its first placements. A screen that fails for good leaves the search as it is.

    Args:
        runs: The ledger of the screen as a queue; rows left running by a dead driver must have been swept.
        search: The search that follows it.
        bound: The space.
        seed: The run's seed.
    """

    def __init__(self, runs: PlannedRuns, search: SearchStudy, bound: BoundSpace, plan: ScreenPlan, seed: int) -> None:
        self._runs, self._search, self._bound, self._plan, self._seed = runs, search, bound, plan, seed
        self.ranking = Ranking.from_note(runs.note(RANKED))
        if self.ranking is None:
            training = PlannedRun("screen", "shared weights", NONE, seed + SCREEN_OFFSET, plan.epochs, ("ranking",))
            runs.plan([training], again=runs.is_done(training))  # its ranking was lost
        search.hold()
        self._follow()

    @property
    def is_finished(self) -> bool:
        """Whether the search waits for the screen no longer."""
        return not self._runs.n_waiting("screen")

    def ask(self) -> Task | None:
        """Begin the training, or return None if it has begun, or the search has ended before it."""
        task = self._runs.ask() if self._search.n_open else None
        return None if task is None else replace(task, paths=self._paths)

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Record the value of one epoch; nothing stops a screen early."""
        return self._runs.report(number, epoch, value)

    def finish(self, number: int, outcome: Outcome) -> TrialRecord:
        """Record how the training ended, and return its row; the search follows its ranking from now on."""
        if outcome.state == "complete":
            values = tuple(json.loads(outcome.artifacts["ranking"]))
            self.ranking = Ranking(self._paths, values, self._plan.price)
            self._runs.set_note(RANKED, self.ranking.to_dict())
        record = self._runs.finish(number, outcome)
        self._follow()
        return record

    def records(self) -> tuple[TrialRecord, ...]:
        """Return all rows."""
        return self._runs.records()

    def _follow(self) -> None:
        if self.is_finished:
            self._search.follow(self.ranking)

    @cached_property
    def _paths(self) -> Paths:
        """What the network holds and ranks; the same in every session."""
        return paths_of(self._bound, self._plan.n_ranked, self._seed)


def paths_of(bound: BoundSpace, number: int, seed: int) -> Paths:
    """Return the choices of a space, and up to `number` placements within its limits to rank.

    The usual first placements are among them; the others are all that there are, or drawn at random.
    """
    decisions = tuple(tuple(decision.distinct) for decision in bound.decisions)
    every = Paths(decisions, ())
    first = [every.numbers(placement) for _, placement in bound.priors()]
    ranked = dict.fromkeys(numbers for numbers in first if numbers is not None)
    for numbers in _drawn(bound, decisions, number, seed):
        if len(ranked) >= number:
            break
        if numbers not in ranked and bound.check(every.placement(numbers)) is None:
            ranked[numbers] = None
    return replace(every, ranked=tuple(ranked)[:number])


def _drawn(
    bound: BoundSpace, decisions: tuple[tuple[object, ...], ...], number: int, seed: int
) -> Iterator[tuple[int, ...]]:
    """Yield the placements of a space in random order; of a large one only some, possibly again."""
    generator = random.Random(seed + SCREEN_OFFSET)
    if bound.n_placements <= _LISTED:
        listed = list(product(*(range(len(parts)) for parts in decisions)))
        generator.shuffle(listed)
        yield from listed
        return
    for _ in range(20 * number):
        yield tuple(generator.randrange(len(parts)) for parts in decisions)
