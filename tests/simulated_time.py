"""The time of a whole job by simulation: a clock, workers, and trainings of chosen lengths."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripted import stages_in

from nas_attn.config import Budget, Engine
from nas_attn.records import Outcome, Task
from nas_attn.study.early_end import work_of
from nas_attn.study.pace import Pace
from nas_attn.study.stages import Stages

GAP = 0.4
"""Seconds that the engine takes between two trainings of a worker."""

CLOSING = 12.0
"""Seconds that the end of the simulated runs takes."""


class World:
    """A clock, workers and trainings of known length.

    Attributes:
        growth: Time of a retraining divided by that of a search trial, as the driver expects it.
        startup: Seconds until the first trainings begin.
        cold: Seconds that the first training of a worker takes longer.
        gap: Seconds of the engine between two trainings of a worker.
        epochs: Length of the schedule; `rungs` are the epochs before its end at which a scheduler looks.
        estimates: The moment, the estimate of the time left and the stage, after every training.
    """

    growth, startup, cold, gap = 2.3, 0.0, 0.0, GAP
    epochs = 8
    rungs: tuple[int, ...] = ()

    def __init__(self, workers: int, *, short: float = 10.0, long: float = 25.0, seed: int = 5) -> None:
        self.now, self.workers, self.short, self.long = self.startup, workers, short, long
        self.estimates: list[tuple[float, float, str]] = []
        self.random = random.Random(seed)

    def length(self, task: Task) -> float:
        """Return the seconds of a training."""
        return (self.long if task.stage == "retrain" else self.short) * self.random.uniform(0.8, 1.2)

    def value(self, task: Task) -> float:
        """Return the value of a training."""
        return 0.5 + 0.01 * len(task.placement)

    def pace(self, **more: Any) -> Pace:
        """Return a pace by this clock."""
        return Pace(growth=self.growth, clock=lambda: self.now, begun=0.0, workers=self.workers, **more)

    def run(self, stages: Stages, *, after: Callable[[int], object] = lambda number: None) -> list[Task]:
        """Run stages to their end; `after` is called with the number of trainings that have ended."""
        tasks: list[Task] = []
        moments: list[tuple[float, int, int, float]] = []
        n_live = 0
        while True:
            while n_live < self.workers and (task := stages.ask()) is not None:
                seconds = self.length(task) + (self.cold if len(tasks) < self.workers else 0.0)
                for epoch in (*self.rungs, task.epochs):
                    late = self.gap if epoch == task.epochs else 0.0
                    part = seconds * epoch / task.epochs
                    heapq.heappush(moments, (self.now + part + late, len(tasks), epoch, part))
                tasks.append(task)
                n_live += 1
            if not n_live:
                return tasks
            self.now, number, epoch, seconds = heapq.heappop(moments)
            task = tasks[number]
            if self._ends(stages, task, epoch, seconds):
                moments = sorted(moment for moment in moments if moment[1] != number)
                n_live -= 1
                after(len(tasks) - n_live)

    def _ends(self, stages: Stages, task: Task, epoch: int, seconds: float) -> bool:
        """Report an epoch, and return whether the training ends there, by its schedule or by the scheduler."""
        value, is_last = self.value(task), epoch == task.epochs
        if not is_last and not stages.report(task, epoch, value):
            return False
        stages.finish(task, Outcome("complete" if is_last else "pruned", value if is_last else None, seconds=seconds))
        left = stages.pace.rest(work_of(stages))
        if left is not None:
            self.estimates.append((self.now, left, stages.stage))
        return True


@contextmanager
def opened(
    folder: Path,
    world: World,
    *,
    budget: dict[str, object],
    sampler: str = Engine().sampler,
    scheduler: str = Engine().scheduler,
    **more: Any,
) -> Iterator[Stages]:
    """Open the stages of a job in a simulated world; `more` goes to `Pace`."""
    asked = Budget(**{"trials": 40, "top": 3, "controls": 2, "seeds": 5, **budget})
    pace = world.pace(seconds=asked.time_seconds, **more)
    words = {"sampler": sampler, "scheduler": scheduler, "recipe": {"epochs": world.epochs}}
    with stages_in(folder, trials=asked.trials, budget=asked.model_dump(), pace=pace, **words) as stages:
        yield stages
