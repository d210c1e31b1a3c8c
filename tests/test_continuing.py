"""A training that was interrupted continues from its checkpoint, with the result that it would have had."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import sqlite3
import subprocess
import time
import tomllib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from runs import command, finish, kill, start, tiny_space
from torch import nn

from nas_attn.config import DataConfig, Recipe
from nas_attn.placement import Placement, Shape
from nas_attn.records import AGAIN, CONTINUED, Outcome, Task, TrialRecord
from nas_attn.run.folder import load_run
from nas_attn.run.running_files import CheckpointFiles
from nas_attn.study.checkpoints import Checkpoints
from nas_attn.training.context import TrialContext
from nas_attn.training.ends import Stopped
from nas_attn.training.keeper import Keeper
from nas_attn.training.state import decode, encode, plain_copy
from nas_attn.training.trial import Run, evaluate, prepare

BACKBONE = {"name": "densenet", "growth_rate": 4, "block_config": [1], "num_init_features": 4, "stem": "small"}
PLACED = Placement.from_dict({"denseblock1": {"name": "cbam", "reduction": 4}})
IDENTITY = ("search", "abc", 0, 4)
SHORT = {"trials": 2, "epochs": 80, "seeds": 1, "controls": 0}


def trained(context: TrialContext, task: Task, keeper: Keeper, last: int = 99) -> tuple[Outcome, list[object]]:
    """Train, and stop at the report of the epoch after `last`."""
    reports: list[object] = []

    def report(epoch: int, value: float) -> None:
        if epoch > last:
            raise Stopped
        reports.append((epoch, value))

    return evaluate(task, context, report, keeper), reports


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stage", ["search", "retrain"])
def test_a_continued_training_has_bit_equal_weights_value_and_curve(optimizer, stage):
    recipe = Recipe(optimizer=optimizer, augment="crop", freeze_epochs=1, epochs=4)
    context = TrialContext(BACKBONE, Shape(10, 1, 8), recipe, data=DataConfig(), n_threads=1)
    prepare(context)
    task = Task(0, stage, PLACED, seed=3, epochs=4, artifacts=("weights",))
    whole, curve = trained(context, task, Keeper())
    saved: list[bytes] = []
    trained(context, task, Keeper(1e-9, saved.append), last=2)
    again, same = trained(context, task, Keeper(content=saved[-1]))
    assert (again.value, again.artifacts, same) == (whole.value, whole.artifacts, curve)
    assert again.facts[CONTINUED] == 2
    assert again.facts["train_loss"] == whole.facts["train_loss"]


def own_training(model: nn.Module, run: Run) -> float:
    """Add a drawn number per epoch."""
    state = run.restored or {"epoch": 0, "total": 0.0, "generator": np.random.RandomState(run.seed).get_state()}
    generator = np.random.RandomState()
    generator.set_state(state["generator"])
    total = state["total"]
    for epoch in range(state["epoch"] + 1, run.epochs + 1):
        total += generator.rand()
        run.report(epoch, total)
        run.checkpoint({"epoch": epoch, "total": total, "generator": generator.get_state()})
    return total


def test_a_training_of_ones_own_continues_from_its_own_state_and_its_curve_is_whole():
    context = TrialContext(BACKBONE, Shape(2, 1, 8), Recipe(), train=own_training)
    task = Task(0, "search", PLACED, seed=3, epochs=5)
    whole, curve = trained(context, task, Keeper())
    saved: list[bytes] = []
    trained(context, task, Keeper(1e-9, saved.append), last=3)
    again, same = trained(context, task, Keeper(content=saved[-1]))
    assert (again.value, same, again.facts[CONTINUED]) == (whole.value, curve, 3)


@pytest.mark.parametrize(("state", "words"), [
    ({"fn": print}, "but state['fn'] is a builtin_function_or_method: store its state_dict() or its numbers"),
    ([{"a": {1, 2}}], "but state[0]['a'] is a set"),
    (nn.Linear(1, 1), "but state is a Linear"),
])  # fmt: skip
def test_a_state_that_cannot_be_loaded_safely_is_refused_at_the_call(state, words):
    def training(model: nn.Module, run: Run) -> float:
        run.checkpoint(state)
        return 0.5

    context = TrialContext(BACKBONE, Shape(2, 1, 8), Recipe(), train=training)
    outcome, _ = trained(context, Task(0, "search", PLACED, seed=0, epochs=2), Keeper())
    assert outcome.cause == "error"
    assert words in outcome.reason


def test_plain_data_tensors_and_arrays_survive_and_share_no_memory():
    weights = nn.BatchNorm1d(2)
    state = {"net": weights.state_dict(), "list": [1, (2.5, None, "x")], "array": np.arange(3, dtype=np.uint32)}
    found = decode(encode(plain_copy(state)))
    with torch.no_grad():
        weights.running_mean.add_(5)
    assert found["list"] == [1, (2.5, None, "x")]
    assert found["array"].tolist() == [0, 1, 2]
    assert found["net"]["running_mean"].tolist() == [0, 0]


def test_a_checkpoint_of_something_else_is_not_used_and_the_training_begins_anew():
    context = TrialContext(BACKBONE, Shape(10, 1, 8), Recipe(epochs=2), data=DataConfig(), n_threads=1)
    prepare(context)
    task = Task(0, "search", PLACED, seed=3, epochs=2)
    whole, _ = trained(context, task, Keeper())
    other = {"format": 1, "curve": [(1, 0.5)], "seconds": 1.0, "state": {"model": {"x": torch.zeros(1)}}}
    for content, words in ((b"no checkpoint", "it cannot be read"), (encode(other), "Missing key")):
        keeper = Keeper(content=content)
        outcome, _ = trained(context, task, keeper)
        assert outcome.value == whole.value
        assert CONTINUED not in outcome.facts
        assert "so it begins anew" in keeper.note
        assert words in keeper.note


def test_a_keeper_saves_once_per_period_and_holds_the_newest_state_for_an_interrupt():
    saved: list[bytes] = []
    keeper = Keeper(1000, saved.append)
    keeper.curve[1] = 0.5
    keeper.offer(lambda: {"epoch": 1})
    assert not saved
    content = decode(keeper.unsaved())
    assert (content["state"], content["curve"]) == ({"epoch": 1}, [(1, 0.5)])
    assert keeper.unsaved() is None
    off = Keeper(None, saved.append)
    off.offer(lambda: pytest.fail("nothing is copied when nothing is saved"))


def test_a_checkpoint_file_is_proved_by_its_checksum(tmp_path: Path, caplog):
    files = CheckpointFiles(tmp_path / "checkpoints")
    files.write(IDENTITY, 3, b"one\ntwo")
    assert files.read(IDENTITY) == (3, b"one\ntwo")
    (path,) = (tmp_path / "checkpoints").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert files.read(IDENTITY) is None
    assert "is damaged, so its training begins anew: its checksum does not match" in caplog.text
    assert not path.exists()
    files.write(IDENTITY, 3, b"one")
    files.clear()
    assert not (tmp_path / "checkpoints").exists()


def test_rows_count_the_epochs_that_an_interruption_cost(tmp_path: Path):
    task = Task(7, "search", PLACED, seed=0, epochs=9)
    store = CheckpointFiles(tmp_path)
    first = Checkpoints(store, [])
    first.begin(task)
    for epoch in (1, 2, 3):
        first.report(task, epoch)
        if epoch == 2:
            first.save(task, b"state")
    assert first.end(task, Outcome("fail", cause="crashed")).facts == {}
    assert first.begin(task).checkpoint == b"state", "a crashed worker's trial continues in the same session"
    killed = TrialRecord(7, "search", "fail", PLACED, PLACED.key, 0, 9, cause="interrupted", curve={1: 0.1, 5: 0.2})
    second = Checkpoints(store, [killed])
    second.begin(task)
    second.report(task, 9)
    facts = second.end(task, Outcome("complete", 0.5, facts={CONTINUED: 2.0})).facts
    assert (facts[CONTINUED], facts[AGAIN]) == (2, 3)
    assert store.read((task.stage, PLACED.key, 0, 9)) is None, "deleted at the trial's end"


def test_a_disk_that_refuses_a_checkpoint_does_not_end_the_search(caplog):
    class Full(CheckpointFiles):
        def write(self, identity, epoch, content):
            raise OSError(28, "No space left on device")

    checkpoints = Checkpoints(Full(Path("nowhere")), [])
    task = replace(Task(7, "search", PLACED, seed=0, epochs=9))
    checkpoints.save(task, b"x")
    checkpoints.save(task, b"x")
    assert caplog.text.count("could not be stored") == 1


def n_epochs(out: Path) -> int:
    """Return the number of epochs in a ledger that its driver is writing."""
    with suppress(sqlite3.Error):
        connection = sqlite3.connect(f"file:{out}/study.db?mode=ro", uri=True)
        return int(connection.execute("select count(*) from trial_intermediate_values").fetchone()[0])
    return 0


def interrupted_in_mid_trial(
    words: list[str], out: Path, folder: Path, *, seconds: float = 90
) -> subprocess.Popen[str]:
    """Start a run, and return it in the midst of its first trial, of which about ten epochs are validated."""
    process = start(words, folder)
    deadline = time.monotonic() + seconds
    while n_epochs(out) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    return process


def result(out: Path) -> str:
    """Return a digest of all finished trainings with their curves."""
    run = load_run(out)
    rows = [row for row in (*run.search, *run.confirm, *run.retrain) if row.state == "complete"]
    found = sorted((row.stage, row.key, row.seed, row.value, sorted(row.curve.items())) for row in rows)
    return hashlib.sha256(repr(found).encode()).hexdigest()


@pytest.mark.nightly
@pytest.mark.parametrize("executor", ["local", pytest.param("tune", marks=pytest.mark.cluster)])
def test_a_run_killed_and_interrupted_in_mid_trial_ends_as_if_nothing_had_been(executor, tmp_path: Path):
    settings = {**SHORT, "executor": executor, **({"workers": 1} if executor == "tune" else {})}
    space = tiny_space(tmp_path)
    assert finish(start(command(space, tmp_path / "whole", **settings), tmp_path))[0] == 0
    words = command(space, tmp_path / "killed", **settings, checkpoint_every=0.00001)
    kill(interrupted_in_mid_trial(words, tmp_path / "killed", tmp_path))
    assert finish(start(words, tmp_path))[0] == 0
    rare = command(space, tmp_path / "stopped", **settings, checkpoint_every=100)
    process = interrupted_in_mid_trial(rare, tmp_path / "stopped", tmp_path)
    os.kill(process.pid, signal.SIGINT)
    assert finish(process)[0] == 130
    assert finish(start(rare, tmp_path))[0] == 0
    for name in ("killed", "stopped"):
        out = tmp_path / name
        assert result(out) == result(tmp_path / "whole")
        run = load_run(out)
        rows = (*run.search, *run.confirm, *run.retrain)
        assert any(CONTINUED in row.facts for row in rows), "it did not begin anew"
        assert not (out / "checkpoints").exists()


def kill_worker(process: subprocess.Popen[str]) -> None:
    """Kill the process of Ray in which the training runs, and nothing else."""
    children = psutil.Process(process.pid).children(recursive=True)
    names = {child.pid: child.name() for child in children}
    workers = [child for child in children if names[child.pid].startswith(("ray::Worker", "ray::ResourceTrainable"))]
    assert len(workers) == 1, f"one trial runs at a time: {names}"
    workers[0].kill()


def n_complete(out: Path) -> int:
    """Return the number of complete trials in the ledger of a living run."""
    with sqlite3.connect(f"file:{out / 'study.db'}?mode=ro", uri=True) as connection:
        return int(connection.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()[0])


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_trial_whose_worker_alone_was_killed_continues_from_its_checkpoint_in_the_same_run(tmp_path: Path):
    space, out, settings = tiny_space(tmp_path), tmp_path / "run", {**SHORT, "trials": 1, "epochs": 400}
    words = command(space, out, **settings, executor="tune", workers=1, checkpoint_every=0.00001)
    process = interrupted_in_mid_trial(words, out, tmp_path, seconds=240)
    try:
        kill_worker(process)
        deadline = time.monotonic() + 240
        while not n_complete(out) and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
    finally:
        kill(process)
    dead, again = load_run(out).search
    assert (dead.state, dead.cause) == ("fail", "crashed")
    assert (again.key, again.seed, again.state) == (dead.key, dead.seed, "complete")
    assert again.facts[CONTINUED] >= 7, "it did not begin anew"
    backbone = tomllib.loads(space.read_text())["backbone"]
    recipe = Recipe(batch_size=64, epochs=400)
    context = TrialContext(backbone, Shape(10, 1, 8), recipe, data=DataConfig(), n_threads=1)
    prepare(context)
    whole, curve = trained(context, Task(0, "search", again.placement, seed=again.seed, epochs=400), Keeper(), last=400)
    assert again.value == whole.value
    assert sorted(again.curve.items()) == [point for point in curve if math.isfinite(point[1])]
