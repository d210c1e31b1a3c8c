"""Regularised evolution over placements, as an Optuna sampler."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

ATTENTION = ".attention"
"""End of the name of the parameter that chooses the attention of a decision; others with its start are options."""

Key = tuple[tuple[str, str], ...]
"""What tells the parameters of two trials apart."""

_TRIES = 20
"""Number of mutations of one parent that are drawn until one has not been tried."""


class EvolutionSampler(BaseSampler):
    """Proposes mutations of good trials: the best of a random few of the newest trials is changed in few parameters.

    Source: Real et al., AAAI 2019, arXiv:1802.01548 (regularised evolution: the oldest trials leave the population).
    Departs: a population is the newest complete trials, so that it is the same with any number of workers; several
    parameters may change at once; an option of an attention that the parent does not have stays as it is, because it
    changes nothing; a mutation that was tried is drawn again; with several objectives a parent is one that no other of
    its tournament dominates.

    Args:
        seed: Seeds all draws.
        population_size: Number of the newest complete trials among which parents are chosen; until there are as many,
            trials are drawn at random.
        tournament_size: Number of them that are drawn for each parent; 1 chooses parents at random.
        mutation_prob: Probability that a parameter changes beside the one that always does.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        population_size: int = 20,
        tournament_size: int = 5,
        mutation_prob: float = 0.05,
    ) -> None:
        if population_size < 2:
            raise ValueError(f"population_size >= 2 must hold, but got {population_size}.")
        if not 1 <= tournament_size <= population_size:
            raise ValueError(
                f"1 <= tournament_size <= population_size must hold, but got {tournament_size} and {population_size}."
            )
        if not 0 <= mutation_prob <= 1:
            raise ValueError(f"0 <= mutation_prob <= 1 must hold, but got {mutation_prob}.")
        self._random = random.Random(seed)
        self._independent = RandomSampler(seed=seed)
        self._space = IntersectionSearchSpace()
        self._keys: dict[int, Key] = {}
        self._size, self._tournament, self._mutation = population_size, tournament_size, mutation_prob

    def reseed_rng(self) -> None:
        """Draw from now on with a fresh seed; Optuna calls it in each of several processes."""
        self._random.seed()
        self._independent.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that all complete trials have, without those that have a single value."""
        found = self._space.calculate(study)
        return {name: distribution for name, distribution in found.items() if not distribution.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a mutation of a parent; while the population is small, random values."""
        if not search_space:
            return {}
        population = [
            row
            for row in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if all(_fits(row, name, distribution) for name, distribution in search_space.items())
        ][-self._size :]
        if len(population) < self._size:
            draw = self._independent.sample_independent
            return {name: draw(study, trial, name, distribution) for name, distribution in search_space.items()}
        parent = self._parent(study, population)
        known = self._tried(study)
        values = {name: parent.params[name] for name in search_space}
        child = values
        for _ in range(_TRIES):
            child = self._mutated(values, search_space, study, trial)
            if _key({**parent.params, **child}) not in known:
                break
        return child

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random value."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _parent(self, study: Study, population: list[FrozenTrial]) -> FrozenTrial:
        """Return the winner of a tournament."""
        drawn = self._random.sample(population, self._tournament)
        signs = [1.0 if direction == StudyDirection.MINIMIZE else -1.0 for direction in study.directions]
        losses = {row.number: [sign * value for sign, value in zip(signs, row.values, strict=True)] for row in drawn}
        best = [
            row for row in drawn if not any(_dominates(losses[other.number], losses[row.number]) for other in drawn)
        ]
        return self._random.choice(best) if len(signs) > 1 else min(best, key=lambda row: -row.number)

    def _mutated(
        self, values: Mapping[str, Any], space: Mapping[str, BaseDistribution], study: Study, trial: FrozenTrial
    ) -> dict[str, Any]:
        """Return the values with one parameter changed that has an effect, and others by chance."""
        with_effect = [name for name in space if has_effect(name, values)]
        always = self._random.choice(with_effect or [*space])
        child = dict(values)
        for name, distribution in space.items():
            if name == always or self._random.random() < self._mutation:
                others = distribution.choices if isinstance(distribution, CategoricalDistribution) else ()
                drawn = self._independent.sample_independent(study, trial, name, distribution) if not others else None
                child[name] = self._random.choice([one for one in others if one != values[name]]) if others else drawn
        return child

    def _tried(self, study: Study) -> set[Key]:
        """Return what tells the trials of a study apart; those of an ended trial do not change."""
        tried = set()
        for row in study.get_trials(deepcopy=False):
            key = self._keys.get(row.number) or _key(row.params)
            if row.state.is_finished():
                self._keys[row.number] = key
            tried.add(key)
        return tried


@lru_cache(maxsize=64)
def _choosers(names: tuple[str, ...]) -> dict[str, tuple[str, str | None]]:
    """Return, for each option of a decision, the parameter that chooses its attention, and the option's attention.

    The attention is None for an option of all attentions, such as the position.
    """
    starts = sorted((name.removesuffix("attention") for name in names if name.endswith(ATTENTION)), key=len)
    found: dict[str, tuple[str, str | None]] = {}
    for start in starts:  # the longest start of a name is that of its decision
        for name in names:
            if name.startswith(start) and name != f"{start}attention":
                attention, _, option = name.removeprefix(start).partition(".")
                found[name] = (f"{start}attention", attention if option else None)
    return found


def has_effect(name: str, values: Mapping[str, Any]) -> bool:
    """Return whether a parameter of a placement changes it: options of an attention that is not chosen do not.

    >>> values = {"stage1.attention": "se", "stage1.se.reduction": 4, "stage1.cbam.reduction": 8}
    >>> [has_effect(name, values) for name in values]
    [True, True, False]
    """
    chooser, attention = _choosers(tuple(values)).get(name, (None, None))
    if chooser is None:
        return True
    return bool(values[chooser] != "none" if attention is None else values[chooser] == attention)


def _fits(row: FrozenTrial, name: str, distribution: BaseDistribution) -> bool:
    return name in row.params and bool(distribution._contains(distribution.to_internal_repr(row.params[name])))


def _key(params: Mapping[str, Any]) -> Key:
    """Return what tells two sets of parameters apart; values without an effect do not count."""
    return tuple(sorted((name, repr(value)) for name, value in params.items() if has_effect(name, params)))


def _dominates(one: list[float], other: list[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(low <= high for low, high in pairs) and any(low < high for low, high in pairs)
