"""Runs of an earlier version are read, loaded and resumed as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from nas_attn import load_model, load_run, search
from nas_attn.errors import RunError
from nas_attn.records import RunRecord

SETTINGS = {
    "trials": 4, "epochs": 2, "batch_size": 64, "seeds": 2, "top": 1, "cpus_per_trial": 1, "executor": "local",
}  # fmt: skip


@pytest.fixture
def runs(root: Path, tmp_path: Path) -> Path:
    """A copy of the run folders, which a search may write to."""
    return Path(shutil.copytree(root / "tests" / "old_runs", tmp_path / "runs"))


def resumed(runs: Path, name: str, **settings: object) -> RunRecord:
    return search(runs / "tiny.toml", out=runs / name, **{**SETTINGS, **settings})


def test_a_finished_run_is_read_whole(runs: Path) -> None:
    run = load_run(runs / "finished")
    assert [row.state for row in run.search] == ["complete"] * 4
    assert (len(run.confirm), len(run.retrain)) == (4, 8)
    assert {row.label for row in run.retrain} >= {"none", "se everywhere", "cbam everywhere"}
    assert run.table is not None
    assert {site.name for site in run.table.sites} >= {"denseblock1", "denseblock2"}
    assert run.best is not None
    assert run.best["recommended"] == "found #1"
    assert len(run.measured) == 4


def test_its_model_is_loaded_with_its_weights(runs: Path) -> None:
    model = load_model(runs / "finished" / "best.json").eval()
    assert str(model.placement) == "se(bias=True, reduction=4) at denseblock2"
    assert model.class_names == tuple("0123456789")
    with torch.no_grad():
        logits = model(torch.zeros(2, 1, 8, 8))
    assert logits.shape == (2, 10)
    torch.testing.assert_close(logits[0], logits[1])


def test_a_finished_run_is_not_trained_again(runs: Path) -> None:
    before = load_run(runs / "finished")
    after = resumed(runs, "finished")
    assert (after.search, after.confirm, after.retrain) == (before.search, before.confirm, before.retrain)
    assert before.best is not None
    assert after.best is not None
    assert after.best["recommended"] == "none", "two seeds allow no interval, so the rule of today recommends nothing"
    found = load_model(runs / "finished", arm="found #1")
    assert found.placement.to_dict() == before.best["placement"]


def test_as_many_placements_as_then_are_confirmed_where_the_number_is_not_stated(runs: Path) -> None:
    before = load_run(runs / "finished")
    without = {name: value for name, value in SETTINGS.items() if name != "top"}
    after = search(runs / "tiny.toml", out=runs / "finished", **without)
    assert after.confirm == before.confirm


def test_a_larger_budget_extends_it(runs: Path) -> None:
    before = load_run(runs / "finished")
    after = resumed(runs, "finished", trials=5)
    assert after.search[:4] == before.search
    assert len({row.key for row in after.search}) == 5


def test_an_interrupted_run_is_resumed_to_its_end(runs: Path) -> None:
    before = load_run(runs / "interrupted")
    assert [row.state for row in before.search] == ["complete", "complete", "running"]
    after = resumed(runs, "interrupted")
    assert after.search[:2] == before.search[:2]
    assert (after.search[2].state, after.search[2].cause) == ("fail", "interrupted")
    finished = [row.key for row in after.search if row.state == "complete" and row.answered_from is None]
    assert len(set(finished)) == 4
    assert after.best is not None


def test_another_recipe_on_it_is_refused_with_the_difference(runs: Path) -> None:
    with pytest.raises(RunError, match=r"belongs to another search \(recipe\.lr was 0\.1, now 0\.05\)"):
        resumed(runs, "finished", lr=0.05)


def test_a_setting_that_did_not_exist_then_counts_as_it_behaved(runs: Path) -> None:
    path = runs / "finished" / "config.json"
    config = json.loads(path.read_text())
    del config["recipe"]["backbone_lr"]
    path.write_text(json.dumps(config))
    assert resumed(runs, "finished").best is not None
    with pytest.raises(RunError, match=r"recipe\.backbone_lr was 1\.0, now 0\.5"):
        resumed(runs, "finished", backbone_lr=0.5)
