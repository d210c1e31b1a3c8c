"""Errors of two arms over seeds and images with known truth, for `intervals.py`.

An image is hard or easy, a seed good or bad: seed i errs on image j if a standard normal number lies below a limit. The
number is shared in part by all seeds of an arm (the image's difficulty) and in part by both arms; the limit moves with
the seed. Only images on which somebody may err are drawn, so that a test set of 10,000 costs what its errors cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import multivariate_normal

Array = NDArray[np.float64]

POOL = 60_000
"""Images with an error that are drawn once per cell; each draw takes its own from them. They are the population."""

BETWEEN_ARMS = 0.8
"""Correlation of an image's difficulty between the two arms."""

MOST_SHIFT = 3.0
"""Seeds are cut at so many standard deviations."""

TINY = 1e-300
"""Least divisor: an image that no seed can miss was not missed."""

ENTRIES = 200_000
"""Errors that are drawn together: bounds the memory."""


@dataclass(frozen=True)
class Cell:
    """One case: so many seeds and images, and an arm's expected errors a seed, their correlation, and seeds' sd."""

    n_seeds: int
    n_images: int
    n_errors: float
    correlation: float
    seed_sd: float
    ratio: float = 0.85

    @property
    def rate(self) -> float:
        """Return the first arm's expected share of errors; the second arm's is `ratio` times as large."""
        return self.n_errors / self.n_images


@dataclass(frozen=True)
class Sums:
    """Per draw: sums that mean squares are made of, of arm A and of A - B. Shape: (draws,), totals (draws, n)."""

    totals: Array
    powers: Array
    squares: Array
    truth: float


def draw(cell: Cell, draws: int, random: np.random.Generator) -> tuple[Sums, Sums]:
    """Return the sums of the first arm's errors and of the difference between both arms."""
    arms = [_Arm.of(rate, cell) for rate in (cell.rate, cell.rate * cell.ratio)]
    pool, share = _pool(cell, arms, random)
    found = [
        _batch(cell, arms, pool, share, size, random)
        for size in _sizes(draws, max(pool.mean_errors * share * cell.n_images, 1.0))
    ]
    totals, powers, squares = (np.concatenate([batch[at] for batch in found]) for at in range(3))
    truths = [share * pool.mean_true(arm, at) / cell.n_seeds for at, arm in enumerate(arms)]
    difference = totals[:, 0] - totals[:, 1]
    return (
        Sums(totals[:, 0], powers[:, 0], squares[:, 0], truths[0]),
        Sums(difference, powers[:, 1], squares[:, 1], truths[0] - truths[1]),
    )


@dataclass(frozen=True)
class _Arm:
    limit: float
    loading: float
    shift_sd: float

    @classmethod
    def of(cls, rate: float, cell: Cell) -> _Arm:
        shift = _shift_sd(rate, cell.seed_sd / 100)
        return cls(math.sqrt(1 + shift**2) * float(ndtri(rate)), _loading(rate, cell.correlation), shift)

    def errs(self, difficulty: Array, shift: Array | float) -> Array:
        """Return the probability of an error."""
        rest = math.sqrt(1 - self.loading**2)
        return np.asarray(ndtr((self.limit + shift + self.loading * difficulty) / rest))


@dataclass(frozen=True)
class _Pool:
    """Images on which at least one seed of an arm would err if all seeds were as bad as seeds can be.

    Args:
        difficulty: Per image and arm, (P, 2).
        at_most: The probability of an error of the worst seed, (P, 2).
        first, seeds, arms: The errors: those of image p are `first[p]` to `first[p + 1]`; whose seed; 1, 2 or both 3.
    """

    difficulty: Array
    at_most: Array
    first: NDArray[np.int64]
    seeds: NDArray[np.int64]
    arms: NDArray[np.int64]

    @property
    def mean_errors(self) -> float:
        return len(self.seeds) / len(self.difficulty)

    def mean_true(self, arm: _Arm, at: int) -> float:
        """Return the expected number of errors an image of the pool, over all seeds of the arm."""
        count = np.repeat(np.arange(len(self.difficulty)), np.diff(self.first))[(self.arms >> at) & 1 == 1]
        kept = np.bincount(count, minlength=len(self.difficulty))
        shifts = np.clip(ndtri((np.arange(200) + 0.5) / 200), -MOST_SHIFT, MOST_SHIFT) * arm.shift_sd
        chance = np.mean([arm.errs(self.difficulty[:, at], shift) for shift in shifts], axis=0)
        return float((kept * chance / np.maximum(self.at_most[:, at], TINY)).mean())


def _pool(cell: Cell, arms: list[_Arm], random: np.random.Generator) -> tuple[_Pool, float]:
    """Return the pool, and the share of all images that such images are."""
    difficulties, bounds, patterns, tried, kept = [], [], [], 0, 0
    while kept < POOL:
        size = 40_000
        common, own = random.standard_normal((size, 1)), random.standard_normal((size, 2))
        difficulty = math.sqrt(BETWEEN_ARMS) * common + math.sqrt(1 - BETWEEN_ARMS) * own
        worst = np.stack(
            [arm.errs(difficulty[:, at], MOST_SHIFT * arm.shift_sd) for at, arm in enumerate(arms)], axis=1
        )
        errors = random.random((size, cell.n_seeds, 2), dtype=np.float32) < worst[:, None, :]
        some = errors.any((1, 2))
        difficulties.append(difficulty[some])
        bounds.append(worst[some])
        patterns.append((errors[some] * np.array([1, 2])).sum(2))
        tried, kept = tried + size, kept + int(some.sum())
    pattern = np.concatenate(patterns)
    images, seeds = np.nonzero(pattern)
    first = np.concatenate([[0], np.cumsum((pattern > 0).sum(1))])
    pool = _Pool(np.concatenate(difficulties), np.concatenate(bounds), first, seeds, pattern[images, seeds])
    return pool, kept / tried


def _batch(
    cell: Cell, arms: list[_Arm], pool: _Pool, share: float, draws: int, random: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Return totals (draws, 2, n), powers of the images' sums (draws, 2, 4) and sums of squares (draws, 2)."""
    n = cell.n_seeds
    n_active = random.binomial(cell.n_images, share, draws)
    image_draw = np.repeat(np.arange(draws), n_active)
    chosen = random.integers(0, len(pool.difficulty), len(image_draw))
    counts = np.diff(pool.first)[chosen]
    image = np.repeat(np.arange(len(chosen)), counts)
    entry = (
        np.arange(len(image)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(pool.first[chosen], counts)
    )
    column = image_draw[image] * n + pool.seeds[entry]
    wrong = []
    for at, arm in enumerate(arms):
        errs = (pool.arms[entry] >> at) & 1 == 1
        if arm.shift_sd > 0.0:
            shifts = np.clip(random.standard_normal(draws * n), -MOST_SHIFT, MOST_SHIFT) * arm.shift_sd
            row = chosen[image[errs]]
            chance = arm.errs(pool.difficulty[row, at], shifts[column[errs]]) / pool.at_most[row, at]
            errs[errs] = random.random(len(row)) < chance
        wrong.append(errs.astype(np.float64))
    totals = np.stack([np.bincount(column, one, draws * n).reshape(draws, n) for one in wrong], axis=1)
    by_image = [np.bincount(image, one, len(chosen)) for one in (wrong[0], wrong[0] - wrong[1])]
    powers = np.stack(
        [np.stack([np.bincount(image_draw, one**k, draws) for k in (1, 2, 3, 4)], 1) for one in by_image], 1
    )
    of_entry = image_draw[image]
    squares = [np.bincount(of_entry, one, draws) for one in (wrong[0], np.abs(wrong[0] - wrong[1]))]
    return totals, powers, np.stack(squares, axis=1)


def _sizes(draws: int, n_entries: float) -> list[int]:
    """Return how many draws are made together."""
    size = max(1, min(draws, int(ENTRIES / n_entries)))
    return [min(size, draws - begun) for begun in range(0, draws, size)]


@cache
def _loading(rate: float, correlation: float) -> float:
    """Return how much of the difficulty makes the errors of two seeds correlate so."""
    limit = float(ndtri(rate))
    low, high = 0.0, 0.99999
    for _ in range(40 if correlation else 0):
        middle = (low + high) / 2
        both = multivariate_normal.cdf([limit, limit], [0, 0], [[1, middle], [middle, 1]])
        low, high = (middle, high) if (both - rate**2) / (rate - rate**2) < correlation else (low, middle)
    return math.sqrt(low)


@cache
def _shift_sd(rate: float, sd: float) -> float:
    """Return the spread of the limit that gives the rates of the seeds this spread."""
    points = ndtri((np.arange(400) + 0.5) / 400)
    low, high = 0.0, 3.0
    for _ in range(40 if sd else 0):
        middle = (low + high) / 2
        rates = ndtr(math.sqrt(1 + middle**2) * ndtri(rate) + middle * points)
        low, high = (middle, high) if rates.std() < sd else (low, middle)
    return low
