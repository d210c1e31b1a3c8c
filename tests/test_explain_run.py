"""`nas-attn explain` draws what found #1 of a run looks at, for its test images or for files."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nas_attn import load_model
from nas_attn.cli.commands import main
from nas_attn.comparison.predictions import Predictions
from nas_attn.config import DataConfig
from nas_attn.data.dataset import Images, load_data
from nas_attn.errors import DataError
from nas_attn.explain import samples
from nas_attn.explain.samples import choose_samples, stored_predictions
from nas_attn.records import FOUND
from nas_attn.run.folder import RunFolder, load_run


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished run of version 0.1.0, which has no stored predictions: a copy, since reading a database tidies it."""
    return Path(shutil.copytree(Path(__file__).parent / "old_runs/finished", tmp_path / "finished"))


def store_predictions(run: Path) -> Tensor:
    """Store the predictions of found #1 for the test images, as a run of this version does; return which are right."""
    model, test = load_model(run, arm=FOUND), load_data(DataConfig()).test
    with torch.no_grad():
        probabilities = model.probabilities(model(model.preprocess(test.pixels)))
    row = min((row for row in load_run(run).retrain if row.label == FOUND), key=lambda row: row.seed)
    content = Predictions.of(probabilities.numpy(), test.targets.numpy()).to_bytes()
    RunFolder(run).predictions.write(row.key, row.seed, row.epochs, content)
    return probabilities.argmax(1) == test.targets


def test_a_run_without_predictions_shows_its_first_images(finished, capsys):
    pytest.importorskip("captum")
    assert main(["explain", str(finished), "--number", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("'")[1] for line in lines[:2]] == [FOUND, "none"]
    assert lines[2] == "The first test images; the run stored no predictions."
    assert lines[3:] == [str(finished / "figures" / f"maps.{kind}") for kind in ("svg", "png", "pdf")]
    with Image.open(finished / "figures/maps.png") as figure:
        assert min(figure.size) > 300


def test_test_images_are_the_first_right_and_wrong_ones(finished):
    is_right = store_predictions(finished)
    chosen = choose_samples(load_run(finished), 5)
    right, wrong = is_right.nonzero()[:3, 0].tolist(), (~is_right).nonzero()[:2, 0].tolist()
    assert chosen.names == (*(f"test {at}, right" for at in right), *(f"test {at}, wrong" for at in wrong))
    test = load_data(DataConfig()).test
    assert torch.equal(chosen.pixels, test.pixels[right + wrong])
    assert chosen.classes == tuple(test.targets[right + wrong].tolist())
    assert chosen.about == "The first test images that found #1 predicts right (3) and wrong (2)."


def test_the_predictions_of_found_1_are_found_under_a_name_that_it_shares(finished):
    store_predictions(finished)
    record = load_run(finished)
    rows = tuple(replace(row, label=f"{FOUND} = se everywhere") for row in record.retrain if row.label == FOUND)
    assert stored_predictions(replace(record, retrain=rows)) is stored_predictions(record)
    assert stored_predictions(replace(record, retrain=())) is None


def test_an_image_with_several_labels_is_right_if_all_of_them_are(finished, monkeypatch):
    labels = np.array([[1, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0]])
    chances = np.array([[0.9, 0.1, 0.6], [0.9, 0.1, 0.4], [0.2, 0.3, 0.1], [0.1, 0.5, 0.2]])
    images = Images(torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1), torch.tensor(labels).float())
    facts = SimpleNamespace(class_names=("edema", "hernia", "mass"))
    monkeypatch.setattr(samples, "_load_again", lambda config, root: SimpleNamespace(test=images, facts=facts))
    monkeypatch.setattr(samples, "stored_predictions", lambda record: Predictions.of(chances, labels))
    chosen = choose_samples(load_run(finished), 4)
    assert chosen.names == ("test 0, right", "test 2, right", "test 3, right", "test 1, wrong")
    assert chosen.truths == ("edema, mass", "no label", "hernia", "edema, mass")
    assert chosen.classes == (0, None, 1, 0)
    monkeypatch.setattr(samples, "stored_predictions", lambda record: Predictions.of(1 - chances, labels))
    assert choose_samples(load_run(finished), 4).names == tuple(f"test {at}, wrong" for at in range(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"name": "memory"},
            r"^The run's images were in memory, or its own training read them: name image files instead\.$",
        ),
        (
            {"facts": None},
            r"^The run's images were in memory, or its own training read them: name image files instead\.$",
        ),
        (
            {"seed": 1},
            r"^The images of 'digits' must be those that the run was tested on, but they have changed since: ",
        ),
    ],
)
def test_images_that_cannot_be_read_again_are_refused(finished, change, message):
    record = load_run(finished)
    config = {**record.config, "data": {**record.config["data"], **change}}
    with pytest.raises(DataError, match=message):
        choose_samples(replace(record, config=config), 2)


def test_image_files_are_explained_and_bad_ones_named(finished, tmp_path, capsys):
    pytest.importorskip("captum")
    Image.new("RGB", (20, 12)).save(tmp_path / "a.png")
    assert main(["explain", str(finished), str(tmp_path / "a.png")]) == 0
    assert "test image" not in capsys.readouterr().out
    (tmp_path / "b.png").write_text("no image")
    assert main(["explain", str(finished), str(tmp_path / "b.png")]) == 2
    assert "b.png" in capsys.readouterr().err
    assert main(["explain", str(finished), *[str(tmp_path / "a.png")] * 25]) == 2
    assert "At most 24 images fit one figure, but got 25: name fewer." in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(monkeypatch, capsys, finished):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "captum" else find(name))
    sentence = "Grad-CAM needs the package captum, which is missing: pip install 'nas_attn[maps]'."
    assert main(["explain", str(finished)]) == 2
    assert capsys.readouterr().err == f"Error: {sentence}\n"
