"""Quasi-random placements, as an Optuna sampler: they fill the space more evenly than random ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_attn.study.samplers.categorical import categorical

if TYPE_CHECKING:
    from scipy.stats.qmc import QMCEngine


class QuasiRandomSampler(BaseSampler):
    """Draws the categorical parameters of one trial after the other from a low-discrepancy sequence.

    Source: Bergstra and Bengio, JMLR 13 (2012), section 4; the sequences are those of scipy.
    Departs: Optuna's `QMCSampler` draws categorical parameters at random; here each dimension of the sequence is cut
    into as many equal parts as its parameter has choices. Numeric parameters are drawn at random here.

    Args:
        seed: Seeds the scrambling.
        qmc_type: The sequence.
        scramble: Whether the sequence is scrambled; without that, each seed draws the same.
    """

    def __init__(
        self, *, seed: int | None = None, qmc_type: Literal["sobol", "halton"] = "sobol", scramble: bool = True
    ) -> None:
        self._seed, self._type, self._scramble = seed, qmc_type, scramble
        self._independent = RandomSampler(seed=seed)
        self._engine: QMCEngine | None = None
        self._names: tuple[str, ...] = ()

    def reseed_rng(self) -> None:
        """Draw numeric parameters from now on with a fresh seed; Optuna calls it in each of several processes."""
        self._independent.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the categorical parameters with which the study began."""
        first = next((row for row in study.get_trials(deepcopy=False) if row.state.is_finished()), None)
        return categorical(first.distributions if first is not None else {})

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the choices at the next point of the sequence."""
        if not search_space:
            return {}
        point = self._sequence(tuple(search_space)).random(1)[0]
        drawn = {}
        for (name, distribution), share in zip(search_space.items(), point, strict=True):
            assert isinstance(distribution, CategoricalDistribution), "`infer_relative_search_space` takes only these"
            n_choices = len(distribution.choices)
            drawn[name] = distribution.choices[min(int(share * n_choices), n_choices - 1)]
        return drawn

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random value."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _sequence(self, names: tuple[str, ...]) -> QMCEngine:
        """Return the sequence over these parameters; it begins anew where they change."""
        if self._engine is None or names != self._names:
            from scipy.stats import qmc

            kind = qmc.Sobol if self._type == "sobol" else qmc.Halton
            self._engine, self._names = kind(d=len(names), scramble=self._scramble, rng=self._seed), names
        return self._engine
