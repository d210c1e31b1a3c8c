"""Means over seeds and images, crossed: every network of an arm, one a seed, judges the same images.

A value x[i, j] of seed i on image j is taken as mean + seed effect + image effect + rest, all three random. The mean
over both then varies with the seeds that were drawn and with the images that were drawn; an interval over the seeds'
means alone leaves out the images. All functions know numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas_attn.statistics import CONFIDENCE, t_quantile

Values = NDArray[np.float64]

FLOOR, KNOWN = 0.25, 0.1
"""How much of the rest's mean square bounds that of the seeds from below, and how much of it counts as known."""

ROUNDING = 1e-20
"""A sum of squares below this share of that of all values is rounding: equal values differ by 1e-16 of themselves."""

FEWEST_SEEDS = 3
"""Fewest seeds that allow an interval: with two, the t quantile is 12.7."""


@dataclass(frozen=True)
class Crossed:
    """The mean of a matrix of seeds x images, and how far it would vary over new seeds and new images.

    Args:
        variance: Variance of the mean; on average `seeds / n_seeds + images / n_images + rest / (n_seeds * n_images)`.
        degrees: Degrees of freedom of that variance.
        seeds, images, rest: Variance components of one value, none below 0.
        active_images: Number of images that carry the spread between images, (sum of squares)² / sum of fourth powers:
            for rare errors, the number of images that were ever wrong; for a normal spread, a third of all.

    Units: those of the values; variances in their square.
    """

    mean: float
    variance: float
    degrees: float
    n_seeds: int
    n_images: int
    seeds: float
    images: float
    rest: float
    active_images: float

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return math.sqrt(self.variance)

    @property
    def image_error(self) -> float:
        """Standard error that no number of further seeds removes."""
        return math.sqrt(self.images / self.n_images)


def crossed(values: Values) -> Crossed:
    """Return the mean over seeds and images with the variance of a two-way random model without replication.

    The components come from the mean squares: `rest` = MS_rest, `seeds` = (MS_seed - MS_rest) / N and `images` =
    (MS_image - MS_rest) / n, each cut at 0. The variance of the mean is (MS_seed + MS_image - MS_rest) / (n N), where
    the images' part is cut at 0, and MS_seed at a quarter of MS_rest: few seeds may agree by chance. To cut it at
    MS_rest itself, below which its expectation cannot lie, would make intervals of three seeds cover 98 %.

    Source: Searle, Casella and McCulloch, Variance Components, 1992, chapter 4; for readers x cases: Obuchowski and
    Rockette, Communications in Statistics 24 (1995), and Gallas, Academic Radiology 13 (2006).

    Args:
        values: Of one arm, or of the difference of two arms that share seeds and images.

    Shape: (n, N), at least 2 seeds and 2 images, all finite.
    Raises: ValueError for another shape or a value that is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(f"values must have the shape (seeds, images), at least 2 of each, but have {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite, but some are not")
    n, n_images = values.shape
    mean = float(values.mean())
    by_seed, by_image = values.mean(1) - mean, values.mean(0) - mean
    of_seeds, of_images = float(np.square(by_seed).sum()) * n_images, float(np.square(by_image).sum()) * n
    rest = float(np.square(values - mean - by_seed[:, None] - by_image).sum())
    least = ROUNDING * float(np.square(values).sum())
    of_seeds, of_images, rest = (part if part > least else 0.0 for part in (of_seeds, of_images, rest))
    fourth = float(np.square(np.square(by_image)).sum())
    active = float(np.square(by_image).sum()) ** 2 / fourth if fourth > 0.0 else 0.0
    squares = (of_seeds / (n - 1), of_images / (n_images - 1), rest / ((n - 1) * (n_images - 1)))
    return from_mean_squares(mean, squares, values.shape, active)


def from_mean_squares(
    mean: float, squares: tuple[float, float, float], shape: tuple[int, ...], active_images: float
) -> Crossed:
    """Return the record that belongs to the mean squares of seeds, images and rest."""
    (of_seeds, of_images, rest), (n, n_images) = squares, shape
    seeds, images = max(of_seeds - rest, 0.0) / n_images, max(of_images - rest, 0.0) / n
    of_seeds = max(of_seeds, FLOOR * rest)
    total = of_seeds + n * images
    shares = ((of_seeds - KNOWN * rest) / total, n * images / total) if total > 0.0 else (1.0, 0.0)
    degrees = _degrees(shares, (n, n_images), active_images)
    return Crossed(mean, total / (n * n_images), degrees, n, n_images, seeds, images, rest, active_images)


def expected(found: Crossed, *, n_seeds: int, n_images: int) -> Crossed:
    """Return what so many seeds and images would give on average if the components are as found."""
    rest = found.rest
    squares = (n_images * found.seeds + rest, n_seeds * found.images + rest, rest)
    active = found.active_images * n_images / found.n_images
    return from_mean_squares(found.mean, squares, (n_seeds, n_images), active)


def _degrees(shares: tuple[float, float], shape: tuple[int, int], active_images: float) -> float:
    """Return the degrees of freedom of a variance of which seeds and images have these shares.

    Satterthwaite's rule adds share² / degrees over the parts. With the two degrees of three seeds it gives too many
    where seeds and images matter alike (coverage 92 %): a sample that underestimates the seeds' part also takes that
    part for a small share. Here the seeds count by their share itself, which covers 94 to 96 % whatever matters. The
    images' part has the degrees that its fourth moments show, 2 for each rare error.

    Source: Satterthwaite, Biometrics Bulletin 2 (1946).
    Departs: the exponent of the seeds' share is 1, not 2; measured by `benchmarks/intervals.py`.
    """
    (by_seeds, by_images), (n, n_images) = shares, shape
    spread = 1.0 / active_images - 1.0 / n_images if active_images > 0.0 else 0.0
    of_image_part = min(2.0 / spread if spread > 0.0 else math.inf, n_images - 1.0)
    return 1.0 / (by_seeds / (n - 1) + by_images**2 / of_image_part)


def t_interval(found: Crossed, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the t interval of the mean, for a difference or another value that may lie anywhere."""
    half = t_quantile(0.5 + confidence / 2, found.degrees) * found.error
    return found.mean - half, found.mean + half


def share_interval(found: Crossed, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Wilson's interval of a share, with the number of independent images that would be as exact.

    The variance v of a share p is that of p (1 - p) / v independent images; the quantile is Student's.

    Source: Wilson, JASA 22 (1927); the effective size after Kish, Survey Sampling, 1965; the t quantile after Korn and
    Graubard, Survey Methodology 24 (1998).
    """
    share = found.mean
    n_effective = share * (1.0 - share) / found.variance
    squared = t_quantile(0.5 + confidence / 2, found.degrees) ** 2 / n_effective
    middle = (share + squared / 2) / (1.0 + squared)
    half = math.sqrt(squared * (share * (1.0 - share) + squared / 4)) / (1.0 + squared)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def probability_best(matrices: Mapping[str, Values], *, draws: int = 20_000, seed: int = 0) -> dict[str, float]:
    """Return for each arm the probability that its mean over all seeds and images is the highest of these.

    The means of the arms are drawn from the crossed model of all arms together: their covariances come from mean
    products in place of mean squares. The seeds' part has the t distribution of n - 1 degrees of freedom, the images'
    part the normal one; no prior prefers any arm. Arms that are equal in a draw share it.

    Args:
        matrices: Arm -> values (n, N), all over the same seeds and images.

    Raises: ValueError if the shapes differ or are too small, as in `crossed`.
    """
    names = list(matrices)
    stacked = np.stack([np.asarray(matrices[name], dtype=np.float64) for name in names])
    if stacked.ndim != 3 or min(stacked.shape[1:]) < 2:
        raise ValueError(
            f"matrices must have one shape (seeds, images), at least 2 of each, but have {stacked.shape[1:]}"
        )
    _, n, n_images = stacked.shape
    means = stacked.mean((1, 2))
    of_seeds, of_images, rest = _mean_products(stacked)
    size = n * n_images
    seeds, images = of_seeds / size, _semidefinite((of_images - rest) / size)
    random = np.random.default_rng(seed)
    scale = np.sqrt((n - 1) / random.chisquare(n - 1, (draws, 1)))
    drawn = means + _normal(random, images, draws) + scale * _normal(random, seeds, draws)
    best = drawn >= drawn.max(1, keepdims=True) - 1e-7 * np.abs(means).max()
    shares = (best / best.sum(1, keepdims=True)).mean(0)
    return dict(zip(names, map(float, shares), strict=True))


def _mean_products(stacked: Values) -> tuple[Values, Values, Values]:
    """Return the mean products of seeds, images and rest of all pairs of arms. Shape: (A, n, N) -> three (A, A)."""
    _, n, n_images = stacked.shape
    centred = stacked - stacked.mean((1, 2), keepdims=True)
    by_seed, by_image = centred.mean(2), centred.mean(1)
    left = centred - by_seed[:, :, None] - by_image[:, None, :]
    return (
        by_seed @ by_seed.T * n_images / (n - 1),
        by_image @ by_image.T * n / (n_images - 1),
        np.einsum("anj,bnj->ab", left, left) / ((n - 1) * (n_images - 1)),
    )


def _semidefinite(matrix: Values) -> Values:
    """Return the nearest covariance matrix: eigenvalues below 0 become 0."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)


def _normal(random: np.random.Generator, covariance: Values, draws: int) -> Values:
    """Return draws of a normal distribution with mean 0. Shape: (draws, arms)."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(random.standard_normal((draws, len(values))) * np.sqrt(np.maximum(values, 0.0)) @ vectors.T)
