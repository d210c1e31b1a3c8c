"""A model of seeds and images, fitted to a table of placements: it draws trainings whose truth is known.

A network has an image right if its difficulty, shared by all networks, plus a part of the placement's own, plus the
training's own part, lies below a limit; the limit is where the placement's true accuracy sets it, moved by the luck of
the seed. The true accuracies are drawn for each world from what the table leaves open: the raw means would flatter the
best, since the best of 256 noisy means is one that was lucky.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import multivariate_normal
from tables import Floats, PlacementTable, Point

PRIOR_DEGREES = 4.0
"""How many degrees of freedom the median spread of seeds counts where a placement's own spread is estimated."""

TRAINS = 80.0
"""Placements above this accuracy in percent tell what networks share of an image's difficulty."""

PAIRS = 400
"""Number of pairs of trainings of which the shared errors are counted."""

FLOOR = 1e-3
"""Smallest variance of a seed's luck on the scale of the limit."""


@dataclass(frozen=True)
class PlacementModel:
    """What a table says of its placements, on the scale of the limit: `ndtri` of the accuracy.

    Args:
        codes: The placements. Shape: (N, sites).
        centres, errors: Mean of a placement's limit, and the standard error that the table leaves. Shape: (N,).
        luck: Standard deviation of the seeds of each placement. Shape: (N,).
        shared, own: Shares of an image's difficulty that all networks share, and that those of a placement share.
    """

    codes: tuple[Point, ...]
    centres: Floats
    errors: Floats
    luck: Floats
    shared: float
    own: float

    @classmethod
    def fitted(cls, table: PlacementTable) -> PlacementModel:
        """Return the model of a table."""
        limits = ndtri(np.clip(table.both / 100, 0.02, 0.999))
        n = table.is_trained.sum(axis=1)
        variances = np.nanvar(limits, axis=1, ddof=1)
        usual = float(np.median(variances))
        luck = (PRIOR_DEGREES * usual + (n - 1) * variances) / (PRIOR_DEGREES + n - 1)
        centres, errors = _shrunk(np.nanmean(limits, axis=1), np.maximum(luck, FLOOR**2) / n)
        shared, within = _agreement(table)
        return cls(table.codes, centres, errors, np.sqrt(luck), shared, max(within - shared, 0.0))

    @cached_property
    def rows(self) -> dict[Point, int]:
        """Placement -> its row."""
        return {point: row for row, point in enumerate(self.codes)}

    def world(self, number: int, *, n_val: int, n_test: int) -> PlacementWorld:
        """Return a world: true accuracies, validation and test images."""
        rng = np.random.default_rng([4, number])
        limits = self.centres + self.errors * rng.standard_normal(len(self.codes))
        return PlacementWorld(self, ndtr(limits), rng, {"val": n_val, "test": n_test})


class PlacementWorld:
    """One truth: the accuracy of every placement, and the images, from which trainings are drawn.

    Args:
        truth: Accuracy of each placement over all seeds and images. Shape: (N,).
    """

    def __init__(self, model: PlacementModel, truth: Floats, rng: np.random.Generator, sizes: dict[str, int]) -> None:
        self._model, self.truth, self._rng = model, truth, rng
        self._difficulty = {part: rng.standard_normal(size) for part, size in sizes.items()}
        self._own: dict[tuple[int, str], Floats] = {}

    def worth(self, point: Point) -> float:
        """Return the true accuracy of a placement."""
        return float(self.truth[self._model.rows[point]])

    def train(self, point: Point, part: str) -> NDArray[np.bool_]:
        """Return which images of a part a training with a new seed has right."""
        model, row = self._model, self._model.rows[point]
        size = len(self._difficulty[part])
        if (row, part) not in self._own:
            self._own[row, part] = self._rng.standard_normal(size)
        rest = 1 - model.shared - model.own
        value = np.sqrt(model.shared) * self._difficulty[part] + np.sqrt(model.own) * self._own[row, part]
        value = value + np.sqrt(rest) * self._rng.standard_normal(size)
        luck = model.luck[row]
        limit = ndtri(self.truth[row]) * np.sqrt(1 + luck**2) + luck * self._rng.standard_normal()
        return np.asarray(value <= limit)


def _shrunk(means: Floats, variances: Floats) -> tuple[Floats, Floats]:
    """Return means shrunk to their median, and their standard errors: a normal prior with the spread of the table.

    The spread is that of the middle of the table, so that placements that do not train at all do not widen it.
    """
    centre = float(np.median(means))
    low, high = np.percentile(means, [16, 84])
    spread = max(((high - low) / 2) ** 2 - float(np.median(variances)), FLOOR**2)
    weight = spread / (spread + variances)
    return centre + weight * (means - centre), np.sqrt(weight * variances)


def _agreement(table: PlacementTable) -> tuple[float, float]:
    """Return the correlation of the difficulty of images between placements, and between seeds of one placement."""
    rng = np.random.default_rng(0)
    wrong = ~np.concatenate([table.val, table.test], axis=2)
    train = np.nanmean(table.both, axis=1) >= TRAINS
    rows, seeds = np.nonzero(table.is_trained & train[:, None])
    between, within = [], []
    while len(between) < PAIRS or len(within) < PAIRS:
        one, other = rng.integers(0, len(rows), 2)
        if len(between) < PAIRS and rows[one] != rows[other]:
            between.append((wrong[rows[one], seeds[one]], wrong[rows[other], seeds[other]]))
        same = np.flatnonzero(rows == rows[one])
        partner = rng.choice(same)
        if len(within) < PAIRS and partner != one:
            within.append((wrong[rows[one], seeds[one]], wrong[rows[partner], seeds[partner]]))
    return _latent(between), _latent(within)


def _latent(pairs: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]]) -> float:
    """Return the mean correlation of the normal numbers whose excess makes two trainings err on the same images."""
    found = []
    for one, other in pairs:
        a, b, both = one.mean(), other.mean(), (one & other).mean()
        limits = [float(ndtri(a)), float(ndtri(b))]

        def gap(correlation: float, limits: list[float] = limits, both: float = both) -> float:
            joint = multivariate_normal.cdf(limits, [0, 0], [[1, correlation], [correlation, 1]])
            return float(joint) - both

        found.append(brentq(gap, 0.0, 0.999) if gap(0.0) < 0.0 < gap(0.999) else 0.0)
    return float(np.mean(found))
