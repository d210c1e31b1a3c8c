"""Shared by the tests of the engine: a small space, and a job that runs to its end without any training."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from optuna.storages import RDBStorage

from nas_attn.config import Budget, Engine, Recipe
from nas_attn.placement import Site, SiteTable
from nas_attn.records import Outcome, Task
from nas_attn.run.folder import TrialFiles
from nas_attn.space.bound import BoundSpace
from nas_attn.space.search_space import SearchSpace
from nas_attn.study.ledger import FINAL, SEARCH, Ledger, close_storage, open_storage
from nas_attn.study.planned import PlannedRuns
from nas_attn.study.sampling import SearchStudy
from nas_attn.study.stages import Stages

TABLE = SiteTable(
    backbone="densenet",
    num_classes=10,
    in_channels=1,
    image_size=8,
    n_parameters=10_000,
    n_macs=100_000,
    sites=tuple(
        Site(f"denseblock{index}", "output", f"features.denseblock{index}", 32, 8, 8, f"stage{index}")
        for index in (1, 2, 3)
    ),
)

RECORD = {
    "title": "A space for tests",
    "backbone": {"name": "densenet", "growth_rate": 8, "block_config": [2, 2, 2], "stem": "small"},
    "sites": [{"match": ["denseblock*"], "attentions": ["se", "cbam"]}],
    "attentions": {"se": {"reduction": [4, 8]}, "cbam": {"reduction": [4, 8], "kernel_size": [3, 7]}},
}

Score = Callable[[Task], Outcome]


def small_space(**changes: object) -> BoundSpace:
    """Return three sites with seven choices each: 343 placements."""
    return SearchSpace.from_dict({**RECORD, **changes}, where="test.toml").bind(TABLE)


def score(task: Task) -> Outcome:
    """Return a value in which CBAM helps a little at every site, and the seed has no effect."""
    n_cbam = sum(attention.name == "cbam" for attention in task.placement.attentions.values())
    return Outcome("complete", 0.9 + 0.01 * n_cbam - 0.001 * len(task.placement), seconds=1.0)


@cache
def empty_database() -> bytes:
    """Return a database without a study; making its tables takes most of the time of a short test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.db"
        close_storage(open_storage(path))
        return path.read_bytes()


def storage_in(folder: Path) -> RDBStorage:
    """Open the database of the run in a folder."""
    path = folder / "study.db"
    if not path.exists():
        path.write_bytes(empty_database())
    return open_storage(path)


class OpenRun:
    """Context manager: the stages of a run over a ledger on disk, opened and closed as by a driver."""

    def __init__(self, folder: Path, bound: BoundSpace | None = None, **settings: object) -> None:
        self.folder, self.bound = folder, bound or small_space()
        self.settings = {"trials": 12, "epochs": 4, "seeds": 2, "top": 2, "seed": 0, **settings}

    def __enter__(self) -> Stages:
        folder, bound, chosen = self.folder, self.bound, self.settings
        self.storage = storage_in(folder)
        ledgers = [Ledger(self.storage, name) for name in (SEARCH, FINAL)]
        for ledger in ledgers:
            ledger.sweep()
        engine = Engine(**{name: chosen[name] for name in ("seed", "sampler", "scheduler") if name in chosen})
        budget = Budget(**{name: chosen[name] for name in ("trials", "seeds", "top")}, controls=0)
        study = SearchStudy(ledgers[0], bound, engine, budget=budget.trials, epochs=chosen["epochs"], top=budget.top)
        return Stages(
            study,
            PlannedRuns(ledgers[1], bound),
            bound,
            budget=budget,
            recipe=Recipe(epochs=chosen["epochs"]),
            seed=engine.seed,
            weights=TrialFiles(folder / "weights", ".safetensors"),
            predictions=TrialFiles(folder / "predictions", ".npz"),
        )

    def __exit__(self, *_: object) -> None:
        close_storage(self.storage)


def work(stages: Stages, scored: Score = score, *, stop_after: int | None = None) -> list[Task]:
    """Run a job to its end, one task at a time; `stop_after` stops after that many tasks with one more running."""
    tasks: list[Task] = []
    while not stages.is_finished:
        task = stages.ask()
        assert task is not None, "with nothing running, a job must hand out a task or be finished"
        tasks.append(task)
        if stop_after is not None and len(tasks) > stop_after:
            return tasks
        outcome = scored(task)
        if outcome.state == "complete":
            for epoch in range(1, task.epochs + 1):
                if stages.report(task, epoch, outcome.value * epoch / task.epochs):
                    outcome = Outcome("pruned", seconds=1.0)
                    break
        if outcome.state == "complete":
            outcome = replace(
                outcome,
                artifacts=outcome.artifacts or {"weights": b"weights"}
                if "weights" in task.artifacts
                else outcome.artifacts,
            )
        stages.finish(task, outcome)
    return tasks
