"""TPE whose time per proposal does not grow with the search."""

from __future__ import annotations

import heapq
from collections.abc import Container
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

BEST = 25
"""Number of trials that TPE takes for the good ones, as soon as there are 250."""

NEWEST = 225
"""Number of further trials that it compares these with."""

LOOKED_AT = 2_000
"""Number of the newest trials among which the best ones are looked for."""

LONG, DRAWS = 1_000, 4
"""Number of trials from which on one look at them serves several proposals, since one more changes little; how many."""

_COMPLETE, _RUNNING = TrialState.COMPLETE, TrialState.RUNNING


class RecentTPE(TPESampler):
    """TPE over the best trials and the newest others.

    Source: Bergstra et al., NeurIPS 2011; multivariate as in Falkner et al., ICML 2018, arXiv:1807.01774.
    Departs: Optuna's takes all trials for the density of the poor ones, so that a proposal among 2,000 costs ten times
        one among 100; here it takes the newest of them. The good ones are the same. With several objectives it takes
        all. From 1,000 trials on, the two densities serve four proposals.
    """

    _space: dict[str, BaseDistribution] | None = None
    _n_left = 0

    @cached_property
    def _densities(self) -> dict[bool, _ParzenEstimator]:
        """The densities of the last look, the good trials' and the others'; the class's parameters stay Optuna's."""
        return {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are sampled together: all trials of a search have the same."""
        if not self._space:
            self._space = super().infer_relative_search_space(study, trial)
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return values for the parameters of a trial."""
        if self._n_left:
            self._n_left -= 1
            return self._drawn(search_space)
        if len(study.directions) > 1:
            return super().sample_relative(study, trial, search_space)
        seen = _Thinned(study)
        found: dict[str, Any] = super().sample_relative(seen, trial, search_space)  # type: ignore[arg-type]
        self._n_left = DRAWS - 1 if seen.n_trials >= LONG and not self._group else 0
        return found

    def _build_parzen_estimator(
        self, study: Study, search_space: dict[str, BaseDistribution], trials: list[FrozenTrial], handle_below: bool
    ) -> _ParzenEstimator:
        found = super()._build_parzen_estimator(study, search_space, trials, handle_below)
        self._densities[handle_below] = found
        return found

    def _drawn(self, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Return the best of some draws from the density of the good trials, as it was at the last look."""
        good, others = self._densities[True], self._densities[False]
        samples = good.sample(self._rng.rng, self._n_ei_candidates)
        best = self._compare(samples, self._compute_acquisition_func(samples, good, others))
        return {name: distribution.to_external_repr(best[name]) for name, distribution in search_space.items()}


class _Thinned:
    """A study of which the sampler sees a part of the finished trials."""

    def __init__(self, study: Study) -> None:
        self._study, self.n_trials = study, 0
        self._seen: tuple[Container[TrialState] | None, list[FrozenTrial]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        if self._seen is None or self._seen[0] != states:  # asked for several times within one proposal
            trials = self._study._get_trials(deepcopy=deepcopy, states=states, use_cache=use_cache)
            self.n_trials = len(trials)
            self._seen = (states, thinned(trials, self._study.direction))
        return self._seen[1]


def thinned(trials: list[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
    """Return the best trials, the newest others, and those that run, in their order; all if they are few."""
    if len(trials) <= BEST + NEWEST:
        return trials
    seen, newest = trials[-LOOKED_AT:-NEWEST], trials[-NEWEST:]
    choose = heapq.nlargest if direction == StudyDirection.MAXIMIZE else heapq.nsmallest
    values = [trial.values[0] if trial.state == _COMPLETE else None for trial in trials[-LOOKED_AT:]]
    complete = [(value, index) for index, value in enumerate(values) if value is not None]
    best = {index for _, index in choose(BEST, complete)}
    older = [trial for index, trial in enumerate(seen) if index in best or trial.state == _RUNNING]
    return [*older, *newest]
