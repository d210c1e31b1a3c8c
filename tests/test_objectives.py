"""Several objectives: their reading, the front against brute force, the knee, and runs that search for a front."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from own_runs import no_report
from own_runs import run as run_small
from runs import SETTINGS, tiny_space

from nas_attn import load_run
from nas_attn.comparison.objectives import KNOWN, dominates, front, knee, read_objectives, spread
from nas_attn.config import Engine
from nas_attn.errors import ConfigError, RunError, RunStopped
from nas_attn.placement import NONE
from nas_attn.report.front import front_of
from nas_attn.run.goals import chosen_objectives
from nas_attn.run.job import search as run_search

__all__ = ["no_report"]

GOALS = (KNOWN["accuracy"], KNOWN["latency"], KNOWN["params"])
FEW = {**SETTINGS, "executor": "local", "epochs": 1, "trials": 5, "top": 2, "seeds": 1, "controls": 0}


def as_is(point: tuple[float, ...]) -> tuple[float, ...]:
    return point


@pytest.mark.parametrize("n_goals", [2, 3])
def test_the_front_is_that_of_brute_force(n_goals: int) -> None:
    goals, draw = GOALS[:n_goals], random.Random(n_goals)
    for _ in range(50):
        points = [tuple(float(draw.randrange(6)) for _ in goals) for _ in range(30)]
        expected = [one for one in points if not any(dominates(other, one, goals) for other in points)]
        assert front(points, as_is, goals) == expected


def test_the_knee_does_not_depend_on_units_or_order_and_prefers_the_first_objective_of_equals() -> None:
    goals = GOALS[:2]
    points = [(0.7, 1.0), (0.85, 1.5), (0.9, 4.0), (0.91, 9.0)]
    assert knee(points, as_is, goals) == (0.85, 1.5)
    assert knee(points[::-1], as_is, goals) == (0.85, 1.5)
    assert knee([(1000 * a, 60 * b + 7) for a, b in points], as_is, goals) == (850.0, 97.0)
    assert knee([(0.7, 1.0), (0.9, 4.0)], as_is, goals) == (0.9, 4.0)
    assert knee([], as_is, goals) is None


def test_the_confirmed_placements_begin_with_the_knee_and_spread_to_the_ends() -> None:
    points = [(0.7, 1.0), (0.85, 1.5), (0.86, 1.6), (0.91, 9.0)]
    assert spread(points, as_is, GOALS[:2], 3) == [(0.86, 1.6), (0.91, 9.0), (0.7, 1.0)]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (["accuracy", "accuracy"], "must name each objective once, but got accuracy twice"),
        (["latency", "accuracy"], "which is known before any training: write accuracy,latency"),
        (["loss"], "loss, which is to be made small"),
        (["accuracy", "latencyy"], "did you mean 'latency'.*such as energy:min"),
        (["accuracy", "energy"], "such as energy:min"),
        (["accuracy", "latency:max"], "'--objective latency' is min, but got latency:max"),
        ([""], "Unknown objective ''"),
    ],
)
def test_a_bad_objective_is_refused(stated: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_objectives(stated)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"objective": "accuracy,energy:min"}, "the built-in one gives accuracy, auc, f1, loss, and got energy"),
        ({"objective": "accuracy,params", "scheduler": "asha"}, "need '--scheduler none', but got asha"),
    ],
)
def test_an_objective_that_the_run_cannot_serve_is_refused(engine: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen_objectives(Engine(**engine), None, None)


def test_the_usual_objective_may_be_stated_and_is_the_usual_run() -> None:
    assert chosen_objectives(Engine(objective="accuracy"), None, None) == ()
    assert [goal.name for goal in chosen_objectives(Engine(objective="f1"), None, None)] == ["f1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, write_report: Callable[..., Path]) -> Path:
    """A run for accuracy, parameters and cross-entropy, with the figures of its report."""
    folder = tmp_path_factory.mktemp("front")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas_attn.run.arm_costs.measure_arms", lambda *_: {})
        run_search(tiny_space(folder), out=folder / "run", objective="accuracy,params,loss", sampler="nsga2", **FEW)
    write_report(load_run(folder / "run"), folder / "run")
    return folder / "run"


def test_the_ledger_and_the_tables_hold_every_objective(finished: Path) -> None:
    run = load_run(finished)
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{finished / 'study.db'}")
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    points = {trial.number: tuple(trial.values) for trial in study.trials}
    for row in run.search:
        assert points[row.number] == (row.value, row.n_parameters, row.values["loss"])
    goals = read_objectives(["accuracy", "params", "loss"])
    undominated = {n for n, one in points.items() if not any(dominates(o, one, goals) for o in points.values())}
    assert {trial.number for trial in study.best_trials} == undominated
    rows = list(csv.DictReader((finished / "trials.csv").read_text().splitlines()))
    assert [float(row["loss"]) for row in rows if row["stage"] == "search"] == [
        row.values["loss"] for row in run.search
    ]
    assert all(float(row["params"]) == float(row["n_parameters"]) for row in rows)


def test_the_front_is_exported_and_best_json_is_its_knee(finished: Path) -> None:
    run, content = load_run(finished), json.loads((finished / "front.json").read_text())
    goals = read_objectives(["accuracy", "params", "loss"])
    labels = [arm["arm"] for arm in content["arms"]]
    assert any(label.startswith("found #1") for label in labels)
    confirmed = [arm for arm in content["arms"] if arm["confirmed"]]
    points = {arm["key"]: tuple(arm["objectives"]["confirm"].values()) for arm in confirmed}
    best = knee(front(list(points), points.__getitem__, goals), points.__getitem__, goals)
    assert content["knee"] == best
    assert run.best is not None
    assert run.best["placement"] == next(arm["placement"] for arm in confirmed if arm["key"] == best)
    assert all((finished / arm["file"]).is_file() for arm in content["arms"])
    shown = front_of(run)
    assert shown is not None
    assert shown.knee is not None
    assert shown.n_searched == len(content["search"])


def test_the_page_shows_the_front_and_marks_its_knee(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "<h2>The front</h2>" in page
    assert "is the knee, which <code>best.json</code> holds" in page
    assert (finished / "figures" / "front.svg").is_file()
    assert "## The front" in (finished / "report.md").read_text()


@pytest.mark.usefixtures("no_report")
def test_a_finished_run_of_several_objectives_is_not_trained_again_and_not_mixed_with_others(finished: Path) -> None:
    space, before = finished.parent / "tiny.toml", load_run(finished)
    again = run_search(space, out=finished, objective="accuracy,params,loss", sampler="nsga2", **FEW)
    assert [row.number for row in again.search] == [row.number for row in before.search]
    assert len(again.retrain) == len(before.retrain)
    with pytest.raises(RunError, match=r"belongs to another search \(objectives was \[.*now None"):
        run_search(space, out=finished, **FEW)


@pytest.mark.usefixtures("no_report")
def test_a_longer_search_continues_with_the_stored_values(finished: Path, tmp_path: Path) -> None:
    before = load_run(finished)
    more = {**FEW, "trials": 6}
    after = run_search(
        finished.parent / "tiny.toml", out=finished, objective="accuracy,params,loss", sampler="nsga2", **more
    )
    assert after.search[: len(before.search)] == before.search
    assert len({row.key for row in after.search}) == 6


def own(model: object, run: object) -> dict[str, float]:
    """Return values that depend on the placement alone."""
    n_weights = sum(weight.numel() for weight in model.parameters())  # type: ignore[attr-defined]
    return {"accuracy": 0.5 + (n_weights % 97) / 1000, "energy": float(n_weights % 13), "seen": 1.0}


@pytest.mark.usefixtures("no_report")
def test_a_training_of_a_users_own_gives_values_by_name(tmp_path: Path) -> None:
    settings = {**FEW, "trials": 4, "top": 1, "num_classes": 10, "in_channels": 1, "image_size": 8}
    run = run_search(tiny_space(tmp_path), own, tmp_path / "run", objective="accuracy,energy:min", **settings)
    assert all(row.values["energy"] == row.n_parameters % 13 and row.facts["seen"] == 1.0 for row in run.search)
    assert run.config["objectives"] == [
        {"name": "accuracy", "direction": "max"},
        {"name": "energy", "direction": "min"},
    ]
    with pytest.raises(RunStopped, match=r"'power' is missing in what it returned .accuracy, energy, seen"):
        run_search(tiny_space(tmp_path), own, tmp_path / "other", objective="accuracy,power:min", **settings)


@pytest.mark.usefixtures("no_report")
def test_a_placement_over_the_latency_limit_is_not_trained(tmp_path: Path) -> None:
    run = run_small(own, tmp_path / "run", max_latency=1e-6, trials=3)
    assert run.search == ()
    assert all(row.facts["latency"] > 1e-6 for row in run.retrain)
    assert {row.key for row in run.retrain} >= {NONE.key}
