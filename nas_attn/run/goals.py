"""The objectives of a request, checked together with its data, its training, its sampler and its scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nas_attn.comparison.objectives import Objective, read_objectives
from nas_attn.config import Engine
from nas_attn.data.dataset import DataFacts
from nas_attn.errors import ConfigError
from nas_attn.study.samplers.catalog import SAMPLERS

_BUILT_IN = ("accuracy", "auc", "f1", "loss")


def chosen_objectives(
    engine: Engine, facts: DataFacts | None, train: Callable[..., Any] | str | None
) -> tuple[Objective, ...]:
    """Return the objectives of a run; empty for the usual value, also where it is stated by its name.

    Raises: ConfigError, in one sentence, for objectives that the data, the training, the sampler or the scheduler
    cannot serve.
    """
    objectives = read_objectives(engine.objective)
    for objective in objectives:
        if objective.source == "training" and train is None:
            _refuse_unknown_value(objective, facts)
    if len(objectives) > 1:
        _refuse_scheduler(engine.scheduler)
        _refuse_sampler(engine, objectives)
    return () if tuple(goal.name for goal in objectives) == (_usual(facts, train),) else objectives


def _refuse_unknown_value(objective: Objective, facts: DataFacts | None) -> None:
    """Refuse a value that the built-in training does not give. Raises: ConfigError."""
    name = objective.name
    if name not in _BUILT_IN:
        raise ConfigError(
            f"'--objective' must name values that the training gives, but the built-in one gives "
            f"{', '.join(_BUILT_IN)}, and got {name}: state --train with a training that returns it."
        )
    if name == "accuracy" and facts is not None and facts.task == "multi-label":
        raise ConfigError(
            f"'--objective accuracy' needs images of one class each, but those of {facts.name} have several labels: "
            "write auc or f1."
        )


def _refuse_scheduler(scheduler: str) -> None:
    if scheduler != "none":
        raise ConfigError(
            "Trials are stopped early by one value, so that several objectives need '--scheduler none', but got "
            f"{scheduler}."
        )


def _refuse_sampler(engine: Engine, objectives: tuple[Objective, ...]) -> None:
    sampler = SAMPLERS.get(engine.sampler)
    if sampler is not None and not sampler.is_for_several:
        able = ", ".join(name for name, other in SAMPLERS.items() if other.is_for_several)
        raise ConfigError(
            f"'--sampler' must be one that can search for several objectives ({able}), but got {engine.sampler} with "
            f"{','.join(goal.name for goal in objectives)}."
        )


def _usual(facts: DataFacts | None, train: Callable[..., Any] | str | None) -> str:
    """Return the name of the value that is searched for where no objective is stated."""
    return "auc" if facts is not None and facts.task == "multi-label" and train is None else "accuracy"
