"""`--seeds-at-once`: seeds of an arm are one task, and rows of their own; what cannot train so trains one at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine import work
from runs import tiny_space
from scripted import by_stage, constant, stages_in

from nas_attn import load_run, search
from nas_attn.errors import ConfigError
from nas_attn.records import RANDOM, Further, Outcome, RunRecord, Task
from nas_attn.study.stages import Stages
from nas_attn.training import trial

TINY: dict[str, Any] = {"trials": 2, "epochs": 2, "top": 1, "controls": 1, "executor": "local", "cpus_per_trial": 1}


def ended(task: Task, value: float = 0.5) -> Outcome:
    """Return the outcome of a task all of whose seeds trained as one."""
    further = [
        Further(seed, {1: 0.1, 2: value}, Outcome("complete", value, seconds=1.0)) for seed in task.further_seeds
    ]
    weights = {"weights": b"weights"} if "weights" in task.artifacts else {}
    return Outcome("complete", value, seconds=1.0, artifacts=weights, further=tuple(further))


def retraining(stages: Stages) -> Task:
    """Run the stages up to the first retraining, and return it."""
    while (task := stages.ask()) is not None and task.stage != "retrain":
        stages.finish(task, constant()(task))
    assert task is not None
    return task


def rows(stages: Stages) -> Counter[tuple[str, int]]:
    """Return the number of finished retrainings by placement and seed."""
    return Counter((row.key, row.seed) for row in stages.final.records() if row.stage == "retrain" and row.value)


def test_each_arm_is_one_task_and_each_seed_a_row_with_its_curve(tmp_path):
    with stages_in(tmp_path, budget={"seeds": 5}, seeds_at_once=3) as stages:
        tasks = work(stages, ended)
        found, n_arms, seeds = rows(stages), len(stages.arms()), stages.seeds
        curves = [row.curve for row in stages.final.records() if row.stage == "retrain"]
    retrained = by_stage(tasks, "retrain")
    assert Counter(len(task.further_seeds) for task in retrained) == {2: n_arms, 1: n_arms}
    assert set(found.values()) == {1}
    assert len(found) == 5 * n_arms
    assert {seed for _, seed in found} == set(seeds)
    assert all(curve[2] == 0.5 for curve in curves)
    assert all("weights" not in task.artifacts or task.seed == seeds[0] for task in retrained)
    assert all(task.further_seeds == () for task in tasks if task.stage != "retrain")


def test_the_random_placements_are_arms_of_their_own(tmp_path):
    with stages_in(tmp_path, budget={"seeds": 4, "controls": 2}, seeds_at_once=4) as stages:
        tasks = [task for task in by_stage(work(stages, ended), "retrain") if task.arm == RANDOM]
        controls, seeds = stages.controls(), stages.seeds
    expected = {controls[0]: {seeds[0], seeds[2]}, controls[1]: {seeds[1], seeds[3]}}
    assert {task.placement: {task.seed, *task.further_seeds} for task in tasks} == expected


def test_more_seeds_of_undecided_arms_are_one_task_as_well(tmp_path):
    budget = {"seeds": "auto", "max_seeds": 15}
    with stages_in(tmp_path, budget=budget, seeds_at_once=5) as stages:
        tasks = by_stage(work(stages, ended), "retrain")
        found = rows(stages)
    assert {len(task.further_seeds) for task in tasks} == {4}
    assert set(found.values()) == {1}
    assert max(Counter(key for key, _ in found).values()) > 5


@pytest.mark.parametrize(
    ("outcome", "is_alone"),
    [
        (Outcome("complete", 0.5, seconds=1.0, artifacts={"weights": b"weights"}, alone="It cannot."), True),
        (Outcome("fail", cause="crashed", reason="The worker died."), True),
        (Outcome("fail", cause="oom", reason="No memory."), True),
        (Outcome("fail", cause="interrupted", reason="A signal."), False),
    ],
    ids=["cannot", "crashed", "oom", "interrupted"],
)
def test_seeds_that_were_left_out_are_trained_next_and_alone(tmp_path, outcome, is_alone):
    with stages_in(tmp_path, budget={"seeds": 3}, seeds_at_once=3) as stages:
        first = retraining(stages)
        n_waiting = stages.final.n_waiting("retrain")
        assert {plan.seed for plan in stages.final.held()} == {*first.further_seeds}
        assert len(first.further_seeds) == 2
        stages.finish(first, outcome)
        is_over = outcome.cause != "crashed"  # a crashed one is tried again
        assert stages.final.n_waiting("retrain") == n_waiting - is_over
        seeds = [plan.seed for plan in stages.final.waiting() if plan.stage == "retrain"]
        assert seeds[: len(seeds) - (not is_over)] == sorted(seeds[: len(seeds) - (not is_over)]), "in their places"
        rest = work(stages, ended)
        same = [task for task in rest if task.stage == "retrain" and task.placement == first.placement]
        assert any(task.further_seeds for task in same) != is_alone
        found = rows(stages)
    for_weights = {(first.placement.key, first.further_seeds[0])}  # trained again where the first seed failed
    assert {place for place, number in found.items() if number > 1} <= for_weights
    assert {seed for key, seed in found if key == first.placement.key} >= {*first.further_seeds}
    told = [sentence for sentence in stages.remarks if "--seeds-at-once" in sentence]
    assert told == (
        [f"Seeds of some arms are trained one at a time in spite of --seeds-at-once. {outcome.alone}"]
        if outcome.alone
        else []
    )


def test_a_seed_that_fails_among_others_is_a_row_of_its_own(tmp_path):
    def one_fails(task: Task) -> Outcome:
        outcome = ended(task)
        bad = Outcome("fail", cause="nan", reason="It diverged.", seconds=1.0)
        return replace(outcome, further=tuple(replace(each, outcome=bad, curve={}) for each in outcome.further[:1]))

    with stages_in(tmp_path, budget={"seeds": 2}, seeds_at_once=2) as stages:
        work(stages, lambda task: one_fails(task) if task.arm == "none" and task.further_seeds else ended(task))
        none = [(row.seed, row.state, row.cause) for row in stages.final.records() if row.label == "none"][-2:]
    assert none == [(stages.seeds[0], "complete", None), (stages.seeds[1], "fail", "nan")]


@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize("cause", ["nan", "oom", "error"])
def test_an_arm_that_fails_with_every_seed_does_not_stop_the_run(tmp_path, cause, number):
    bad = Outcome("fail", cause=cause, reason="It failed.", seconds=1.0)

    def scored(task: Task) -> Outcome:
        if task.arm != "cbam everywhere" or task.stage != "retrain":
            return ended(task)
        return replace(bad, further=tuple(Further(seed, {}, bad) for seed in task.further_seeds if cause == "nan"))

    with stages_in(tmp_path, budget={"seeds": 5}, seeds_at_once=number) as stages:
        work(stages, scored)
        assert stages.error is None
        found, n_arms = rows(stages), len(stages.arms())
    assert len(found) == 5 * (n_arms - 1)


def test_failures_of_two_arms_in_a_row_stop_the_run(tmp_path):
    bad = Outcome("fail", cause="error", reason="It failed.", seconds=1.0)
    with stages_in(tmp_path, budget={"seeds": 5}) as stages:
        work(stages, lambda task: bad if task.stage == "retrain" else ended(task))
        assert "5 trials in a row failed with the same cause" in str(stages.error)


class Stored(dict[Any, tuple[int, bytes]]):
    """Checkpoints in memory."""

    def write(self, identity: Any, epoch: int, content: bytes) -> None:
        """Store one."""
        self[identity] = (epoch, content)

    def read(self, identity: Any) -> tuple[int, bytes] | None:
        """Return one, or None."""
        return self.get(identity)

    def delete(self, identity: Any) -> None:
        """Delete one, if there is any."""
        self.pop(identity, None)


def test_a_training_that_was_begun_alone_is_continued_alone_and_the_others_are_not(tmp_path):
    checkpoints = Stored()
    with stages_in(tmp_path, budget={"seeds": 4}, checkpoints=checkpoints) as stages:
        first = retraining(stages)
        stages.report(first, 1, 0.5)
        stages.save(first, b"state")
    with stages_in(tmp_path, budget={"seeds": 4}, seeds_at_once=4, checkpoints=checkpoints) as stages:
        tasks = [task for task in by_stage(work(stages, ended), "retrain") if task.placement == first.placement]
        assert set(rows(stages).values()) == {1}
    assert [(task.checkpoint, len(task.further_seeds)) for task in tasks] == [(b"state", 0), (None, 2)]
    assert not checkpoints


def test_a_killed_driver_trains_all_seeds_of_the_task_again(tmp_path):
    with stages_in(tmp_path, budget={"seeds": 3}, seeds_at_once=3) as stages:
        retraining(stages)
    with stages_in(tmp_path, budget={"seeds": 3}, seeds_at_once=2) as stages:
        work(stages, ended)
        found, n_arms = rows(stages), len(stages.arms())
    assert set(found.values()) == {1}
    assert len(found) == 3 * n_arms


def retrained(run: RunRecord) -> dict[tuple[str, int], Any]:
    """Return the retrainings by arm and seed."""
    return {(row.key, row.seed): row for row in run.retrain}


def test_a_whole_run_has_the_values_of_single_trainings(tmp_path):
    space = tiny_space(tmp_path)
    one = search(space, out=tmp_path / "one", seeds=3, seeds_at_once=1, **TINY)
    at_once = search(space, out=tmp_path / "three", seeds=3, seeds_at_once=3, **TINY)
    single, together = retrained(one), retrained(at_once)
    assert single.keys() == together.keys()
    for place, row in together.items():
        alone = single[place]
        assert (row.state, row.epochs) == ("complete", alone.epochs)
        assert row.value == pytest.approx(alone.value, abs=0.01)
        assert row.curve == pytest.approx(alone.curve, abs=0.02)
        assert row.facts["train_loss"] == pytest.approx(alone.facts["train_loss"], rel=1e-3)
    assert [row.seed for row in at_once.retrain[:3]] == [row.seed for row in at_once.retrain[:1]] + [20001, 20002]
    again = search(space, out=tmp_path / "three", seeds=3, **TINY)
    assert again.retrain == load_run(tmp_path / "three").retrain == at_once.retrain, "the setting is not of the run"


def test_a_seed_whose_network_predicts_no_number_fails_alone(tmp_path, monkeypatch):
    built, predicted = trial.build, trial.predict
    poisoned: list[Any] = []

    def build(*args: Any, seed: int, **more: Any) -> Any:
        model = built(*args, seed=seed, **more)
        poisoned.extend([model] if seed == 20001 else [])
        return model

    def predict(model: Any, images: Any) -> Any:
        return predicted(model, images) * (float("nan") if any(model is one for one in poisoned) else 1.0)

    monkeypatch.setattr(trial, "build", build)
    monkeypatch.setattr(trial, "predict", predict)
    run = search(tiny_space(tmp_path), out=tmp_path / "run", seeds=3, seeds_at_once=3, objective="auc", **TINY)
    none = {row.seed: (row.state, row.cause) for row in run.retrain if not len(row.placement)}
    assert none == {20000: ("complete", None), 20001: ("fail", "error"), 20002: ("complete", None)}


def test_a_network_that_draws_random_numbers_trains_as_without_the_setting(tmp_path):
    space = tiny_space(tmp_path)
    space.write_text(space.read_text().replace("[backbone]", "[backbone]\ndrop_rate = 0.2"))
    few = {**TINY, "epochs": 1, "controls": 0, "seeds": 2}
    one = search(space, out=tmp_path / "one", **few)
    at_once = search(space, out=tmp_path / "two", seeds_at_once=2, **few)
    assert {place: row.value for place, row in retrained(one).items()} == {
        place: row.value for place, row in retrained(at_once).items()
    }
    assert (
        "Seeds of some arms are trained one at a time in spite of --seeds-at-once. The network draws random numbers in "
        "training, such as for dropout." in (tmp_path / "two" / "report.html").read_text()
    )


def train(model: Any, run: Any) -> float:
    """A training of one's own."""
    return 0.5


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"train": train, "num_classes": 2, "in_channels": 1, "image_size": 8}, "--train has its own training"),
        ({"compile": "default"}, "--compile default compiles each network"),
        ({"freeze_epochs": 1}, "--freeze-epochs 1 changes which weights are trained"),
        ({"trial_timeout": "5m"}, "--trial-timeout limits each training"),
        ({"time_budget": "5m"}, "--time-budget plans seed by seed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_trainings_that_are_never_one_are_refused(tmp_path: Path, stated: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        search(tiny_space(tmp_path), out=tmp_path / "run", seeds_at_once=3, **TINY, **stated)
    assert str(error.value) == (
        f"--seeds-at-once 3 needs the usual built-in training, but {reason}: leave --seeds-at-once out."
    )
    assert not (tmp_path / "run").exists()
