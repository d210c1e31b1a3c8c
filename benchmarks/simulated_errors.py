"""Errors of two arms over seeds and images with known truth, for `intervals.py`.

An image is hard or easy, a seed good or bad: seed i errs on image j if a normal number exceeds a limit. The number is
shared in part by all seeds of an arm (the image's difficulty) and in part by both arms; the limit moves with the seed.
Only images on which somebody may err are drawn, so that a test set of 10,000 costs what its errors cost.
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

LEAST_POOL, POOL_TIMES = 8_000, 30
"""Images with an error that are drawn once per cell, and how many test sets they are at least. They are the population:
each draw takes its images from them."""

BETWEEN_ARMS = 0.8
"""Correlation of an image's difficulty between the two arms."""

MOST_SHIFT = 3.0
"""Seeds are cut at so many standard deviations."""


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
    def rates(self) -> tuple[float, float]:
        """The expected share of errors of both arms; the second one's is `ratio` times as large."""
        return self.n_errors / self.n_images, self.ratio * self.n_errors / self.n_images


@dataclass(frozen=True)
class Sums:
    """Per draw: sums that mean squares are made of, of arm A and of A - B. Shape: (draws,), totals (draws, n)."""

    totals: Array
    powers: Array
    squares: Array
    truth: float


def draw(cell: Cell, draws: int, random: np.random.Generator) -> tuple[Sums, Sums]:
    """Return the sums of the first arm's errors and of the difference between both arms."""
    n = cell.n_seeds
    shift_sds = np.array([_shift_sd(rate, cell.seed_sd / 100) for rate in cell.rates]).repeat(n)
    pool, share = _pool(cell, shift_sds, random)
    totals, both = np.empty((draws, 2 * n)), np.empty(draws)
    of_one, of_difference = np.empty((draws, n + 1)), np.empty((draws, 2 * n + 1))
    of_arm = np.kron(np.eye(2, dtype=np.float32), np.ones((n, 1), np.float32))
    for at, size in enumerate(random.binomial(cell.n_images, share, draws)):
        shifts = np.clip(random.standard_normal(2 * n), -MOST_SHIFT, MOST_SHIFT) * shift_sds
        wrong = (pool[random.integers(0, len(pool), size)] > -shifts.astype(np.float32)).astype(np.float32)
        by_image = (wrong @ of_arm).astype(np.int64)
        totals[at] = wrong.sum(0)
        both[at] = np.vdot(np.ascontiguousarray(wrong[:, :n]), np.ascontiguousarray(wrong[:, n:]))
        of_one[at] = np.bincount(by_image[:, 0], minlength=n + 1)
        of_difference[at] = np.bincount(by_image[:, 0] - by_image[:, 1] + n, minlength=2 * n + 1)
    one, other, exponents = totals[:, :n], totals[:, n:], np.arange(1, 5)
    errors, truths = one.sum(1), [share * _true(pool[:, k * n : k * n + n], shift_sds[k * n]) for k in (0, 1)]
    powers, powers_of_difference = (
        counts @ np.arange(least, n + 1.0)[:, None] ** exponents for counts, least in ((of_one, 0), (of_difference, -n))
    )
    return (
        Sums(one, powers, errors, truths[0]),
        Sums(one - other, powers_of_difference, errors + other.sum(1) - 2 * both, truths[0] - truths[1]),
    )


def _pool(cell: Cell, shift_sds: Array, random: np.random.Generator) -> tuple[NDArray[np.float32], float]:
    """Return by how much each seed of each arm exceeds its limit on the images of the pool, and their share of all.

    An image is in the pool if at least one seed errs there or would err if it were as bad as seeds can be.

    Shape: (images, 2 n).
    """
    n = cell.n_seeds
    loadings = np.array([_loading(rate, cell.correlation) for rate in cell.rates])
    limits = np.array([float(ndtri(rate)) for rate in cell.rates]).repeat(n) * np.sqrt(1 + shift_sds**2)
    kept: list[NDArray[np.float32]] = []
    tried = found = 0
    while found < LEAST_POOL or tried < POOL_TIMES * cell.n_images:
        hard, own = random.standard_normal((20_000, 1)), random.standard_normal((20_000, 2))
        hard = (math.sqrt(BETWEEN_ARMS) * hard + math.sqrt(1 - BETWEEN_ARMS) * own) * loadings
        rest = random.standard_normal((20_000, 2 * n), dtype=np.float32) * np.sqrt(1 - loadings**2).repeat(n)
        excess = limits + hard.repeat(n, axis=1) + rest
        some = (excess > -MOST_SHIFT * shift_sds).any(1)
        kept.append(excess[some].astype(np.float32))
        tried, found = tried + len(some), found + int(some.sum())
    return np.concatenate(kept), found / tried


def _true(excess: NDArray[np.float32], shift_sd: float) -> float:
    """Return the expected share of errors on the images of the pool, over all seeds."""
    if shift_sd == 0.0:
        return float((excess > 0.0).mean())
    scaled = excess / shift_sd
    return float(np.where(scaled > MOST_SHIFT, 1.0, np.where(scaled < -MOST_SHIFT, 0.0, ndtr(scaled))).mean())


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
