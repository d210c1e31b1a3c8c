"""A Gaussian process over categorical points, small enough to be fitted before every proposal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

INACTIVE = -1
"""Code of a parameter that has no effect in a point."""

_RANDOM_DISTANCE = 2.0
"""Expected exponent of the kernel between two random points, before any data: they are nearly independent."""

_NOISE = 0.1
"""Expected share of the noise in the variance of the values, before any data."""

_SPREADS = (0.8, 0.7, 1.0)
"""Standard deviations of the logarithms of weights, variance and noise, before any data."""

_JITTER = 1e-6


class Encoding:
    """Codes and features of points: the distance of two points is a weighted sum over parameters and counts.

    Two values of a parameter differ by 1; if all its values are numbers, by the distance of their ranks, 1 from the
    first to the last. A parameter without effect has no features. A count is the number of parameters that have a
    value, for each value that several parameters share, such as an attention: it tells how many sites have it, wherever
    they are. Parameters that another one can leave without effect are not counted.

    Args:
        choices: The values of each parameter.
        conditions: Parameter -> the parameter that decides whether it has an effect, and the values for which it has.
    """

    def __init__(
        self, choices: Mapping[str, Sequence[Any]], conditions: Mapping[str, tuple[str, frozenset[Any]]]
    ) -> None:
        self.names = tuple(choices)
        self.sizes = np.array([len(values) for values in choices.values()])
        self._choices = {name: list(values) for name, values in choices.items()}
        self._codes = {name: {value: code for code, value in enumerate(v)} for name, v in choices.items()}
        place = {name: index for index, name in enumerate(self.names)}
        self._conditions = [
            (place[name], place[parent], np.array([value in allowed for value in choices[parent]]))
            for name, (parent, allowed) in conditions.items()
            if name in place and parent in place
        ]
        self._tables = [_features(values) for values in self._choices.values()]
        self._counted = self._shared({index for index, _, _ in self._conditions})
        widths = [*(table.shape[1] for table in self._tables), *(len(places) for places, _ in self._counted)]
        halves = [1 / (2 if _is_nominal(values) else max(1, len(values) - 1)) for values in self._choices.values()]
        self._owners = np.repeat(np.arange(len(widths)), widths)
        self._scales = np.repeat([*halves, *(0.5 for _ in self._counted)], widths)
        self.n_weights = len(widths)

    def _shared(self, conditional: set[int]) -> list[tuple[Codes, Codes]]:
        """Return, for each value that several unconditional parameters have, their places and its codes there."""
        found: dict[tuple[bool, Any], list[tuple[int, int]]] = {}
        for index, values in enumerate(self._choices.values()):
            is_nominal = _is_nominal(values)
            for code, value in enumerate(values if index not in conditional else []):
                found.setdefault((is_nominal, value), []).append((index, code))
        pairs = [np.array(each) for each in found.values() if len(each) > 1]
        return [(each[:, 0], each[:, 1]) for each in pairs]

    def codes(self, points: Sequence[list[int]]) -> Codes:
        """Return the codes of points; parameters without effect are `INACTIVE`. Shape: (N, P).

        Args:
            points: As `row` returns them: the code of every parameter, with an effect or without.
        """
        return self.active(np.array(points, dtype=np.int64).reshape(len(points), len(self.names)))

    def row(self, params: Mapping[str, Any]) -> list[int] | None:
        """Return the code of every parameter, or None if one is missing or has an unknown value."""
        try:
            return [codes[params[name]] for name, codes in self._codes.items()]
        except KeyError:
            return None

    def active(self, codes: Codes) -> Codes:
        """Return the points with parameters that have no effect as `INACTIVE`. Shape: (N, P)."""
        found = codes.copy()
        for index, parent, allowed in self._conditions:
            found[~allowed[codes[:, parent]], index] = INACTIVE
        return found

    def params(self, codes: Sequence[int]) -> dict[str, Any]:
        """Return the parameters of a point; those without effect have their first value."""
        return {name: self._choices[name][max(code, 0)] for name, code in zip(self.names, codes, strict=True)}

    def random(self, number: int, rng: np.random.Generator) -> Codes:
        """Return random points. Shape: (number, P)."""
        return self.active(rng.integers(0, self.sizes, (number, len(self.sizes))))

    def features(self, codes: Codes) -> Floats:
        """Return the binary features of points: their weighted L1 distance is the distance. Shape: (N, F)."""
        parts = [table[codes[:, index]] for index, table in enumerate(self._tables)]
        for places, values in self._counted:
            number = (codes[:, places] == values).sum(axis=1)
            parts.append((number[:, None] > np.arange(len(places))).astype(float))
        return np.concatenate(parts, axis=1)

    def spread(self, weights: Floats) -> Floats:
        """Return the weight of each feature for the weights of parameters and counts. Shape: (W,) -> (F,)."""
        spread: Floats = weights[self._owners] * self._scales
        return spread

    def parts(self, features: Floats) -> Floats:
        """Return the distance of all pairs of points by parameter and count. Shape: (W, N, N)."""
        columns = [self._owners == index for index in range(self.n_weights)]
        return np.stack([_distances(features[:, own], features[:, own], self._scales[own]) for own in columns])


@dataclass(frozen=True)
class Process:
    """A Gaussian process with the kernel `variance * exp(-distance)`, fitted to standardised values.

    Args:
        weights: One per parameter and count.
        noise: Variance of a value's noise.
    """

    encoding: Encoding
    weights: Floats
    variance: float
    noise: float

    @classmethod
    def prior(cls, encoding: Encoding) -> Process:
        """Return the process before any data."""
        rng = np.random.default_rng(0)
        features = encoding.features(encoding.random(128, rng))
        mean = float(encoding.parts(features).sum(axis=0).mean())
        weights = np.full(encoding.n_weights, _RANDOM_DISTANCE / max(mean, 1e-9))
        return cls(encoding, weights, 1.0, _NOISE)

    def fitted(self, codes: Codes, values: Floats, start: Process | None = None) -> Process:
        """Return the most probable process for the points and their values, with this one as expectation.

        Args:
            start: Where the optimisation begins; None begins at this one.
        """
        parts = self.encoding.parts(self.encoding.features(codes))
        mean = self._logarithms()
        spreads = np.concatenate([np.full(len(mean) - 2, _SPREADS[0]), _SPREADS[1:]])
        begin = mean if start is None else start._logarithms()
        found = minimize(
            _negative_log_posterior,
            begin,
            args=(parts, values, mean, spreads),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 30},
        ).x
        *weights, variance, noise = np.exp(found)
        return Process(self.encoding, np.array(weights), float(variance), float(noise))

    def conditioned(self, codes: Codes, values: Floats) -> Posterior:
        """Return the process given these values. Shape: (N, P) and (N,)."""
        features = self.encoding.features(codes)
        kernel = self.kernel(features, features) + (self.noise + _JITTER) * np.eye(len(codes))
        root: Floats = np.asarray(np.linalg.cholesky(kernel), dtype=np.float64)
        solved: Floats = solve_triangular(root, values, lower=True)
        return Posterior(self, features, root, solved)

    def kernel(self, ours: Floats, theirs: Floats) -> Floats:
        """Return the covariance of the noiseless values of points, by their features. Shape: (N, M)."""
        covariances: Floats = self.variance * np.exp(-_distances(ours, theirs, self.encoding.spread(self.weights)))
        return covariances

    def _logarithms(self) -> Floats:
        return np.log([*self.weights, self.variance, self.noise])


@dataclass(frozen=True)
class Posterior:
    """A Gaussian process given values."""

    process: Process
    features: Floats
    root: Floats
    solved: Floats

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of the noiseless values of points. Shape: (N, P) -> (N,), (N,)."""
        kernel = self.process.kernel(self.features, self.process.encoding.features(codes))
        half = solve_triangular(self.root, kernel, lower=True)
        variances = np.maximum(self.process.variance - (half**2).sum(axis=0), 1e-12)
        return half.T @ self.solved, np.sqrt(variances)


def _negative_log_posterior(
    logarithms: Floats, parts: Floats, values: Floats, mean: Floats, spreads: Floats
) -> tuple[float, Floats]:
    """Return the negative logarithm of the posterior density of weights, variance and noise, with its gradient."""
    *weights, variance, noise = np.exp(logarithms)
    n = len(values)
    covariance = variance * np.exp(-np.tensordot(weights, parts, axes=1))
    try:
        factor = cho_factor(covariance + (noise + _JITTER) * np.eye(n), lower=True)
    except np.linalg.LinAlgError:
        return 1e10, np.zeros_like(logarithms)
    solved, inverse = cho_solve(factor, values), cho_solve(factor, np.eye(n))
    slope = 0.5 * (inverse - np.outer(solved, solved))
    by_kernel = slope * covariance
    gradient = np.concatenate(
        [
            -np.tensordot(parts, by_kernel, axes=2) * weights,
            [by_kernel.sum(), noise * np.trace(slope)],
        ]
    )
    distance = (logarithms - mean) / spreads
    loss = 0.5 * values @ solved + np.log(np.diag(factor[0])).sum() + 0.5 * (distance**2).sum()
    return float(loss), gradient + distance / spreads


def _distances(ours: Floats, theirs: Floats, weights: Floats) -> Floats:
    """Return the weighted L1 distance of binary features. Shape: (N, F), (M, F), (F,) -> (N, M)."""
    distances: Floats = (ours @ weights)[:, None] + (theirs @ weights)[None, :] - 2 * (ours * weights) @ theirs.T
    return np.maximum(distances, 0.0)


def _features(values: Sequence[Any]) -> Floats:
    """Return the features of each value of a parameter, and zeros at the end, for `INACTIVE`. Shape: (V + 1, F)."""
    number = len(values)
    if _is_nominal(values):
        return np.concatenate([np.eye(number), np.zeros((1, number))])
    ranks = np.argsort(np.argsort(np.array(values, dtype=float)))
    steps = (ranks[:, None] > np.arange(number - 1)[None, :]).astype(float)
    return np.concatenate([steps, np.zeros((1, steps.shape[1]))])


def _is_nominal(values: Sequence[Any]) -> bool:
    """Return whether the values of a parameter have no order: one of them is not a number."""
    return any(isinstance(value, bool) or not isinstance(value, int | float) for value in values)
