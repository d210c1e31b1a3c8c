"""A finished run holds the network of every arm, and `load_model` gives the recommended one or any other."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nas_attn import load_model, search
from nas_attn.errors import FileError
from nas_attn.files import content_digest, link_whole
from nas_attn.model.build import build_model
from nas_attn.model.file import save_model
from nas_attn.placement import NONE
from nas_attn.run.export import file_name

OLD = Path(__file__).parent / "old_runs"
SETTINGS = {
    "trials": 4, "epochs": 2, "batch_size": 64, "seeds": 2, "top": 1, "cpus_per_trial": 1, "executor": "local",
    "controls": 0,
}  # fmt: skip
FOUND_SITE = "denseblock2"
IMAGES = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of version 0.1.0 that this version exports again, untrained; an earlier arm left a file."""
    folder = Path(shutil.copytree(OLD, tmp_path_factory.mktemp("run") / "runs"))
    (folder / "finished/arms").mkdir()
    (folder / "finished/arms/found-1-se-everywhere.json").write_text("{}")
    search(folder / "tiny.toml", out=folder / "finished", **SETTINGS)
    return folder / "finished"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A run as version 0.1.0 left it."""
    return Path(shutil.copytree(OLD / "finished", tmp_path / "old"))


def recommend_none(run: Path) -> None:
    """Let the run of version 0.1.0 recommend no attention: its `best.json` still holds what was found."""
    best = json.loads((run / "best.json").read_text())
    best["recommended"] = "none"
    best["digest"] = content_digest(best)
    (run / "best.json").write_text(json.dumps(best))


def weights_of(model: torch.nn.Module, file: Path) -> bool:
    stored = load_file(file)
    state = model.state_dict()
    return stored.keys() == state.keys() and all(torch.equal(stored[key], state[key]) for key in stored)


def test_every_arm_has_its_network_with_the_weights_of_its_first_seed(run: Path) -> None:
    names = {"none", "found-1", "se-everywhere", "cbam-everywhere"}
    assert {file.name for file in (run / "arms").iterdir()} == {
        f"{n}.{s}" for n in names for s in ("json", "safetensors")
    }
    for name in names:
        content = json.loads((run / "arms" / f"{name}.json").read_text())
        assert file_name(content["arm"]) == f"{name}.json"
        assert content["metrics"]["test"]["n"] == 2
        stored = next(
            file for file in (run / "retrained").iterdir() if file.samefile(run / "arms" / f"{name}.safetensors")
        )
        assert "-20000-" in stored.name
        assert weights_of(load_model(run, arm=content["arm"]), stored)


def test_best_json_is_the_recommended_network(run: Path) -> None:
    best = json.loads((run / "best.json").read_text())
    assert (best["arm"], best["recommended"], best["placement"]) == ("none", "none", {})
    for model in (load_model(run), load_model(str(run / "best.json")), load_model(run, arm="none")):
        assert model.placement == NONE
        assert weights_of(model, run / "arms" / "none.safetensors")


def test_any_arm_is_loaded_and_says_what_it_is(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="nas_attn"):
        model = load_model(run, arm="found #1")
    sentence = f"arm 'found #1' (its run recommends 'none'), from {run}/arms/found-1.json: se at {FOUND_SITE}"
    assert model.about == sentence
    assert f"Loaded {sentence}" in caplog.messages
    assert repr(model).splitlines()[1].strip() == sentence
    assert set(model.placement) == {FOUND_SITE}
    assert load_model(run).about == f"arm 'none' (recommended), from {run}/best.json: no attention"
    assert model(model.preprocess(IMAGES)).shape == (3, 10)


def test_the_run_may_be_moved(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "moved")
    shutil.rmtree(moved / "retrained")
    for arm in ("none", "found #1"):
        one, other = load_model(run, arm=arm), load_model(moved, arm=arm)
        assert torch.equal(one(one.preprocess(IMAGES)), other(other.preprocess(IMAGES)))


@pytest.mark.parametrize(
    ("path", "arm", "sentence"),
    [
        ("", "found 1", r"Unknown arm 'found 1' in .*: did you mean 'found #1'\? Known: cbam everywhere, found"),
        ("best.json", "none", r"`arm` names an arm of a run folder, but .*best\.json is one model: pass its folder"),
        ("best.safetensors", None, r"by its JSON file or its run folder, but .*best\.safetensors holds weights alone"),
        ("arms", None, r"A model is loaded from a finished run, but .*arms has no best\.json"),
        ("absent", None, r"The model file .*absent cannot be read: No such file"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_is_refused_in_one_sentence(run: Path, path: str, arm: str | None, sentence: str) -> None:
    with pytest.raises(FileError, match=sentence):
        load_model(run / path, arm=arm)


def test_a_run_without_its_arms_says_how_to_get_them(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "moved", ignore=shutil.ignore_patterns("arms"))
    assert load_model(moved).placement == NONE
    with pytest.raises(FileError, match=r"arms must hold the networks of the arms, but is empty: delete .*best\.json"):
        load_model(moved, arm="found #1")


def test_an_unfinished_run_has_no_model_yet() -> None:  # no database is opened
    with pytest.raises(FileError, match=r"interrupted has no best\.json: it is no run, or its search has not finished"):
        load_model(OLD / "interrupted")


def test_an_old_run_gives_what_it_recommends_and_any_other_arm(old: Path) -> None:
    assert set(load_model(old).placement) == {FOUND_SITE}
    recommend_none(old)
    model = load_model(old)
    assert model.placement == NONE
    (bare,) = (old / "retrained").glob(f"{NONE.key}-*.safetensors")
    assert weights_of(model, bare)
    assert model.about == f"arm 'none' (recommended), from {bare}: no attention"
    assert set(load_model(old, arm="found #1").placement) == {FOUND_SITE}
    assert len(load_model(old, arm="cbam everywhere").placement) == 2
    with pytest.raises(FileError, match=r"Unknown arm 'se' in .*Known: cbam everywhere, found #1, none, se everywhere"):
        load_model(old, arm="se")


def test_an_old_run_without_those_weights_says_what_it_gives(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    recommend_none(old)
    assert set(load_model(old / "best.json").placement) == {FOUND_SITE}
    assert "is the best placement with attention, but its run recommends none: load its folder" in caplog.text
    shutil.rmtree(old / "retrained")
    assert set(load_model(old).placement) == {FOUND_SITE}
    assert "recommends no attention, but its weights are missing: this is the best with attention" in caplog.text


def test_a_damaged_table_of_an_old_run_is_named(old: Path) -> None:
    (old / "arms.csv").write_text("arm,epochs\nnone,2\n")
    with pytest.raises(FileError, match=r"arms\.csv must be as the search wrote it, but was altered \('key'\)"):
        load_model(old)


def test_weights_of_another_network_are_not_linked(tmp_path: Path, run: Path) -> None:
    model = build_model("lenet", NONE, num_classes=10, in_channels=1, image_size=28)
    record = {"mean": [0.1], "std": [0.3], "class_names": [str(digit) for digit in range(10)]}
    with pytest.raises(
        FileError, match=r"none\.safetensors do not fit the network: 'backbone\.classifier\.0\.bias' must"
    ):
        save_model(model, tmp_path / "mine.json", record=record, weights=run / "arms/none.safetensors")
    with pytest.raises(FileError, match=r"absent\.safetensors cannot be read"):
        save_model(model, tmp_path / "mine.json", record=record, weights=tmp_path / "absent.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_disk_without_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, copied, linked = (tmp_path / name for name in ("source", "copied", "linked"))
    source.write_text("weights")
    for _ in range(2):  # over the same name again
        link_whole(source, linked)
    assert linked.samefile(source)

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    link_whole(source, copied)
    assert copied.read_text() == "weights"
    assert not copied.samefile(source)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "copied", "linked"}


def test_a_label_becomes_a_safe_file_name() -> None:
    assert file_name("found #1 = se everywhere") == "found-1-se-everywhere.json"
    assert file_name("../Größe: 1") == "gr-e-1.json"
    assert file_name("\N{GREEK SMALL LETTER ALPHA}") == "arm.json"
    assert file_name("a b", ["a-b.json", "a-b-2.json"]) == "a-b-3.json"
