"""Looks at a comparison while seeds are added, with a probability of error that holds wherever one stops.

Each look spends a part of the total error, and no more is spent than there is, however many looks follow, planned or
not. A look's level is the p-value up to which it decides: somewhat more than what it spends, because it sees the seeds
of the earlier looks again. All other comparisons of a page are one family that is tested at levels of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

TOTAL = 0.05
"""Probability of a false "better" or "worse" of the planned comparison, over all looks together."""

AT_ONCE = 0.8
"""Share of what is left that a look outside a schedule spends: the first one decides at 4 % of 5 %."""

KEPT = 0.04
"""Share of the total that a schedule keeps for looks after its last one."""

FAMILY = 0.2
"""The family's error as a multiple of the planned comparison's; with that one decided, 1 is added."""

N_POINTS = 401


@dataclass(frozen=True)
class Look:
    """One look, as the ledger stores it.

    Args:
        n_seeds: Seeds that both arms of the planned comparison have.
        spent: Error that this look spends.
        level: The planned comparison is decided if its p-value is at most this; 1 - level is the confidence of its
            interval, and both one-sided tests of equality use the level.
        family_level: Level of the family of all other comparisons while the planned one is undecided.
        open_level: The family's level once the planned comparison is "better" or "worse", at this look or before.
    """

    n_seeds: int
    spent: float
    level: float
    family_level: float
    open_level: float

    @property
    def confidence(self) -> float:
        """Confidence of the interval of the planned comparison at this look."""
        return 1.0 - self.level


def at_once(looks: Sequence[Look], total: float = TOTAL) -> float:
    """Return what a look spends if none is planned after it: 80 % of what is left.

    >>> round(at_once([]), 6)
    0.04
    """
    return AT_ONCE * max(total - _spent(looks), 0.0)


def by_schedule(looks: Sequence[Look], n_seeds: int, max_seeds: int, total: float = TOTAL) -> float:
    """Return what a look spends on the way to `max_seeds`: what is left, in proportion to the seeds that are new.

    Looks may come after any number of seeds. A part of 4 % is kept for looks after `max_seeds`, which spend `at_once`;
    some of it is taken if earlier looks have spent all else.

    >>> round(by_schedule([], 5, 20), 6)
    0.012
    """
    before = looks[-1].n_seeds if looks else 0
    if before >= max_seeds:
        return at_once(looks, total)
    left = max((1.0 - KEPT) * total - _spent(looks), at_once(looks, total))
    return left * (min(n_seeds, max_seeds) - before) / (max_seeds - before)


def next_look(looks: Sequence[Look], n_seeds: int, spending: float) -> Look:
    """Return the look after these, with its levels.

    Source: Lan and DeMets, Biometrika 70 (1983), on p-values; the family by fallback: Wiens, Pharmaceutical Statistics
    2 (2003), with looks as in Maurer and Bretz, Statistics in Biopharmaceutical Research 5 (2013).
    Departs: the statistics of two looks at n₁ and n₂ seeds are taken to correlate by √((n₁ - 2) / (n₂ - 2)). Means
    correlate by √(n₁ / n₂), but Student's t of few seeds less: with n the error would be up to 5.6 %. Common images
    make them correlate more, which only makes the error smaller (Slepian's inequality).

    Args:
        looks: All earlier looks, the oldest first.
        n_seeds: More than at the last look.
        spending: What it spends: `at_once(looks)` or `by_schedule(looks, n_seeds, max_seeds)`.

    Raises: ValueError if no seed is new.
    """
    if looks and n_seeds <= looks[-1].n_seeds:
        raise ValueError(f"a look needs more seeds than the one before, {looks[-1].n_seeds}, but got {n_seeds}")
    sizes = tuple(_information(n) for n in (*(look.n_seeds for look in looks), n_seeds))
    spends = (*(look.spent for look in looks), spending)
    level, family, opened = (
        boundary(sizes, tuple(times * one for one in spends)) for times in (1.0, FAMILY, 1.0 + FAMILY)
    )
    return Look(n_seeds, spending, level, family, opened)


@lru_cache(maxsize=256)
def boundary(sizes: tuple[float, ...], spends: tuple[float, ...]) -> float:
    """Return the two-sided level of the last look, so that each look spends its part if nothing differs.

    The sum of the values is followed from look to look as a normal random walk that ends at a decision.

    Args:
        sizes: Growing numbers of values at the looks; any unit.
        spends: The error that each look spends.

    Cost: 3 ms for each earlier look, once.
    """
    from scipy.special import ndtr

    walk = _Walk()
    for size, spend in zip(sizes, spends, strict=True):
        limit = walk.step(size, spend)
    return float(2.0 * ndtr(-limit / math.sqrt(sizes[-1])))


class _Walk:
    """The distribution of a sum of n standard normal values, over the paths that no earlier look has ended."""

    def __init__(self) -> None:
        self._size = 0.0
        self._at: NDArray[np.float64] = np.zeros(1)
        self._mass: NDArray[np.float64] = np.ones(1)

    def step(self, size: float, spend: float) -> float:
        """Go on to a look, end the outer paths with the probability `spend`, and return the limit."""
        deviation = math.sqrt(size - self._size)
        limit = self._limit(deviation, math.sqrt(size), spend)
        at = np.linspace(-limit, limit, N_POINTS)
        weights = np.full(N_POINTS, at[1] - at[0])
        weights[[0, -1]] /= 2
        steps = (at[:, None] - self._at[None, :]) / deviation
        density = np.exp(-np.square(steps) / 2) @ self._mass / (deviation * math.sqrt(2 * math.pi))
        self._size, self._at, self._mass = size, at, density * weights
        return limit

    def _limit(self, deviation: float, scale: float, spend: float) -> float:
        """Return the limit beyond which the paths have this probability, by bisection."""
        from scipy.special import ndtr

        inside, outside = 0.0, 10.0 * scale
        for _ in range(50):
            limit = (inside + outside) / 2
            tails = ndtr((self._at - limit) / deviation) + ndtr((-limit - self._at) / deviation)
            inside, outside = (limit, outside) if float(tails @ self._mass) > spend else (inside, limit)
        return outside


def _information(n_seeds: int) -> float:
    """Return for how many normal values of a known variance so many seeds count; always growing."""
    return max(n_seeds - 2.0, n_seeds / 4.0)


def _spent(looks: Sequence[Look]) -> float:
    return math.fsum(look.spent for look in looks)
