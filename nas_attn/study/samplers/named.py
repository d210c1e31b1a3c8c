"""Samplers and schedulers by name: those of the tables, a class by its import path, a package of OptunaHub."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from nas_attn.errors import ConfigError, in_plain_words, unknown
from nas_attn.placement import Value
from nas_attn.study.samplers.catalog import SAMPLERS, SCHEDULERS, Sampler
from nas_attn.study.samplers.options import known_options, read_options

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

Made = TypeVar("Made")

Conditions = Mapping[str, tuple[str, frozenset[Value]]]
"""Parameter -> the parameter that decides whether it has an effect, and the values for which it has."""

HUB = "hub:"
"""Start of the name of a sampler of OptunaHub."""

MOST_ENUMERATED = 100_000
"""Greatest number of placements of a space that is enumerated."""


def find_sampler(name: str) -> Sampler:
    """Return a sampler of the table, or make one of a class: `module:Class`, `hub:PACKAGE` or `hub:PACKAGE:Class`.

    Raises: ConfigError in one sentence.
    """
    if name in SAMPLERS:
        return SAMPLERS[name]
    if name.startswith(HUB):
        package, _, class_name = name.removeprefix(HUB).partition(":")
        return _of_class(name, _class_in(_hub_module(name, package), class_name, name))
    module, colon, class_name = name.partition(":")
    if not colon:
        raise ConfigError(unknown("sampler", name, SAMPLERS))
    if not module or not class_name:
        raise ConfigError(f"--sampler must be a name, MODULE:CLASS or {HUB}PACKAGE, but got '{name}'.")
    return _of_class(name, _class_in(_imported(module), class_name, name))


def make_sampler(
    name: str, seed: int, stated: tuple[str, ...] = (), conditions: Conditions | None = None
) -> BaseSampler:
    """Return Optuna's sampler with this seed and these options, each `key=value`.

    Args:
        conditions: Those of the space, for a sampler that takes them.

    Raises: ConfigError in one sentence.
    """
    sampler = find_sampler(name)
    options = _options(f"sampler '{name}'", "--sampler-option", sampler.source, stated)
    if sampler.takes_conditions:
        options["conditions"] = conditions
    return _made(f"Sampler '{name}'", lambda: sampler.make(seed, **options))


def make_scheduler(name: str, epochs: int, stated: tuple[str, ...] = ()) -> BasePruner:
    """Return Optuna's pruner for a schedule of this length and with these options, each `key=value`.

    Raises: ConfigError in one sentence.
    """
    scheduler = SCHEDULERS[name]
    options = _options(f"scheduler '{name}'", "--scheduler-option", scheduler.source, stated)
    return _made(f"Scheduler '{name}'", lambda: scheduler.make(epochs, **options))


def rungs_of(name: str, epochs: int, stated: tuple[str, ...] = ()) -> tuple[int, ...] | None:
    """Return the epochs at which a scheduler with these options reads a trial's value; None for every epoch."""
    scheduler = SCHEDULERS[name]
    options = _options(f"scheduler '{name}'", "--scheduler-option", scheduler.source, stated)
    return scheduler.rungs(epochs, **options)


def refuse_large(name: str, *, n_placements: int, n_parameters: int) -> None:
    """Refuse a space that is too large for a sampler of the table. Raises: ConfigError with its size."""
    sampler = SAMPLERS.get(name)
    if sampler is None:
        return
    sizes = {
        "placements": (n_placements, MOST_ENUMERATED if sampler.enumerates else None),
        "parameters": (n_parameters, sampler.most_parameters),
    }
    for what, (size, most) in sizes.items():
        if most is not None and size > most:
            raise ConfigError(
                f"'--sampler {name}' needs a space of at most {most:,} {what}, but this one has {size:,}: choose "
                "another sampler, or search fewer sites or options."
            )


def _options(
    what: str, option: str, source: Callable[[], Callable[..., Any]] | None, stated: tuple[str, ...]
) -> dict[str, Any]:
    if not stated:
        return {}
    return read_options(stated, known_options(source()) if source is not None else {}, what, option)


def _made(what: str, make: Callable[[], Made]) -> Made:
    """Return what `make` returns. Raises: ConfigError for what its class refuses, and for a package that is missing."""
    try:
        return make()
    except Exception as error:  # of Optuna or of the user's class, which may raise anything
        raise ConfigError(f"{what} cannot be made: {type(error).__name__}: {in_plain_words(error)}") from error


def _of_class(name: str, found: type) -> Sampler:
    """Return the record of a class, which gets the seed if it has such a parameter."""
    takes_seed = "seed" in inspect.signature(found).parameters

    def make(seed: int, **options: Any) -> BaseSampler:
        sampler: BaseSampler = found(**options, **({"seed": seed} if takes_seed else {}))
        return sampler

    return Sampler(name, "", make, lambda: found)


def _class_in(module: ModuleType, class_name: str, name: str) -> type:
    """Return a sampler's class in a module; without a name it is the only one that the module defines."""
    from optuna.samplers import BaseSampler

    classes: Mapping[str, type] = {
        key: found for key, found in vars(module).items() if isinstance(found, type) and issubclass(found, BaseSampler)
    }
    own = {key: found for key, found in classes.items() if found.__module__.startswith(module.__name__)}
    if not class_name and len(own) == 1:
        return next(iter(own.values()))
    if class_name in classes:
        return classes[class_name]
    if hasattr(module, class_name):
        raise ConfigError(f"'{name}' must be a subclass of optuna.samplers.BaseSampler, but is another object.")
    if not class_name:
        raise ConfigError(f"'{name}' has {len(own)} samplers ({', '.join(own) or 'none'}): write {name}:CLASS.")
    raise ConfigError(unknown("sampler", class_name, classes, f"module '{module.__name__}'"))


def _imported(name: str) -> ModuleType:
    """Import a module, also of the working folder. Raises: ConfigError if that fails."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except Exception as error:  # code of the user, which runs at import and may raise anything
        raise ConfigError(
            f"--sampler names the module '{name}', which must be importable, but it raised {type(error).__name__}: "
            f"{in_plain_words(error)}"
        ) from error


def _hub_module(name: str, package: str) -> ModuleType:
    """Load a package of OptunaHub, from its cache or its site. Raises: ConfigError if that fails."""
    try:
        optunahub = importlib.import_module("optunahub")
    except ImportError:
        raise ConfigError(
            f"'--sampler {name}' needs the package optunahub: install it by pip install 'nas_attn[hub]'."
        ) from None
    try:
        module: ModuleType = optunahub.load_module(f"samplers/{package}")
    except Exception as error:  # of the network, of GitHub, or of the package's own code
        raise ConfigError(
            f"'--sampler {name}' needs the package 'samplers/{package}' of OptunaHub (hub.optuna.org), which could not "
            f"be loaded: {type(error).__name__}: {in_plain_words(error)}"
        ) from error
    return module
