"""The samplers and schedulers of the search, as literal tables; creating one imports Optuna."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler


@dataclass(frozen=True)
class Sampler:
    """An algorithm that proposes placements.

    Args:
        about: One sentence for the help text.
        make: Returns Optuna's sampler for a seed.
    """

    name: str
    about: str
    make: Callable[[int], BaseSampler]


@dataclass(frozen=True)
class Scheduler:
    """A rule that stops poor search trials early.

    Args:
        about: One sentence for the help text.
        make: Returns Optuna's pruner for the number of epochs of a full trial.
    """

    name: str
    about: str
    make: Callable[[int], BasePruner]


def _tpe(seed: int) -> BaseSampler:
    """Return the multivariate TPE: a space has many categorical parameters of few values each."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _random(seed: int) -> BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def _nsga2(seed: int) -> BaseSampler:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed)


def _never(epochs: int) -> BasePruner:
    from optuna.pruners import NopPruner

    return NopPruner()


def _halving(epochs: int) -> BasePruner:
    """Return successive halving at a quarter and at half of the epochs; the better half continues."""
    from optuna.pruners import SuccessiveHalvingPruner

    return SuccessiveHalvingPruner(min_resource=max(1, math.ceil(epochs / 4)), reduction_factor=2)


SAMPLERS: Mapping[str, Sampler] = {
    sampler.name: sampler
    for sampler in (
        Sampler("tpe", "tree-structured Parzen estimator, multivariate.", _tpe),
        Sampler("random", "independent random placements.", _random),
        Sampler("nsga2", "genetic algorithm NSGA-II.", _nsga2),
    )
}

SCHEDULERS: Mapping[str, Scheduler] = {
    scheduler.name: scheduler
    for scheduler in (
        Scheduler("none", "every trial runs to its last epoch.", _never),
        Scheduler("asha", "successive halving at a quarter and at half of the epochs.", _halving),
    )
}
