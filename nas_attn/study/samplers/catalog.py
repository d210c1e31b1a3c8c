"""The samplers and schedulers of the search, as literal tables; creating one imports Optuna."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler


@dataclass(frozen=True)
class Sampler:
    """An algorithm that proposes placements.

    Args:
        about: One sentence for the help text.
        make: Returns Optuna's sampler for a seed, and for options by keyword.
        source: Returns the class or function whose parameters are the options; None has no options.
        is_for_several: Whether it can improve several objectives.
        enumerates: Whether it proposes every placement once, in a fixed order; `make` then draws nothing.
        takes_conditions: Whether `make` also takes `conditions`, those of the space (`BoundSpace.conditions`).
        most_parameters: Greatest number of searched parameters; None for any.
    """

    name: str
    about: str
    make: Callable[..., BaseSampler]
    source: Callable[[], Callable[..., Any]] | None = None
    is_for_several: bool = True
    enumerates: bool = False
    takes_conditions: bool = False
    most_parameters: int | None = None


@dataclass(frozen=True)
class Scheduler:
    """A rule that stops poor search trials early.

    Args:
        about: One sentence for the help text.
        make: Returns Optuna's pruner for the number of epochs of a full trial, and for options by keyword.
        source: Returns the class whose parameters are the options; None has no options.
        rungs: Returns the epochs at which the rule reads a trial's value, for the same arguments as `make`; None for
            every epoch.
    """

    name: str
    about: str
    make: Callable[..., BasePruner]
    source: Callable[[], Callable[..., Any]] | None = None
    rungs: Callable[..., tuple[int, ...] | None] = lambda epochs, **options: None


def _tpe_class() -> type[BaseSampler]:
    from nas_attn.study.samplers.recent_tpe import RecentTPE

    return RecentTPE


def _tpe(seed: int, **options: Any) -> BaseSampler:
    """Return the multivariate TPE: a space has many categorical parameters of few values each."""
    return _tpe_class()(**{"multivariate": True, "constant_liar": True, **options}, seed=seed)  # type: ignore[call-arg]


def _nsga2_class() -> type[BaseSampler]:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler


def _nsga2(seed: int, **options: Any) -> BaseSampler:
    return _nsga2_class()(**options, seed=seed)  # type: ignore[call-arg]


def _gp_class() -> type[BaseSampler]:
    from optuna.samplers import GPSampler

    return GPSampler


def _gp(seed: int, **options: Any) -> BaseSampler:
    return _gp_class()(**options, seed=seed)  # type: ignore[call-arg]


def _random(seed: int) -> BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def _qmc_class() -> type[BaseSampler]:
    from nas_attn.study.samplers.quasi_random import QuasiRandomSampler

    return QuasiRandomSampler


def _qmc(seed: int, **options: Any) -> BaseSampler:
    return _qmc_class()(**options, seed=seed)  # type: ignore[call-arg]


def _evolution_class() -> type[BaseSampler]:
    from nas_attn.study.samplers.evolution import EvolutionSampler

    return EvolutionSampler


def _evolution(seed: int, **options: Any) -> BaseSampler:
    return _evolution_class()(**options, seed=seed)  # type: ignore[call-arg]


def _placement_class() -> type[BaseSampler]:
    from nas_attn.study.samplers.placement_sampler import PlacementSampler

    return PlacementSampler


def _placement(seed: int, **options: Any) -> BaseSampler:
    return _placement_class()(**options, seed=seed)  # type: ignore[call-arg]


def _never(epochs: int) -> BasePruner:
    from optuna.pruners import NopPruner

    return NopPruner()


def _halving_class() -> type[BasePruner]:
    from optuna.pruners import SuccessiveHalvingPruner

    return SuccessiveHalvingPruner


def _halving(epochs: int, **options: Any) -> BasePruner:
    """Return successive halving at a quarter and at half of the epochs; the better half continues."""
    return _halving_class()(**_of_halving(epochs, options))


def _of_halving(epochs: int, options: Mapping[str, Any]) -> dict[str, Any]:
    return {"min_resource": max(1, math.ceil(epochs / 4)), "reduction_factor": 2, **options}


def _halving_rungs(epochs: int, **options: Any) -> tuple[int, ...] | None:
    return _powers(epochs, **_of_halving(epochs, options))


def _powers(epochs: int, *, min_resource: int | str, reduction_factor: int, **_: Any) -> tuple[int, ...] | None:
    """Return the epochs `min_resource * reduction_factor**k`; None if the first one is found while the search runs."""
    if not isinstance(min_resource, int):
        return None
    rungs = [min_resource]
    while rungs[-1] < epochs:
        rungs.append(rungs[-1] * reduction_factor)
    return tuple(rung for rung in rungs if rung <= epochs)


def _hyperband_class() -> type[BasePruner]:
    from optuna.pruners import HyperbandPruner

    return HyperbandPruner


def _hyperband(epochs: int, **options: Any) -> BasePruner:
    """Return Hyperband from a ninth of the epochs to all of them: brackets judge early to never."""
    return _hyperband_class()(**_of_hyperband(epochs, options))


def _of_hyperband(epochs: int, options: Mapping[str, Any]) -> dict[str, Any]:
    return {"min_resource": max(1, math.ceil(epochs / 9)), "max_resource": epochs, "reduction_factor": 3, **options}


def _hyperband_rungs(epochs: int, **options: Any) -> tuple[int, ...] | None:
    return _powers(epochs, **_of_hyperband(epochs, options))


def _median_class() -> type[BasePruner]:
    from optuna.pruners import MedianPruner

    return MedianPruner


def _median(epochs: int, **options: Any) -> BasePruner:
    """Return the median rule from a quarter of the epochs on."""
    return _median_class()(**{"n_warmup_steps": epochs // 4, **options})


SAMPLERS: Mapping[str, Sampler] = {
    sampler.name: sampler
    for sampler in (
        Sampler(
            "placement",
            "Gaussian process over placements, for few trainings.",
            _placement,
            _placement_class,
            takes_conditions=True,
            most_parameters=1_000,
        ),
        Sampler("tpe", "tree-structured Parzen estimator, multivariate.", _tpe, _tpe_class),
        Sampler("nsga2", "genetic algorithm NSGA-II.", _nsga2, _nsga2_class),
        Sampler("gp", "Gaussian process.", _gp, _gp_class),
        Sampler("random", "independent random placements.", _random),
        Sampler("qmc", "quasi-random placements.", _qmc, _qmc_class),
        Sampler("evolution", "regularised evolution: mutations of good placements.", _evolution, _evolution_class),
        Sampler("brute", "every placement once.", _random, enumerates=True),
    )
}

SCHEDULERS: Mapping[str, Scheduler] = {
    scheduler.name: scheduler
    for scheduler in (
        Scheduler("none", "every trial runs to its last epoch.", _never, rungs=lambda epochs, **options: ()),
        Scheduler(
            *("asha", "successive halving at a quarter and at half of the epochs.", _halving, _halving_class),
            _halving_rungs,
        ),
        Scheduler(
            *("hyperband", "Hyperband from a ninth of the epochs on.", _hyperband, _hyperband_class),
            _hyperband_rungs,
        ),
        Scheduler("median", "stops below the median, from a quarter of the epochs on.", _median, _median_class),
    )
}
