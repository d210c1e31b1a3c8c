"""A search whose proposals a test chooses: a sampler that follows a script, a scheduler that always stops, a driver."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from engine import small_space, storage_in
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_attn.config import Budget, Engine, Recipe
from nas_attn.placement import Attention, Placement
from nas_attn.records import Outcome, Task
from nas_attn.space.bound import BoundSpace
from nas_attn.study.control import control_search
from nas_attn.study.ledger import CONTROL, FINAL, SEARCH, Ledger, close_storage
from nas_attn.study.planned import PlannedRuns
from nas_attn.study.samplers.catalog import SAMPLERS, SCHEDULERS, Sampler, Scheduler
from nas_attn.study.sampling import SearchStudy
from nas_attn.study.stages import Stages


class Scripted(BaseSampler):
    """Proposes the placements of a script, the last one for ever, and keeps what it is told.

    Args:
        script: The proposals, as placements or as flat parameters.
    """

    def __init__(self, bound: BoundSpace, script: Iterable[Placement | dict[str, Any]]) -> None:
        self._script = [found if isinstance(found, dict) else bound.params(found) for found in script]
        self.proposed = 0
        self.seeds: list[int] = []
        self.told: list[tuple[TrialState, float | None]] = []

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: each parameter is drawn for itself."""
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """Move on by one proposal."""
        self.proposed += 1
        return {}

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        """Return the parameter's value in the proposal."""
        params = self._script[min(self.proposed, len(self._script)) - 1]
        assert params is not None, "a script must stay within the space"
        return params[name]

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Keep the state and the value of a trial that ended."""
        self.told.append((state, values[0] if values else None))


class AlwaysStops(BasePruner):
    """Stops every trial that asks."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return True."""
        return True


def follow(monkeypatch: pytest.MonkeyPatch, bound: BoundSpace, *script: Placement | dict[str, Any]) -> Scripted:
    """Put a scripted sampler in the place of the default one, and return it."""
    sampler = Scripted(bound, script)

    def make(seed: int) -> BaseSampler:
        sampler.seeds.append(seed)
        return sampler

    name = Engine().sampler
    monkeypatch.setitem(SAMPLERS, name, Sampler(name, "a script.", make))
    return sampler


def always_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a scheduler that stops every trial in the place of `asha`."""
    monkeypatch.setitem(SCHEDULERS, "asha", Scheduler("asha", "stops everything.", lambda epochs: AlwaysStops()))


def at(site: int, name: str = "se", **options: int) -> Placement:
    """Return one attention at one dense block of the small space, as the space resolves it."""
    return small_space().resolve(Placement({f"denseblock{site}": Attention(name, {"reduction": 4, **options})}))


class Files(dict[tuple[str, int, int], bytes]):
    """Files of trainings in memory, by placement key, seed and epochs."""

    def has(self, key: str, seed: int, epochs: int) -> bool:
        """Return whether a file is stored."""
        return (key, seed, epochs) in self

    def is_lost(self, key: str, seed: int, epochs: int) -> bool:
        """Return False: nothing here is damaged."""
        return False

    def write(self, key: str, seed: int, epochs: int, content: bytes) -> None:
        """Store a file."""
        self[key, seed, epochs] = content

    def read(self, key: str, seed: int, epochs: int) -> bytes | None:
        """Return a file, or None if there is none."""
        return self.get((key, seed, epochs))


@contextmanager
def ledger_in(folder: Path, name: str = SEARCH) -> Iterator[Ledger]:
    """Open one ledger of the run in a folder, and close its storage in the end."""
    storage = storage_in(folder)
    yield Ledger(storage, name)
    close_storage(storage)


@contextmanager
def search_in(
    folder: Path, bound: BoundSpace | None = None, *, budget: int = 12, top: int = 2, epochs: int = 4, **engine: Any
) -> Iterator[SearchStudy]:
    """Open the search of the run in a folder as a driver does."""
    with ledger_in(folder) as ledger:
        ledger.sweep()
        yield SearchStudy(ledger, bound or small_space(), Engine(**engine), budget=budget, epochs=epochs, top=top)


@contextmanager
def stages_in(
    folder: Path,
    bound: BoundSpace | None = None,
    *,
    trials: int = 6,
    seed: int = 0,
    sampler: str = Engine().sampler,
    scheduler: str = Engine().scheduler,
    recipe: Any = None,
    budget: Any = None,
    **more: Any,
) -> Iterator[Stages]:
    """Open all stages of the run in a folder as a driver does; `more` goes to `Stages`."""
    bound, budget = (
        bound or small_space(),
        Budget(**{"trials": trials, "seeds": 2, "top": 2, "controls": 0, **(budget or {})}),
    )
    recipe = Recipe(**{"epochs": 2, **(recipe or {})})
    storage = storage_in(folder)
    ledgers = [Ledger(storage, name) for name in (SEARCH, FINAL)]
    for ledger in ledgers:
        ledger.sweep()
    size = {"budget": trials, "epochs": recipe.epochs, "top": budget.n_top}
    search = SearchStudy(ledgers[0], bound, Engine(seed=seed, sampler=sampler, scheduler=scheduler), **size)
    if budget.control_search is not None:
        control = Ledger(storage, CONTROL)
        control.sweep()
        more["control"] = control_search(control, bound, Engine(seed=seed), budget.control_search, **size)
    more = {"weights": Files(), "predictions": Files(), **more}
    yield Stages(search, PlannedRuns(ledgers[1], bound), bound, budget=budget, recipe=recipe, seed=seed, **more)
    close_storage(storage)


def constant(value: float = 0.5) -> Callable[[Task], Outcome]:
    """Return a score that is the same for every trial."""
    return lambda task: Outcome("complete", value, seconds=1.0)


def by_stage(tasks: list[Task], stage: str) -> list[Task]:
    """Return the tasks of one stage in their order."""
    return [task for task in tasks if task.stage == stage]
