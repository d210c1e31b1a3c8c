"""A whole job whose trainings are draws: the product's sampler, stages, looks and numbers, without any training.

The ledger is SQLite in memory, copied from an empty one, because making the tables of Optuna takes longer than a job.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.storages import RDBStorage
from sqlalchemy.pool import StaticPool

from nas_attn.comparison.predictions import Predictions
from nas_attn.config import Budget, Engine, Recipe
from nas_attn.placement import Placement
from nas_attn.records import Outcome, Task
from nas_attn.space.bound import BoundSpace
from nas_attn.study.ledger import FINAL, SEARCH, Ledger
from nas_attn.study.planned import PlannedRuns
from nas_attn.study.sampling import SearchStudy
from nas_attn.study.stages import Stages

EPOCHS = 4

Train = Callable[[Placement, int, str], NDArray[np.bool_]]
"""Placement, seed, part ("val" or "test") -> whether each image of the part is right."""


class Files(dict[tuple[str, int, int], bytes]):
    """Files of trainings in memory."""

    def has(self, key: str, seed: int, epochs: int) -> bool:
        """Return whether a file is stored."""
        return (key, seed, epochs) in self

    def is_lost(self, key: str, seed: int, epochs: int) -> bool:
        """Return False: memory loses nothing."""
        return False

    def write(self, key: str, seed: int, epochs: int, content: bytes) -> None:
        """Store a file."""
        self[key, seed, epochs] = content

    def read(self, key: str, seed: int, epochs: int) -> bytes | None:
        """Return a file, or None if there is none."""
        return self.get((key, seed, epochs))


def simulated(
    bound: BoundSpace, train: Train, *, seed: int, budget: Budget, sampler: str = "tpe", most: int | None = None
) -> Stages:
    """Run one job to its end, one training at a time, and return its stages.

    Args:
        most: Number of trainings after which the search ends, further seeds of its best placements among them; None
            lets it end by its budget, which counts distinct placements.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = _storage()
    ledgers = [Ledger(storage, name) for name in (SEARCH, FINAL)]
    engine, recipe = Engine(seed=seed, sampler=sampler), Recipe(epochs=EPOCHS)
    search = SearchStudy(ledgers[0], bound, engine, budget=budget.trials, epochs=EPOCHS, top=budget.top)
    stages = Stages(
        *(search, PlannedRuns(ledgers[1], bound), bound),
        budget=budget, recipe=recipe, seed=seed, weights=Files(), predictions=Files(),
    )  # fmt: skip
    n_trained = 0
    while not stages.is_finished:
        task = stages.ask()
        assert task is not None, "with nothing running, there is a task"
        stages.finish(task, _outcome(task, train))
        n_trained += task.stage == "search"
        if n_trained == most:
            search.close()
    storage.engine.dispose()
    return stages


def _outcome(task: Task, train: Train) -> Outcome:
    """Return the outcome of one training, with its predictions if it is asked for them."""
    right = train(task.placement, task.seed, "test" if task.stage == "retrain" else "val")
    kept = Predictions(np.ones(len(right), np.int32), right.astype(np.int32))
    wanted = {name: kept.to_bytes() if name != "weights" else b"" for name in task.artifacts}
    return Outcome("complete", float(right.mean()), seconds=1.0, artifacts=wanted)


def _storage() -> RDBStorage:
    """Return Optuna's storage over a new database in memory."""
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    _empty().backup(connection)
    return _over(connection, skip_compatibility_check=True, skip_table_creation=True)


@cache
def _empty() -> sqlite3.Connection:
    """Return a database with the tables of Optuna."""
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    _over(connection)
    return connection


def _over(connection: sqlite3.Connection, **options: Any) -> RDBStorage:
    return RDBStorage("sqlite://", engine_kwargs={"poolclass": StaticPool, "creator": lambda: connection}, **options)
