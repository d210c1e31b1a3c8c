"""A sampler for few trainings: a Gaussian process over placements, as an Optuna sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtri
from scipy.stats import norm, rankdata

from nas_attn.study.samplers.categorical import categorical
from nas_attn.study.samplers.process import Codes, Encoding, Floats, Posterior, Process

Point = tuple[int, ...]

_RANDOM_CANDIDATES = 500
_BEST = 10
"""Number of best points around which candidates are drawn."""
_ONE_CHANGE = 1_000
"""Greatest number of candidates with one changed parameter."""
_TWO_CHANGES = 30
"""Number of candidates with two changed parameters for each of the best points."""
_MOST_POINTS = 240
"""Greatest number of points of the process: the best two thirds of it, and the newest of the others."""


class PlacementSampler(BaseSampler):
    """Proposes the point with the greatest expected improvement under a Gaussian process over categorical parameters.

    The kernel compares points parameter by parameter: equal values are alike, other values are not, and numbers are
    the more alike the nearer their ranks are. It also compares how many parameters have each value, so that what is
    found of an attention at one site says something of the other sites. The weights of all these comparisons and the
    noise come from the values. Values enter by their ranks, so that a single failed training does not hide the
    differences among good ones. Running trials count as if they had their expected value (kriging believer), so several
    workers get different points. With several objectives each proposal improves a random weighting of their ranks
    (ParEGO).

    Source: the kernel is that of Ru et al., ICML 2020, arXiv:1906.08878 (CoCaBO), as a product over parameters;
    expected improvement and kriging believer: Ginsbourger et al., 2010, doi:10.1007/978-3-642-10701-6_6; random
    weights: Knowles, 2006, doi:10.1109/TEVC.2005.851274.

    Args:
        seed: Seeds all draws.
        n_startup: Number of distinct complete points before the process is used; until then points are random.
        conditions: Parameter -> the parameter that decides whether it has an effect, and the values for which it has:
            `BoundSpace.conditions`. Points that differ only in parameters without effect are the same point.
        independent_sampler: Draws parameters that are not categorical, or that not all trials have; None draws them
            at random.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        n_startup: int = 6,
        conditions: Mapping[str, tuple[str, frozenset[Any]]] | None = None,
        independent_sampler: BaseSampler | None = None,
    ) -> None:
        if n_startup < 1:
            raise ValueError(f"n_startup >= 1 must hold, but got {n_startup}.")
        self._rng = np.random.default_rng(seed)
        self._independent = independent_sampler or RandomSampler(seed=seed)
        self._space = IntersectionSearchSpace()
        self._n_startup, self._conditions = n_startup, conditions or {}
        self._fitted: dict[tuple[str, ...], tuple[int, Process]] = {}
        self._kept: dict[tuple[str, ...], dict[int, tuple[FrozenTrial, Point | None]]] = {}

    def reseed_rng(self) -> None:
        """Draw from now on with a fresh seed; Optuna calls it in each of several threads."""
        self._rng = np.random.default_rng()
        self._independent.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the categorical parameters that all complete trials have, without those with a single value."""
        return categorical(self._space.calculate(study))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the proposed point; parameters that are not categorical come from the independent sampler."""
        proposed = self._proposed(study, trial, search_space)
        return {
            name: proposed[name] if name in proposed else self.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        }

    def _proposed(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the proposed values of the categorical parameters; nothing while there are few trials."""
        choices = {name: one.choices for name, one in search_space.items() if isinstance(one, CategoricalDistribution)}
        if not choices:
            return {}
        encoding = Encoding(choices, self._conditions)
        values, running = self._points(study, trial, encoding)
        if len([value for value in values.values() if value is not None]) < self._n_startup:
            return {}
        codes, scores = _chosen(values, self._weighted(values, len(study.directions)))
        posterior = self._posterior(encoding, codes, scores, [point for point in running if point not in values])
        found = self._best(posterior, encoding, codes, scores, {*values, *running})
        return {} if found is None else encoding.params(found)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a value from the independent sampler."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Pass the call on to the independent sampler."""
        self._independent.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Pass the call on to the independent sampler."""
        self._independent.after_trial(study, trial, state, values)

    def _points(
        self, study: Study, trial: FrozenTrial, encoding: Encoding
    ) -> tuple[dict[Point, Floats | None], list[Point]]:
        """Return the points with their mean values, greater is better, and the running ones.

        A stopped trial has no value of a full training: its point has None, which ranks last.
        """
        signs = np.array([1.0 if one == StudyDirection.MAXIMIZE else -1.0 for one in study.directions])
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        rows = study.get_trials(deepcopy=False, states=states)
        found: dict[Point, list[Floats]] = {}
        stopped: dict[Point, None] = {}
        running: dict[Point, None] = {}
        for row, point in zip(rows, self._coded(rows, encoding), strict=True):
            if point is None:
                continue  # of an earlier form of the space
            if row.state == TrialState.COMPLETE:
                found.setdefault(point, []).append(signs * row.values)
            elif row.state == TrialState.PRUNED:
                stopped[point] = None
            elif row.number != trial.number:
                running[point] = None
        values: dict[Point, Floats | None] = {
            point: several[0] if len(several) == 1 else np.mean(several, axis=0) for point, several in found.items()
        }
        values |= {point: None for point in stopped if point not in found and point not in running}
        return values, [point for point in running if point not in found]

    def _coded(self, rows: Sequence[FrozenTrial], encoding: Encoding) -> list[Point | None]:
        """Return the points of trials; those of finished trials are kept, because Optuna returns the same objects."""
        kept = self._kept.setdefault(encoding.names, {})
        new = [row for row in rows if row.number not in kept or kept[row.number][0] is not row]
        codes = [(row, encoding.row(row.params)) for row in new]
        known = [(row, code) for row, code in codes if code is not None]
        points = map(tuple, encoding.codes([code for _, code in known]).tolist())
        kept |= {row.number: (row, None) for row in new}
        kept |= {row.number: (row, point) for (row, _), point in zip(known, points, strict=True)}
        return [kept[row.number][1] for row in rows]

    def _weighted(self, values: Mapping[Point, Floats | None], n_objectives: int) -> Floats:
        """Return one score per point: its value, or its worst weighted rank among several objectives; -inf if none."""
        whole = [value for value in values.values() if value is not None]
        ranks = np.array([_ranks(column) for column in np.array(whole).T]).T  # (N, objectives)
        if n_objectives > 1:
            weights = self._rng.dirichlet(np.ones(n_objectives))
            away = weights * (1.0 - ranks)
            scores = iter(-(away.max(axis=1) + 0.05 * away.sum(axis=1)))
        else:
            scores = iter(ranks[:, 0])
        return np.array([-np.inf if value is None else next(scores) for value in values.values()])

    def _posterior(self, encoding: Encoding, codes: Codes, scores: Floats, running: list[Point]) -> Posterior:
        """Return the process given the scores, with the running points at their expected scores."""
        process = self._process(encoding, codes, scores)
        posterior = process.conditioned(codes, scores)
        if not running:
            return posterior
        pending = np.array(running)
        believed, _ = posterior.predict(pending)
        return process.conditioned(np.vstack([codes, pending]), np.concatenate([scores, believed]))

    def _process(self, encoding: Encoding, codes: Codes, scores: Floats) -> Process:
        """Return the fitted process; with many points it is fitted again only when a twentieth of them is new."""
        n_points = len(codes)
        n_before, before = self._fitted.get(encoding.names, (0, None))
        if before is None or n_points >= n_before + max(1, n_points // 20) or n_points < n_before:
            fitted = Process.prior(encoding).fitted(codes, scores, before)
            self._fitted[encoding.names] = (n_points, fitted)
            return fitted
        return Process(encoding, before.weights, before.variance, before.noise)

    def _best(
        self, posterior: Posterior, encoding: Encoding, codes: Codes, scores: Floats, known: set[Point]
    ) -> Point | None:
        """Return the untried candidate with the greatest expected improvement; None if every candidate is known."""
        candidates = dict.fromkeys(map(tuple, self._candidates(encoding, codes, scores).tolist()))
        points = [point for point in candidates if point not in known]
        if not points:
            return None
        untried = np.array(points)
        means, deviations = posterior.predict(untried)
        best = posterior.predict(codes)[0].max()
        distances = (means - best) / deviations
        gains = deviations * (distances * norm.cdf(distances) + norm.pdf(distances))
        return points[int(np.argmax(gains))]

    def _candidates(self, encoding: Encoding, codes: Codes, scores: Floats) -> Codes:
        """Return random points, and the best points with one or two changed parameters; some may be equal."""
        best = np.maximum(codes[np.argsort(-scores, kind="stable")[:_BEST]], 0)
        n_parameters = len(encoding.sizes)
        one = self._one_changed(best, encoding.sizes)
        two = np.repeat(best, _TWO_CHANGES, axis=0)
        for _ in range(2):
            changed = self._rng.integers(0, n_parameters, len(two))
            two[np.arange(len(two)), changed] = self._rng.integers(0, encoding.sizes[changed])
        return np.vstack([encoding.random(_RANDOM_CANDIDATES, self._rng), encoding.active(one), encoding.active(two)])

    def _one_changed(self, best: Codes, sizes: Codes) -> Codes:
        """Return the points with each value of each parameter; a random part of them if there are many."""
        steps = np.array([(index, value) for index, size in enumerate(sizes) for value in range(size)])
        chosen = np.arange(len(best) * len(steps))
        if len(chosen) > _ONE_CHANGE:
            chosen = self._rng.choice(chosen, _ONE_CHANGE, replace=False)
        changed = best[chosen // len(steps)]
        changed[np.arange(len(chosen)), steps[chosen % len(steps), 0]] = steps[chosen % len(steps), 1]
        return changed


def _chosen(values: Mapping[Point, Floats | None], scores: Floats) -> tuple[Codes, Floats]:
    """Return the points that the process is fitted to, with their scores as those of a normal distribution."""
    codes = np.array(list(values))
    if len(codes) > _MOST_POINTS:
        order = np.argsort(-scores, kind="stable")
        n_best = _MOST_POINTS * 2 // 3
        newest = np.sort(order[n_best:])[n_best - _MOST_POINTS :]
        kept = np.sort(np.concatenate([order[:n_best], newest]))
        codes, scores = codes[kept], scores[kept]
    return codes, ndtri((_ranks(scores) * len(scores) + 0.5) / (len(scores) + 1.0))


def _ranks(values: Floats) -> Floats:
    """Return the share of the other values that each one exceeds, counting ties half. Shape: (N,) -> (N,)."""
    ranks: Floats = (rankdata(values) - 1) / max(1, len(values) - 1)
    return ranks
