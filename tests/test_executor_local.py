"""The executor `local`: it trains on the images that the driver has read, and reads none itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from nas_attn.config import DataConfig, Recipe, Resources
from nas_attn.data import dataset, shared
from nas_attn.data.dataset import describe
from nas_attn.data.mapped import MappedPixels
from nas_attn.data.shared import LargeImages, SharedImages, share
from nas_attn.errors import DataError
from nas_attn.executors import local
from nas_attn.executors.interrupts import Interrupts
from nas_attn.executors.local import LocalExecutor
from nas_attn.placement import NONE, Shape
from nas_attn.records import Outcome, Task
from nas_attn.training import trial
from nas_attn.training.context import TrialContext

BACKBONE = {"name": "densenet", "growth_rate": 4, "block_config": [1, 1], "num_init_features": 8, "stem": "small"}
ARTIFACTS = ("weights", "predictions")


@dataclass
class Job:
    """Hands out one search trial and one retraining, and keeps how they end."""

    waiting: list[Task] = field(
        default_factory=lambda: [
            Task(0, "search", NONE, seed=0, epochs=2),
            Task(0, "retrain", NONE, seed=7, epochs=2, artifacts=ARTIFACTS),
        ]
    )
    curves: list[tuple[str, int, float]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def ask(self) -> Task | None:
        return self.waiting.pop(0) if self.waiting else None

    def report(self, task: Task, epoch: int, value: float) -> bool:
        self.curves.append((task.stage, epoch, value))
        return False

    def save(self, task: Task, content: bytes) -> None: ...

    def show(self, task: Task, text: str) -> None: ...

    def finish(self, task: Task, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def context(fingerprint: str) -> TrialContext:
    return TrialContext(
        BACKBONE, Shape(10, 1, 8), Recipe(batch_size=64), data=DataConfig(), n_threads=1, fingerprint=fingerprint
    )


def trained(job: Job, fingerprint: str) -> Job:
    LocalExecutor(Resources(executor="local", device="cpu")).run(job, context(fingerprint), Interrupts())
    return job


@pytest.fixture(scope="module")
def own_reading() -> Job:
    """What trainings give that read the images themselves, as on a machine of its own."""
    job = Job()
    while (task := job.ask()) is not None:
        report = lambda epoch, value, task=task: job.report(task, epoch, value)  # noqa: E731
        job.finish(task, trial.evaluate(task, context(describe(DataConfig()).fingerprint), report))
    return job


def same(one: Job, other: Job) -> bool:
    """Whether all that was reported and returned is equal to the last bit, but for times."""
    parts = [
        (outcome.state, outcome.value, {name: outcome.artifacts[name] for name in outcome.artifacts})
        for job in (one, other)
        for outcome in job.outcomes
    ]
    half = len(parts) // 2
    return half == 2 and parts[:half] == parts[half:] and one.curves == other.curves


def test_the_images_that_the_driver_read_are_not_read_again(own_reading, monkeypatch):
    facts = describe(DataConfig())
    monkeypatch.setattr(dataset, "read_source", lambda *_: pytest.fail("read twice"))
    job = trained(Job(), facts.fingerprint)
    assert {name for outcome in job.outcomes for name in outcome.artifacts} == set(ARTIFACTS)
    assert same(job, own_reading)
    assert not dataset._described, "the driver keeps them once"


def test_large_images_are_trained_on_from_the_file_that_the_driver_mapped(own_reading, monkeypatch):
    whole = share(DataConfig(), describe(DataConfig()).fingerprint)
    assert isinstance(whole, SharedImages)
    rows = iter(np.split(np.arange(len(whole.pixels)), np.cumsum([len(part) for part in whole.parts.values()])[:-1]))
    parts = {name: replace(part, pixels=MappedPixels(whole.pixels, next(rows))) for name, part in whole.parts.items()}
    monkeypatch.setattr(local, "share", lambda *_: LargeImages(parts, whole.facts))
    monkeypatch.setattr(dataset, "read_source", lambda *_: pytest.fail("read twice"))
    assert same(trained(Job(), whole.facts.fingerprint), own_reading)


def test_images_that_changed_since_the_check_are_refused_before_a_trial():
    job = Job()
    with pytest.raises(DataError, match="must stay as they are, but those of digits are not the ones"):
        trained(job, "another")
    assert len(job.waiting) == 2


def test_a_training_of_the_users_own_reads_its_own_images(monkeypatch):
    monkeypatch.setattr(shared, "take_prepared", lambda *_: pytest.fail("nobody wants them"))
    own = replace(context("another"), train=lambda model, run: 0.25)
    job = Job()
    LocalExecutor(Resources(executor="local", device="cpu")).run(job, own, Interrupts())
    assert [outcome.value for outcome in job.outcomes] == [0.25, 0.25]
