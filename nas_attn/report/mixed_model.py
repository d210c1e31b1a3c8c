"""Bayesian regression on crossed factors, with every variance integrated out; it knows numbers only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

SHARES = ((0.0, 0.0), (0.4, 0.0), (0.8, 0.0), (0.0, 0.5), (0.4, 0.4))
"""Shares of an effect's variance that are common to its row and to its column; the rest belongs to the cell alone."""

MISFITS = (0.0, 0.3, 1.0, 3.0)
"""Variances of what a design point has beside its effects, in units of the noise variance."""

RATIOS: Array = np.geomspace(0.03, 10.0, 18)
"""Standard deviations r of the effects, in units of the noise; the prior's density is r / (1 + r^2)^1.5."""

EXCEPTIONAL = 3.0
"""Standard deviation of what an exceptional cell, row or column has beside the others, in units of the noise."""

MOST_EXCEPTIONS = 5
"""Largest number of exceptional cells, rows and columns."""

CONFIDENT = 0.95
"""Least probability that the signs of all effects called clear are right."""

_HOPELESS = 4.0  # an exception whose log odds are so much lower is not tried
_KEPT = 0.99  # part of the posterior probability whose components are kept
_WIDTH = 8.0  # standard deviations on each side between which a quantile is looked for,
_STEPS = 22  # and how often that interval is halved
_KNOTS: Array = np.sinh(np.linspace(-8.0, 8.0, 4001))  # where Student's distribution is tabulated


@dataclass(frozen=True)
class Design:
    """Observations of sums of effects.

    Args:
        values: (N,) observations.
        points: (N,) the design point of each; observations of one point are replicates.
        active: (P, K) which of the K effects each design point contains.
        blocks: (P,) block of each design point; each block has a mean of its own.
        rows, columns: (K,) the two crossed factors of each effect.
    """

    values: Array
    points: Indices
    active: Array
    blocks: Indices
    rows: Indices
    columns: Indices


@dataclass(frozen=True)
class Posterior:
    """Posterior of the effects: a mixture of Student t distributions with common degrees of freedom.

    Args:
        weights: (M,) probabilities of the components.
        means, sds: (M, K) location and scale of each effect.
        gains: (M, K) prior over posterior standard deviation of each effect.
        degrees: Degrees of freedom.
        noise_sd: Standard deviation of one observation around the sum of its effects; posterior mean.
        effect_sd: Root of the mean square of the effects; posterior mean.
    """

    weights: Array
    means: Array
    sds: Array
    gains: Array
    degrees: int
    noise_sd: float
    effect_sd: float

    @property
    def mean(self) -> Array:
        """(K,) posterior means."""
        return np.asarray(self.weights @ self.means)

    @property
    def odds_of_noise(self) -> float:
        """What is unknown of the effects' variance over what is known, averaged over the effects: the median."""
        known = 1.0 - (self.gains**-2.0).mean(axis=1)
        order = np.argsort(known)
        middle = int(np.searchsorted(np.cumsum(self.weights[order]), 0.5))
        return float(1.0 / known[order][min(middle, len(order) - 1)] - 1.0)

    def below(self, limits: Array) -> Array:
        """Return the (K,) posterior probabilities that each effect lies below its limit; within 1e-6."""
        return np.asarray(self.weights @ np.interp((limits - self.means) / self.sds, _KNOTS, _at_knots(self.degrees)))

    def quantile(self, probability: float) -> Array:
        """Return the (K,) posterior quantiles, by bisection."""
        spread = np.sqrt(self.weights @ (self.sds**2 + (self.means - self.mean) ** 2))
        low, high = self.mean - _WIDTH * spread, self.mean + _WIDTH * spread
        for _ in range(_STEPS):
            middle = (low + high) / 2.0
            is_left = self.below(middle) < probability
            low, high = np.where(is_left, middle, low), np.where(is_left, high, middle)
        return np.asarray((low + high) / 2.0)

    def doubts(self) -> Array:
        """Return the (K,) probabilities that an effect is nothing, or has the other sign than its mean.

        The share of effects that are nothing is estimated from all of them, and is at least one half; so the more
        effects a table has, the more evidence one of them needs.

        Source: Scott and Berger, Annals of Statistics 38 (2010); Stephens, Biostatistics 18 (2017).
        """
        odds, left = self._odds_of_zero(), self.below(np.zeros_like(self.mean))
        nothing, share = np.zeros_like(odds), 0.5
        for _ in range(50):
            nothing = share * odds / (share * odds + 1.0 - share)
            share = max(0.5, float(nothing.sum() + 1.0) / (len(odds) + 2.0))
        return np.asarray(nothing + (1.0 - nothing) * np.minimum(left, 1.0 - left))

    def clear(self) -> NDArray[np.bool_]:
        """Return which of the K effects have a sign that is known: together they are right with `CONFIDENT`."""
        doubts = self.doubts()
        order = np.argsort(doubts)
        found = np.zeros(len(doubts), dtype=bool)
        found[order[np.cumsum(doubts[order]) <= 1.0 - CONFIDENT]] = True
        return found

    def _odds_of_zero(self) -> Array:
        """Return the (K,) Bayes factors of "this effect is exactly zero" over "it is drawn as the others are".

        Source: the Savage-Dickey ratio, Dickey, Annals of Mathematical Statistics 42 (1971), with the noise integrated.
        """
        squares = (self.means / self.sds) ** 2
        ratios = self.gains * (1.0 + squares / self.degrees) ** (-self.degrees / 2.0)
        return np.asarray(self.weights @ ratios)


@lru_cache(maxsize=8)
def _at_knots(degrees: int) -> Array:
    from scipy.special import stdtr  # on use: it takes long to load

    return np.asarray(stdtr(degrees, _KNOTS))


def fit(design: Design) -> Posterior | None:
    """Return the posterior of the effects, or None if there is nothing to estimate the noise from.

    value = mean of the block + sum of the point's effects + misfit of the point + noise, all normal. An effect is the
    sum of one part for its row, one for its column, and its own. The variances of these parts, of the misfit and of
    the noise are unknown: the noise has Jeffreys' prior, the others those of `RATIOS`, `SHARES` and `MISFITS`, and all
    are integrated out, so that intervals include their uncertainty. Few cells, rows or columns may be exceptional, with
    a part of their own of sd `EXCEPTIONAL`, so that one large effect among small ones is not drawn towards them: t of C
    with the probability 2^-(t + 1) / binomial(C, t). They are found one by one, and all numbers of them averaged.

    How the design points were chosen does not matter as long as the choice used nothing but earlier values.

    Source: Lindley and Smith, Journal of the Royal Statistical Society B 34 (1972); a prior of the ratio that vanishes
    at 0: Chung et al., Psychometrika 78 (2013).
    Cost: one singular value decomposition of (P, K) numbers per share, misfit and number of exceptions.
    """
    sums = _Sums.of(design)
    if sums.degrees < 2 or np.ptp(design.values) == 0.0:
        return None
    candidates = _candidates(design)
    exceptions, parts, best = candidates[:0], list[_Part](), -np.inf
    while True:
        found = given(design, exceptions)
        prior = _log_prior(len(exceptions), len(candidates))
        parts += [replace(part, logs=part.logs + prior) for part in found]
        total = float(np.logaddexp.reduce(np.concatenate([part.logs for part in found]))) + prior
        best = max(best, total)
        if total < best - _HOPELESS or len(exceptions) == min(MOST_EXCEPTIONS, len(candidates)):
            return _joined(parts, sums.degrees)
        scores = max(found, key=lambda part: float(part.logs.max())).scores(candidates)
        next_prior = _log_prior(len(exceptions) + 1, len(candidates))
        if scores.max() + next_prior - prior + total < best - _HOPELESS:
            return _joined(parts, sums.degrees)
        exceptions = np.vstack([exceptions, candidates[int(np.argmax(scores))]])


def _log_prior(n_exceptions: int, n_candidates: int) -> float:
    return -(n_exceptions + 1) * math.log(2.0) - math.log(math.comb(n_candidates, n_exceptions))


def _candidates(design: Design) -> Array:
    """Return what may be exceptional, (C, K) zeros and ones: cells, and rows and columns of more than one cell."""
    cells = np.eye(len(design.rows))
    lines = [np.unique(axis)[:, None] == axis for axis in (design.rows, design.columns)]
    joined = np.vstack([cells, *lines]).astype(float)
    return np.asarray(np.unique(joined, axis=0))


def _joined(parts: Sequence[_Part], degrees: int) -> Posterior:
    logs = np.concatenate([part.logs for part in parts])
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    order = np.argsort(-weights)
    kept = order[: int(np.searchsorted(np.cumsum(weights[order]), _KEPT)) + 1]
    weights = weights[kept] / weights[kept].sum()
    means, sds, gains = (
        np.concatenate([getattr(part, name) for part in parts])[kept] for name in ("means", "sds", "gains")
    )
    noise = float(weights @ np.concatenate([part.noises for part in parts])[kept])
    effect_sd = math.sqrt(float(weights @ (means**2 + sds**2).mean(axis=1)))
    return Posterior(weights, means, sds, gains, degrees, noise, effect_sd)


def given(design: Design, exceptions: Array) -> list[_Part]:
    """Return the components of the posterior given the (T, K) exceptions."""
    sums = _Sums.of(design)
    misfits = MISFITS if sums.counts.max() > 1 else MISFITS[:1]
    return [_Part.of(_Whitened.of(design, sums, share, misfit, exceptions)) for share in SHARES for misfit in misfits]


@dataclass(frozen=True)
class _Sums:
    """Means and sizes of the design points, the squares within them, and the degrees of freedom."""

    means: Array
    counts: Array
    within: float
    degrees: int

    @classmethod
    def of(cls, design: Design) -> _Sums:
        counts = np.bincount(design.points).astype(float)
        means = np.bincount(design.points, design.values) / counts
        within = float(((design.values - means[design.points]) ** 2).sum())
        return cls(means, counts, within, len(design.values) - len(np.unique(design.blocks)))


@dataclass(frozen=True)
class _Whitened:
    """The regression in units of the noise: T rows more, one per exception, state its prior.

    Args:
        points: (P + T, K) what each point contains, weighted.
        x, y: (P + T, K), (P + T,) standardised effects and values, weighted.
        fixed: (P + T, G + T) means of blocks, and exceptions.
        factor: (K, K) effects from standardised effects.
        exceptions: (T, K) zeros and ones.
        volume: Logarithm of the Jacobian.
        sums: Squares within the points, degrees of freedom.
        misfit: Variance of a point's misfit.
    """

    points: Array
    x: Array
    y: Array
    fixed: Array
    factor: Array
    exceptions: Array
    volume: float
    sums: _Sums
    misfit: float

    @classmethod
    def of(cls, design: Design, sums: _Sums, share: tuple[float, float], misfit: float, exceptions: Array) -> _Whitened:
        n = len(exceptions)
        weights = 1.0 / (misfit + 1.0 / sums.counts)
        root = np.sqrt(weights)[:, None]
        points = np.vstack([root * design.active, np.zeros((n, design.active.shape[1]))])
        blocks = root * (design.blocks[:, None] == np.unique(design.blocks))
        stated = np.vstack([root * (design.active @ exceptions.T), np.eye(n) / EXCEPTIONAL])
        fixed = np.hstack([np.vstack([blocks, np.zeros((n, blocks.shape[1]))]), stated])
        factor = _factor(design.rows, design.columns, share)
        volume = float(np.log(weights).sum()) / 2.0 - n * math.log(EXCEPTIONAL)
        y = np.concatenate([root[:, 0] * sums.means, np.zeros(n)])
        return cls(points, points @ factor, y, fixed, factor, exceptions, volume, sums, misfit)

    def from_fixed(self, triangle: Array) -> Array:
        """Return the (K, G + T) effects of one standardised fixed effect; `triangle` is R of their QR decomposition."""
        blocks = np.zeros((len(self.factor), len(triangle) - len(self.exceptions)))
        return np.asarray(np.linalg.solve(triangle.T, np.hstack([blocks, self.exceptions.T]).T).T)


@dataclass(frozen=True)
class _Part:
    """The components of one share and misfit, one for each of R ratios, with m directions of the data.

    Args:
        logs, noises, squares: (R,) log probabilities, standard deviations of the noise, and sums of squares.
        means, sds, gains: (R, K) as of `Posterior`.
        kept, seen: (R, m) and (m,) part of each direction that is signal, and its value.
        left, basis: Directions of the random and of the fixed effects, in the rows of `source`.
        residual: Values without the fixed effects.
    """

    logs: Array
    means: Array
    sds: Array
    gains: Array
    noises: Array
    squares: Array
    kept: Array
    seen: Array
    left: Array
    residual: Array
    source: _Whitened
    basis: Array

    @classmethod
    def of(cls, source: _Whitened) -> _Part:
        sums, ratios = source.sums, RATIOS[:, None] ** 2
        basis, triangle = np.linalg.qr(source.fixed)
        inner = basis.T @ source.x
        x, y = source.x - basis @ inner, source.y - basis @ (basis.T @ source.y)
        left, scales, right = np.linalg.svd(x, full_matrices=False)
        seen = left.T @ y
        gains = ratios * scales**2  # (R, m) signal over noise of each direction
        kept = gains / (1.0 + gains)
        squares = y @ y + sums.within - kept @ seen**2
        squares = np.maximum(squares, 1e-12 * (y @ y + sums.within))
        volume = source.volume - np.log(np.abs(np.diag(triangle))).sum()
        logs = volume - np.log1p(gains).sum(axis=1) / 2.0 - sums.degrees / 2.0 * np.log(squares)
        logs += 2.0 * np.log(RATIOS) - 1.5 * np.log1p(RATIOS**2)  # the prior, on a logarithmic grid
        back = source.from_fixed(triangle)
        direct = source.factor - back @ inner
        loads = direct @ right.T
        inverse = np.divide(kept, scales, out=np.zeros_like(kept), where=scales > 1e-9)
        noise = squares / sums.degrees
        variances = ratios * np.maximum((direct**2).sum(axis=1) - kept @ (loads**2).T, 1e-12) + (back**2).sum(axis=1)
        priors = ratios + EXCEPTIONAL**2 * source.exceptions.sum(axis=0)
        return cls(
            logs,
            (inverse * seen) @ loads.T + back @ (basis.T @ source.y),
            np.sqrt(variances * noise[:, None]),
            np.sqrt(priors / variances),
            np.sqrt(noise * (1.0 + source.misfit)),
            squares,
            kept,
            seen,
            left,
            y,
            source,
            basis,
        )

    def scores(self, candidates: Array) -> Array:
        """Return the (C,) log Bayes factors of one more exception, at the most probable ratio."""
        best = int(np.argmax(self.logs))
        z = self.source.points @ candidates.T
        z = z - self.basis @ (self.basis.T @ z)
        along, kept = self.left.T @ z, self.kept[best]
        signal = z.T @ self.residual - along.T @ (kept * self.seen)
        sharpness = np.maximum((z**2).sum(axis=0) - kept @ along**2, 0.0)
        gain = signal**2 / (sharpness + EXCEPTIONAL**-2.0) / self.squares[best]
        degrees = self.source.sums.degrees
        return np.asarray(
            -0.5 * np.log1p(EXCEPTIONAL**2 * sharpness) - degrees / 2.0 * np.log(np.maximum(1.0 - gain, 1e-12))
        )


def _factor(rows: Indices, columns: Indices, share: Sequence[float]) -> Array:
    """Return a (K, K) factor of the effects' correlations."""
    same_row, same_column = rows[:, None] == rows, columns[:, None] == columns
    own = np.eye(len(rows))
    correlations: Any = share[0] * same_row + share[1] * same_column + (1.0 - sum(share)) * own
    return np.asarray(np.linalg.cholesky(correlations))
