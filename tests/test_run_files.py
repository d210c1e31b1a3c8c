"""Every file that a run reads back is proved, and made again if it fails; a lost ledger is never begun anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from own_runs import no_report, run, write_no_report
from torch import nn
from torch.nn.utils import parametrizations, prune

from nas_attn import load_model, load_run
from nas_attn.errors import FileError, RunError
from nas_attn.run.trial_files import TrialFiles

pytestmark = pytest.mark.usefixtures("no_report")
__all__ = ["no_report"]


def fit(model: nn.Module, run: object) -> float:
    run.record_predictions(np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 1]))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01)
    return 0.5 + 0.01 * (run.seed % 7)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which the tests copy."""
    with pytest.MonkeyPatch.context() as patch:
        write_no_report(patch)
        return run(fit, tmp_path_factory.mktemp("finished") / "run").folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "damage", [truncate, *(pytest.param(way, marks=pytest.mark.nightly) for way in (alter, empty, Path.unlink))]
)
@pytest.mark.parametrize(
    "name", ["retrained/*.safetensors", "predictions/*-20000-1.npz", "measured.json", "best.json", "arms/*.json"]
)
def test_a_damaged_file_is_made_again_by_the_same_command(copy: Path, name: str, damage: object) -> None:
    before = {path: path.stat().st_size for path in copy.rglob(name)}
    assert before
    for path in before:
        damage(path)
    record = run(fit, copy)
    assert {path: path.stat().st_size for path in before if path.name != "measured.json"} == {
        path: size for path, size in before.items() if path.name != "measured.json"
    }
    assert record.best is not None
    assert record.measured
    assert load_model(copy) is not None
    is_said = any("so these trainings were repeated: '" in remark for remark in record.remarks)
    assert is_said is name.startswith(("retrained", "predictions"))
    n_rows = len(record.retrain)
    assert len(run(fit, copy).retrain) == n_rows, "a second repeat trains nothing"


def test_a_file_of_an_older_version_is_proved_by_its_format(tmp_path: Path) -> None:
    files = TrialFiles(tmp_path, ".npz")
    np.savez(files.path("a", 0, 1), x=np.zeros(3))
    assert files.has("a", 0, 1)
    truncate(files.path("a", 0, 1))
    assert (files.has("a", 0, 1), files.is_lost("a", 0, 1), files.read("a", 0, 1)) == (False, True, None)
    assert not files.is_lost("b", 0, 1)


@pytest.mark.parametrize(("damage", "what"), [(Path.unlink, "is missing"), (empty, "is empty")])
def test_a_lost_ledger_beside_a_result_is_refused_and_nothing_is_written(copy: Path, damage: object, what: str) -> None:
    damage(copy / "study.db")
    for beside in copy.glob("study.db-*"):
        beside.unlink()
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=rf"study\.db {what} beside config\.json, best\.json.*restore it from a copy"):
        run(fit, copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_a_driver_killed_before_its_first_trial_begins_anew(copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    out.mkdir()
    config = json.loads((copy / "config.json").read_text())
    begun = {name: value for name, value in config.items() if name not in ("ledger", "digest")}
    (out / "config.json").write_text(json.dumps(begun))
    assert run(fit, out).best is not None


@pytest.mark.parametrize("place", ["", "retrained"])
def test_a_folder_that_takes_no_file_is_refused_before_any_training(
    copy: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, write: object, **_: object) -> None:
        if path.parent == copy / place and path.name == ".probe":
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("nas_attn.run.traces.write_whole", refuse)
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
    with pytest.raises(RunError, match=r"must be writable, but: Permission denied"):
        run(fit, copy, trials=2)


def spectral(model: nn.Module, run: object) -> float:
    for module in [module for module in model.modules() if isinstance(module, nn.Conv2d)]:
        parametrizations.spectral_norm(module)
    return 0.5


def pruned(model: nn.Module, run: object) -> float:
    for module in [module for module in model.modules() if isinstance(module, nn.Conv2d)]:
        prune.l1_unstructured(module, "weight", 0.5)
    return 0.5


def with_head(model: nn.Module, run: object) -> float:
    model.projection = nn.Linear(3, 2)
    return 0.5


def wrapped(model: nn.Module, run: object) -> float:
    model.backbone = nn.DataParallel(model.backbone)
    return 0.5


def replaced(model: nn.Module, run: object) -> float:
    model.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    return 0.5


@pytest.mark.parametrize(
    "training", [spectral, pruned, *(pytest.param(one, marks=pytest.mark.nightly) for one in (with_head, wrapped))]
)
def test_weights_of_a_changed_network_are_exported_as_the_plain_one_has_them(tmp_path: Path, training: object) -> None:
    record = run(training, tmp_path / "run")
    model = load_model(tmp_path / "run")
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    assert any("The training changes the network" in sentence for sentence in record.remarks)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.index("The training changes the network") < log.index("begin confirm")


def test_a_network_that_cannot_be_exported_is_said_first_and_its_report_stands(tmp_path: Path) -> None:
    out = tmp_path / "run"
    record = run(replaced, out)
    assert record.best is not None
    assert record.best["weights"] is None
    assert any("weights cannot be exported, since it has no 'backbone." in sentence for sentence in record.remarks)
    with pytest.raises(FileError, match=r"describes a network without weights: pass weights=False"):
        load_model(out)
    assert load_model(out, weights=False) is not None
    assert len(run(replaced, out).retrain) == len(record.retrain), "nothing is trained again"
    assert load_run(out).best is not None


def test_a_mended_training_trains_the_arms_without_weights_again(tmp_path: Path) -> None:
    def training(model: nn.Module, run: object) -> float:
        trained.append(run.stage)
        return replaced(model, run) if is_broken else 0.5

    is_broken, trained = True, []
    out = tmp_path / "run"
    assert run(training, out).best["weights"] is None
    del trained[:]
    is_broken = False
    record = run(training, out, same_training=True)
    assert trained == ["retrain"] * len(list((out / "arms").glob("*.json")))
    assert not any("cannot be exported" in sentence for sentence in record.remarks)
    assert load_model(out)(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    assert all(file.with_suffix(".safetensors").is_file() for file in (out / "arms").glob("*.json"))
    del trained[:]
    assert run(training, out).best["weights"] is not None
    assert trained == []
