"""Whole runs on digits: by each executor, killed in each stage, interrupted, extended, refused."""

from __future__ import annotations

import json
import os
import random
import runpy
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from conftest import at_night
from runs import ROOT, SETTINGS, check_finished, command, finish, kill, start, tiny_space, trained, wait_for

import nas_attn
from nas_attn import ATTENTIONS
from nas_attn.cli.commands import main
from nas_attn.config import DataConfig
from nas_attn.data.dataset import load_data
from nas_attn.errors import ConfigError, Interrupted, RunError
from nas_attn.records import RunRecord
from nas_attn.report.verdict import verdict
from nas_attn.run.folder import load_run
from nas_attn.run.job import search
from nas_attn.training.loop import accuracy


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_space(tmp_path_factory.mktemp("space"))


@pytest.fixture(scope="module")
def local_run(space: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """One run by the local executor, which the tests only read."""
    return search(space, out=tmp_path_factory.mktemp("local") / "run", executor="local", **SETTINGS)


def values(run: RunRecord) -> list[tuple[str, str, int, float | None]]:
    """Return what equal runs have in common."""
    rows = (*run.search, *run.confirm, *run.retrain)
    return sorted((row.stage, row.key, row.seed, row.value) for row in rows)


def test_a_run_leaves_a_model_that_says_what_its_file_says(local_run: RunRecord) -> None:
    run = check_finished(local_run.folder)
    assert run.best is not None
    model = nas_attn.load_model(run.folder / "best.json")
    test = load_data(DataConfig()).test
    measured = accuracy(model, test)
    first = min(int(seed) for seed in run.best["metrics"]["test"]["by_seed"])
    assert measured == run.best["metrics"]["test"]["by_seed"][str(first)]
    assert model.class_names == tuple("0123456789")
    pixels = test.pixels[:4]
    assert torch.equal(
        model(model.preprocess(pixels)).argmax(1), model(model.preprocess(pixels.float() / 255)).argmax(1)
    )
    again = nas_attn.load_model(run.folder / "best.json")
    assert torch.equal(model(model.preprocess(pixels)), again(again.preprocess(pixels)))


def test_what_is_reported_names_its_split_its_seeds_and_its_source(local_run: RunRecord) -> None:
    best = local_run.best
    assert best is not None
    assert best["metrics"]["test"]["n"] == 2
    assert set(best["metrics"]["validation"]["by_seed"]).isdisjoint(best["metrics"]["test"]["by_seed"])
    assert best["cost"]["n_parameters"] > 0
    assert best["cost"]["latency_ms"] > 0
    provenance = best["provenance"]
    assert len(provenance["data"]["facts"]["fingerprint"]) == 64
    assert provenance["versions"]["torch"] == torch.__version__.split("+")[0]
    assert local_run.config["sites"]["sites"][0]["name"] == "denseblock1.layer1.conv"


def test_test_images_are_read_by_retrainings_only(local_run: RunRecord) -> None:
    facts = local_run.config["data"]["facts"]
    for row in (*local_run.search, *local_run.confirm):
        assert row.value is not None
        assert (row.value * facts["n_val"]) == pytest.approx(round(row.value * facts["n_val"]))
    for row in local_run.retrain:
        assert row.value is not None
        assert (row.value * facts["n_test"]) == pytest.approx(round(row.value * facts["n_test"]))


def test_the_report_of_a_run_has_its_figures(
    local_run: RunRecord, tmp_path: Path, write_report: Callable[[RunRecord, Path], Path]
) -> None:
    page = write_report(local_run, tmp_path).read_text()
    drawn = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert drawn >= {"arms", "differences", "cost", "history", "network"}
    assert page.count("<svg") >= len(drawn)


def test_every_arm_is_there_under_its_name(local_run: RunRecord) -> None:
    labels = {name for row in local_run.retrain for name in str(row.label).split(" = ")}
    assert labels == {"none", "se everywhere", "cbam everywhere", "found #1", "random"}


def test_a_finished_command_repeated_shows_its_result_and_trains_nothing(
    space: Path, local_run: RunRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    assert repeat(command(space, local_run.folder)) == 0
    assert "report.html" in capsys.readouterr().out
    assert repeat([*command(space, local_run.folder), "--dry-run"]) == 0
    preview = " ".join(capsys.readouterr().out.split())
    assert "which is finished: it has 5 search, 4 confirm and " in preview
    assert repeat([*command(space, local_run.folder, batch_size=32), "--dry-run"]) == 0
    assert "Refused: The run " in capsys.readouterr().out
    assert values(load_run(local_run.folder)) == values(local_run)


def test_both_executors_give_the_same_trials_and_values(space: Path, local_run: RunRecord, tmp_path: Path) -> None:
    words = command(space, tmp_path / "run", executor="tune", workers=1)
    code, output = finish(start(words, tmp_path))
    assert code == 0, output
    assert values(check_finished(tmp_path / "run")) == values(local_run)
    assert "ray" not in output.lower().replace("arrays", ""), "Ray's own chatter does not reach the user"


def repeat(words: list[str]) -> int:
    """Run a command again, in this process: the imports of a new one take longer than the run."""
    return main(words[words.index("nas_attn") + 1 :])


def kill_in(stage: str, words: list[str], out: Path) -> None:
    """Start a command, and kill it at some moment of a stage."""
    moment = random.Random(f"seed of {stage}")
    process = start(words, out.parent)
    begun = {"search": f"begin search {moment.randrange(1, 5)}:", "confirm": f"begin confirm {moment.randrange(4)}:",
             "retrain": "begin retrain 5:"}  # fmt: skip
    if stage == "export":
        wait_for(out / "best.safetensors", "", process, every=0.001)
    else:
        wait_for(out / "log.txt", begun[stage], process)
        time.sleep(moment.random() * 0.05)
    kill(process)


@pytest.mark.parametrize(
    "stages", [["confirm"], pytest.param(["search", "retrain", "export"], marks=pytest.mark.nightly)], ids=" ".join
)
def test_a_killed_driver_is_resumed_by_the_same_command(space: Path, tmp_path: Path, stages: list[str]) -> None:
    out = tmp_path / "run"
    words = command(space, out)
    for stage in stages:
        kill_in(stage, words, out)
    assert repeat(words) == 0
    check_finished(out)


def worker_of(driver: int) -> int:
    """Return the process that trains."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for child in psutil.Process(driver).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "Trainable" in child.name():
                    return child.pid
    raise AssertionError("no worker was found")


@pytest.mark.nightly
def test_tune_trains_again_what_a_killed_worker_and_a_killed_driver_cut_off(space: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = command(space, out, executor="tune", workers=2, epochs=6)
    process = start(words, tmp_path)
    wait_for(out / "log.txt", "begin search 1:", process)
    os.kill(worker_of(process.pid), signal.SIGKILL)
    wait_for(out / "log.txt", "end search 2:", process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) > 3
    assert not [child for child in children if "autoscaler" in " ".join(child.cmdline())], "a process without a use"
    kill(process)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive, f"still there after ten seconds: {alive}"

    code, output = finish(start(words, tmp_path))
    assert code == 0, output
    run = check_finished(out)
    crashed = [row for row in run.search if row.cause == "crashed"]
    assert len(crashed) == 1
    assert crashed[0].key in {key for _, key, _ in trained(run.search)}


@pytest.mark.parametrize(
    ("name", "executor"),
    [
        (signal.SIGTERM, "local"),
        pytest.param(signal.SIGINT, "local", marks=pytest.mark.nightly),
        pytest.param(signal.SIGINT, "tune", marks=pytest.mark.nightly),
        pytest.param(signal.SIGTERM, "tune", marks=pytest.mark.nightly),  # Ray installs a handler of its own
    ],
)
def test_a_second_driver_is_refused_and_an_interrupt_closes_the_ledger_for_the_same_command(
    space: Path, tmp_path: Path, executor: str, name: signal.Signals
) -> None:
    out = tmp_path / "run"
    resources = {"workers": 1} if executor == "tune" else {}
    words = command(space, out, executor=executor, epochs=20, **resources)
    process = start(words, tmp_path)
    wait_for(out / "log.txt", "begin search 1:", process)
    with pytest.raises(RunError, match="another live process uses"):
        search(space, out=out, executor="local", **{**SETTINGS, "epochs": 20})
    os.kill(process.pid, name)
    code, output = finish(process)
    assert code == 130, output
    assert "Traceback" not in output
    assert "the same command resumes the run" in output
    assert "running" not in {row.state for row in load_run(out).search}
    assert not (out / "study.db-wal").exists() or (out / "study.db-wal").stat().st_size == 0
    assert [row.cause for row in load_run(out).search if row.state == "fail"] == ["interrupted"]


def test_settings_that_would_mix_results_are_refused_with_the_difference(space: Path, local_run: RunRecord) -> None:
    before = (local_run.folder / "config.json").read_text()
    with pytest.raises(
        RunError, match=r"another search \(recipe\.epochs was 2, now 3; recipe\.lr was 0\.1, now 0\.2\)"
    ):
        search(space, out=local_run.folder, executor="local", **{**SETTINGS, "epochs": 3, "lr": 0.2})
    with pytest.raises(RunError, match=r"seed was 0, now 1"):
        search(space, out=local_run.folder, executor="local", **SETTINGS, seed=1)
    assert (local_run.folder / "config.json").read_text() == before


def test_a_larger_budget_extends_the_run(space: Path, local_run: RunRecord, tmp_path: Path) -> None:
    shutil.copytree(local_run.folder, tmp_path / "run")
    search(space, out=tmp_path / "run", executor="local", **{**SETTINGS, "trials": 7, "seeds": 3})
    run = check_finished(tmp_path / "run", trials=7, seeds=3)
    left = {("retrain", row.key) for row in local_run.retrain} - {("retrain", row.key) for row in run.retrain}
    kept = {value for value in values(local_run) if value[:2] not in left}
    assert len(left) <= 2, "found #1 may be another one now, and its random control with it"
    assert set(values(run)) >= kept, "what was trained is kept"


def test_tables_that_were_lost_or_emptied_are_written_again_by_the_same_command(
    space: Path, local_run: RunRecord, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(local_run.folder, out)
    before = {name: (out / name).read_text() for name in ("arms.csv", "trials.csv")}
    (out / "arms.csv").unlink()
    (out / "trials.csv").write_text("")
    (out / "report.md").unlink()
    search(space, out=out, executor="local", **SETTINGS)
    assert (out / "arms.csv").read_text() == before["arms.csv"]
    assert (out / "trials.csv").read_text() == before["trials.csv"]
    assert (out / "report.md").stat().st_size


def test_an_interrupt_while_costs_are_measured_leaves_the_result(
    space: Path, local_run: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(local_run.folder, out)
    for name in ("measured.json", "best.json", "report.html"):
        (out / name).unlink()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("nas_attn.run.arm_costs.measure_arms", interrupted)
        with pytest.raises(Interrupted, match=r"holds the result, and the same command adds the costs\."):
            search(space, out=out, executor="local", **SETTINGS)
    run = load_run(out)
    assert (out / "report.html").exists()
    assert run.best is not None
    assert verdict(run).split(".")[0] == verdict(local_run).split(".")[0]
    assert not run.measured
    search(space, out=out, executor="local", **SETTINGS)
    assert load_run(out).measured.keys() == local_run.measured.keys()


def test_a_folder_with_other_files_is_no_run(space: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(
        RunError, match=r"contains other files and no config\.json, so it is not a run: choose another --out\."
    ):
        search(space, out=tmp_path, executor="local", **SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"executor": "local", "workers": 2}, r"--executor local runs one trial at a time, but got --workers 2"),
        ({"executor": "local", "device": "cuda"}, r"--device cuda needs a GPU .* none was found"),
        ({"executor": "local", "gpus_per_trial": 1.0}, r"--gpus-per-trial needs --device cuda.*no GPU was found"),
        ({"trails": 3}, r"Unknown setting 'trails': did you mean 'trials'\?"),
        ({"trials": 0}, r"'trials' in the settings must be a whole number from 1 to 1,000,000, but got 0\."),
    ],
)
def test_settings_that_cannot_be_met_are_refused_before_anything_is_written(
    space: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        search(space, out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def train_that_fails(model: torch.nn.Module, run: object) -> float:
    """Fail as a broken training does."""
    raise ValueError("broken on purpose")


def test_a_training_that_always_fails_stops_the_run_and_says_why(space: Path, tmp_path: Path) -> None:
    with pytest.raises(nas_attn.NasAttnError, match=r"5 trials in a row .* ValueError: broken on purpose"):
        search(
            space,
            train=train_that_fails,
            out=tmp_path / "run",
            executor="local",
            num_classes=10,
            in_channels=1,
            image_size=8,
            **SETTINGS,
        )
    run = load_run(tmp_path / "run")
    assert {row.cause for row in run.search} == {"error"}
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    "words",
    at_night(
        [
            "own_study.py --trials 2 --epochs 1",
            "own_attention.py --trials 3 --epochs 1 --seeds 1 --executor local --out run",
            "own_training.py --trials 3 --epochs 1 --seeds 1 --executor local --out run",
            "own_segmentation.py --trials 2 --epochs 1 --seeds 1 --executor local --out run",
        ],
        but=["own_study.py --trials 2 --epochs 1"],
    ),
)
def test_each_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    script, *options = words.split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *options])
    try:
        runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
    finally:
        for record in ATTENTIONS.registered:
            ATTENTIONS.unregister(record.name)
    output = capsys.readouterr().out
    assert " with " in output or "report: " in output


@pytest.mark.nightly
def test_the_example_of_a_tune_job_runs(tmp_path: Path, run_python) -> None:
    script = ROOT / "examples" / "own_tune_job.py"
    done = run_python(script, "--trials", "2", "--epochs", "1", "--workers", "1", timeout=200)
    assert done.returncode == 0, done.stderr
    assert " with " in done.stdout


def test_best_so_far_follows_the_search(local_run: RunRecord) -> None:
    best = json.loads((local_run.folder / "best-so-far.json").read_text())
    complete = [row for row in local_run.search if row.state == "complete"]
    assert best["validation_accuracy"] == max(row.value for row in complete)
