"""Validation after the epochs that somebody reads: the same values, fewer measurements, and a report that says so."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from optuna import create_study
from optuna.distributions import IntDistribution
from optuna.trial import TrialState
from synthetic_run import make_run

from nas_attn.config import DataConfig, Recipe
from nas_attn.placement import NONE, Shape
from nas_attn.records import Task
from nas_attn.report.evidence_curves import curves_of
from nas_attn.study.samplers.catalog import SCHEDULERS
from nas_attn.study.samplers.named import make_scheduler, rungs_of
from nas_attn.training.context import TrialContext
from nas_attn.training.keeper import Keeper
from nas_attn.training.trial import evaluate
from nas_attn.training.validated_epochs import validated_epochs

EPOCHS = 20
CONTEXT = TrialContext(
    backbone={"name": "lenet"},
    shape=Shape(num_classes=10, in_channels=1, image_size=12),
    recipe=Recipe(epochs=EPOCHS, batch_size=64),
    data=DataConfig(split=(0.1, 0.3, 0.6), image_size=12),
    n_threads=1,
    class_names=tuple("0123456789"),
)


def trained(context: TrialContext, stage: str = "search", keeper: Keeper | None = None) -> tuple[dict, object]:
    """Train a task; return what was reported, and the outcome."""
    seen: dict[int, float] = {}
    task = Task(0, stage, NONE, 0, EPOCHS, artifacts=("weights", "predictions"))  # type: ignore[arg-type]
    return seen, evaluate(task, context, seen.__setitem__, keeper or Keeper())


def points(curve: dict[int, float]) -> dict[int, float]:
    return {epoch: value for epoch, value in curve.items() if not math.isnan(value)}


@pytest.mark.parametrize("stage", ["search", "confirm"])
def test_values_are_those_of_a_training_that_is_validated_after_every_epoch(stage: str) -> None:
    every, whole = trained(replace(CONTEXT, rungs=None), "search")
    few, outcome = trained(replace(CONTEXT, rungs=(5, 10)), stage)
    assert outcome.value == whole.value == every[EPOCHS]
    assert outcome.artifacts["weights"] == whole.artifacts["weights"]
    assert list(few) == list(every) == list(range(1, EPOCHS + 1)), "each epoch is reported, so that a trial can end"
    assert sorted(points(every)) == list(range(1, EPOCHS + 1))
    assert sorted(points(few)) == sorted({*range(2, 21, 2), *([5] if stage == "search" else [])})
    assert all(value == every[epoch] for epoch, value in points(few).items())


def test_a_training_continues_after_an_epoch_that_was_not_validated() -> None:
    saved: list[bytes] = []
    whole, outcome = trained(CONTEXT, keeper=Keeper(0.0, saved.append))
    again, continued = trained(CONTEXT, keeper=Keeper(0.0, content=saved[6]))
    assert 7 not in points(whole)
    assert continued.facts["continued_from_epoch"] == 7
    assert points(again) == points(whole)
    assert continued.artifacts == outcome.artifacts


def test_retrainings_report_every_epoch_for_nothing() -> None:
    curve, _ = trained(CONTEXT, "retrain")
    assert sorted(points(curve)) == list(range(1, EPOCHS + 1))


@pytest.mark.parametrize(
    ("n_val", "n_epochs", "expected"),
    [
        (150, 100, 100),
        (151, 100, 10),
        (1_000, 10, 10),
        (1_000, 300, 10),
        (1_000, 1, 1),
        (1_000, 25, 13),
    ],
)
def test_a_dear_validation_leaves_about_ten_points_with_the_last_epoch(
    n_val: int, n_epochs: int, expected: int
) -> None:
    found = validated_epochs(n_epochs, n_train=1_000, n_val=n_val)
    assert len(found) == expected
    assert {n_epochs, max(1, n_epochs - max(1, round(n_epochs / 10)))} <= found | {1}
    assert found <= set(range(1, n_epochs + 1))


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("options", [(), ("reduction_factor=4",), ("min_resource=2",), ("min_resource=auto",)])
def test_a_scheduler_decides_alike_on_every_epoch_and_on_those_that_it_reads(name: str, options: tuple) -> None:
    if options and (name in ("none", "median") or (name, options[0][-4:]) == ("hyperband", "auto")):
        options = ()
    rungs = rungs_of(name, EPOCHS, options)
    read = validated_epochs(EPOCHS, n_train=100, n_val=100, rungs=rungs)
    generator = torch.Generator().manual_seed(0)
    curves = [torch.rand(EPOCHS, generator=generator).tolist() for _ in range(30)]

    def ends(epochs: frozenset[int]) -> list[int]:
        study = create_study(study_name="search", direction="maximize", pruner=make_scheduler(name, EPOCHS, options))
        return [end(study, curve, epochs) for curve in curves]

    def end(study, curve: list[float], epochs: frozenset[int]) -> int:
        trial = study.ask({"x": IntDistribution(0, 9)})
        for epoch in sorted(epochs - {EPOCHS}):
            trial.report(curve[epoch - 1], epoch)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                return epoch
        trial.report(curve[-1], EPOCHS)
        study.tell(trial, curve[-1])
        return EPOCHS

    expected = ends(frozenset(range(1, EPOCHS + 1)))
    assert ends(read) == expected
    assert (set(expected) == {EPOCHS}) == (name == "none")


def test_the_report_says_how_many_epochs_were_measured() -> None:
    run = make_run()
    placements = {"none": NONE}
    assert [stage.measured for stage in curves_of(run, placements)] == ["", ""]
    thinned = tuple(replace(row, curve={e: v for e, v in row.curve.items() if e % 3 == 0}) for row in run.confirm)
    training, validation = curves_of(replace(run, confirm=thinned), placements)
    assert (training.measured, validation.measured) == ("", "measured after 10 of 30 epochs")
    assert validation.curves[0].epochs == tuple(range(3, 31, 3))
