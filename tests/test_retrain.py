"""A found placement retrained: longer, on other data, interrupted, extended, and what is refused."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

from nas_attn.cli.commands import main
from nas_attn.comparison.predictions import Predictions
from nas_attn.config import DataConfig
from nas_attn.data.dataset import describe
from nas_attn.errors import ConfigError, FileError, Interrupted, RunError, SpaceError
from nas_attn.files import content_digest
from nas_attn.model.build import build_model
from nas_attn.model.file import load_model, save_model
from nas_attn.placement import Attention, Placement
from nas_attn.records import RunRecord
from nas_attn.report.page import write_report
from nas_attn.run.folder import RunFolder
from nas_attn.run.retrain import read_request, retrain

BACKBONE = {"name": "densenet", "growth_rate": 4, "block_config": [1, 1], "num_init_features": 8, "stem": "small"}
SE = Placement({"denseblock2": Attention("se", {"reduction": 4})})
QUICK: dict[str, Any] = {"executor": "local", "cpus_per_trial": 1, "device": "cpu"}


def save(path: Path, network: Any = BACKBONE, placement: Placement = SE, **record: Any) -> Path:
    """Write the file of an arm as a search over digits writes it, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    model = build_model(network, placement, num_classes=10, in_channels=1, image_size=8, seed=1)
    facts = describe(DataConfig())
    provenance = {
        "seed": 7,
        "train": None,
        "space": {"name": "tiny"},
        "data": {"name": "digits", "facts": {"fingerprint": facts.fingerprint}},
    }
    about = {
        "mean": list(facts.mean),
        "std": list(facts.std),
        "class_names": list(facts.class_names),
        "logits_of": "classes",
        "arm": "found #1",
        "arms": {"none": [20_007], "found #1": [20_007]},
        "recipe": {"epochs": 1, "retrain_epochs": 2, "batch_size": 64, "lr": 0.05, "optimizer": "sgd"},
        "provenance": provenance,
    }
    save_model(model, path, record={**about, **record})
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that recommends no attention; its files are only read."""
    run = tmp_path_factory.mktemp("source")
    save(run / "arms" / "found-1.json", recommended="none")
    save(run / "best.json", placement=Placement(), arm="none", recommended="none")
    return run


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes most of the time of a tiny run: the drawings, and the measured costs."""

    def write_page(run: RunRecord, folder: Path, **_: object) -> None:
        (folder / "report.html").write_text("drawn")

    monkeypatch.setattr("nas_attn.report.figures.draw_charts", lambda _: ())
    monkeypatch.setattr("nas_attn.report.page.write_report", write_page)
    monkeypatch.setattr("nas_attn.run.arm_costs.measure_arms", lambda *_: {})


@pytest.fixture
def letters(tmp_path: Path) -> str:
    """Images of three classes and three channels in a file of arrays, as a data source."""
    random = np.random.default_rng(0)
    arrays = {}
    for part, number in (("train", 24), ("val", 12), ("test", 12)):
        arrays[f"{part}_labels"] = np.arange(number) % 3
        arrays[f"{part}_images"] = random.integers(0, 255, (number, 12, 12, 3), dtype=np.uint8)
    np.savez(tmp_path / "letters.npz", **arrays)
    return f"npz:{tmp_path / 'letters.npz'}"


def trained(run: RunRecord) -> list[tuple[str, int, int]]:
    return [(row.label or "", row.seed, row.epochs) for row in run.retrain if row.state == "complete"]


@pytest.mark.usefixtures("briefly")
def test_a_longer_retraining_has_two_arms_other_seeds_and_a_report_that_speaks_of_no_search(source, tmp_path) -> None:
    run = retrain(source, out=tmp_path / "run", epochs=3, seeds=1, **QUICK)
    seed = 7 + 30_000 + 20_000
    assert trained(run) == [("found #1", seed, 3), ("none", seed, 3)]
    assert run.search == run.confirm == ()
    assert run.config["recipe"]["lr"] == 0.05
    assert run.config["source"] == {
        "file": str(source / "arms" / "found-1.json"),
        "arm": "found #1",
        "same_images": True,
    }
    found = load_model(run.folder, arm="found #1")
    assert list(found.placement) == ["denseblock2"]
    write_report(run, run.folder)
    text = (run.folder / "report.md").read_text()
    assert "by the retrained placement (se at denseblock2) against no attention" in text
    assert "found #1 was chosen by another run on the same images" in text
    assert "- seeds: retrain 50007\n" in text
    card = (run.folder / "MODEL.md").read_text()
    assert "nothing was searched here" in card
    assert "the search" not in card
    page = (run.folder / "report.html").read_text()
    assert "found #1 was chosen on validation images of another run." in page
    assert "The search covered" not in page


@pytest.mark.usefixtures("briefly")
def test_an_interrupted_retraining_resumes_and_more_seeds_extend_it(source, tmp_path) -> None:
    calls: list[int] = []

    def train(model: nn.Module, run: Any) -> float:
        calls.append(run.seed)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return 0.5 + 0.01 * (len(calls) % 2)

    again = {"out": tmp_path / "run", "train": train, "data": "digits", **QUICK}
    with pytest.raises(Interrupted, match="the same command resumes the run"):
        retrain(source, seeds=2, **again)
    run = retrain(source, seeds=2, **again)
    assert calls == [50_007, 50_007, 50_008, 50_008, 50_008], "both arms of a seed before the next, each once"
    assert sorted(trained(run)) == sorted((arm, seed, 2) for arm in ("found #1", "none") for seed in (50_007, 50_008))
    retrain(source, seeds=2, **again)
    assert len(calls) == 5, "a finished run trains nothing"
    assert len(trained(retrain(source, seeds=3, **again))) == 6
    other = save(tmp_path / "other.json", placement=Placement({"denseblock1": Attention("eca")}))
    with pytest.raises(RunError, match=r"belongs to another search \(retrained\.placement\.denseblock1"):
        retrain(other, seeds=3, **again)


@pytest.mark.usefixtures("briefly")
def test_other_data_may_have_other_classes_and_channels(source, letters, tmp_path) -> None:
    run = retrain(source / "arms" / "found-1.json", out=tmp_path / "run", data=letters, epochs=1, seeds=1, **QUICK)
    model = load_model(run.folder, arm="found #1")
    assert (model.num_classes, model.in_channels, model.image_size) == (3, 3, 12)
    assert model(torch.zeros(2, 3, 12, 12)).shape == (2, 3)
    assert not run.config["source"]["same_images"]
    assert run.config["data"]["split"] is None


@pytest.mark.usefixtures("briefly")
def test_the_weights_of_the_file_begin_every_arm(source, tmp_path) -> None:
    begun: list[torch.Tensor] = []

    def train(model: Any, run: Any) -> float:
        begun.append(model.state_dict()["backbone.features.conv0.weight"].clone())
        return 0.5

    file = source / "arms" / "found-1.json"
    run = retrain(file, train=train, data="digits", weights="own", out=tmp_path / "run", seeds=1, **QUICK)
    own = load_model(file).state_dict()["backbone.features.conv0.weight"]
    assert len(begun) == 2
    assert all(torch.equal(weight, own) for weight in begun)
    assert run.config["weights"]["file"] == str(file.with_suffix(".safetensors"))


def test_what_is_not_stated_is_that_of_the_file(source) -> None:
    settings = read_request(source, {}).settings
    assert (settings.recipe.epochs, settings.recipe.retrain_epochs) == (2, None), "the epochs of a retraining"
    assert (settings.data.name, settings.engine.seed, settings.out) == (
        "digits",
        30_007,
        Path("runs/tiny-retrained").absolute(),
    )
    adam = read_request(source, {"optimizer": "adam", "seed": 3}).settings
    assert (adam.recipe.lr, adam.engine.seed) == (0.003, 3), "the rate of another optimiser does not suit this one"


def test_seeds_that_the_placements_own_run_used_are_named(source) -> None:
    request = read_request(source, {"seed": 6, "seeds": 3})
    assert "Seeds 20007 are also those of that run: leave --seed out to have others." in request.notes


def test_an_arm_keeps_the_name_of_its_file(tmp_path) -> None:
    file = save(tmp_path / "se.json", arm="se everywhere")
    request = read_request(file, {"arm": str(save(tmp_path / "two.json", placement=Placement()))})
    assert request.given is not None
    assert list(request.arms) == ["se everywhere", "two"]
    assert request.arms["se everywhere"] == request.given.placement


def make_net(num_classes: int, in_channels: int) -> nn.Module:
    """Return a network of the user's own."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    )


def flat_net(num_classes: int, in_channels: int) -> nn.Module:
    """Return a network of the user's own without any map."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))


def test_a_network_of_ones_own_is_passed_in(tmp_path) -> None:
    file = save(tmp_path / "own.json", make_net(10, 1), Placement({"0": Attention("eca")}))
    request = read_request(file, {"network": make_net})
    assert request.given is not None
    assert list(request.given.placement) == ["0"]
    assert request.settings.space.backbone == {"import": f"{__name__}:make_net"}
    with pytest.raises(ConfigError, match=r"has a network of your own \(Sequential\): add --backbone MODULE:FUNCTION"):
        read_request(file, {})
    with pytest.raises(SpaceError, match=r"does not fit this network and data: Nothing can be placed at '0'"):
        read_request(file, {"network": flat_net})
    with pytest.raises(ConfigError, match="The weights of a network in memory are its own: leave weights out"):
        read_request(file, {"network": make_net, "weights": "none"})


def test_a_placement_that_does_not_fit_is_refused(source, tmp_path) -> None:
    file = save(tmp_path / "far.json")
    content = json.loads(file.read_text())
    content["placement"] = {"denseblock9": {"name": "se"}}
    content["digest"] = content_digest(content)
    file.write_text(json.dumps(content))
    with pytest.raises(SpaceError, match=r"The placement of .*far\.json does not fit .* Unknown site 'denseblock9'"):
        read_request(file, {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nothing.json", "The model file nothing.json cannot be read: No such file or directory."),
        ("{source}/arms", "has no best.json: it is no run, or its search has not finished"),
        ("{source}/best.json", "pass the folder of its run, whose found #1 is then retrained, or another file"),
        ("{source}/arms/found-1.safetensors", "holds weights alone: pass the JSON file"),
        ("{source} --arm last-stage", "'--arm last-stage' takes the attentions of a space, and a retraining has none"),
        ("{source} --backbone resnet18", "has the catalogue's backbone 'densenet': leave --backbone out."),
        ("{source} --data npz:none.npz", "An .npz file must exist, but there is none at"),
        ("{source} --weights none.pt", "The backbone's weights must be a file, but there is none at none.pt."),
        ("{source} --top 3", "Unknown option '--top'"),
        ("{source} --max-latency 3", "No such option: --max-latency"),
        ("{source} --objective f1,params", "are compared by one value, but '--objective' names f1, params: "),
        ("{source} --objective loss", "'--objective' must begin with a value of the training that is to be made large"),
    ],
)
def test_the_command_refuses_in_one_sentence(source, tmp_path, monkeypatch, capsys, words, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["retrain", *words.format(source=source).split(), "--executor", "local"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.usefixtures("briefly")
def test_the_arms_may_be_compared_by_another_value(tmp_path: Path) -> None:
    by_f1 = {"objectives": [{"name": "f1", "direction": "max"}], "data": {"name": "digits"}}
    file = save(tmp_path / "arm.json", provenance=by_f1)
    note = "The placement's own run compared its arms by f1, and this one does not: --objective f1 does."
    assert note in read_request(file, {}).notes
    assert note not in read_request(file, {"objective": "f1"}).notes
    run = retrain(file, objective="f1", out=tmp_path / "run", seeds=1, epochs=1, **QUICK)
    assert run.config["objectives"] == by_f1["objectives"]
    assert len(run.retrain) == 2
    for row in run.retrain:
        content = RunFolder(run.folder).predictions.read(row.key, row.seed, row.epochs)
        assert content is not None
        found = Predictions.from_bytes(content, "a prediction")
        chosen = found.predicted
        assert row.value == pytest.approx(f1_score(found.targets, chosen, average="macro"), abs=1e-3)
        assert row.value != pytest.approx((chosen == found.targets).mean(), abs=1e-4)


def test_a_setting_of_a_search_and_an_own_training_that_is_missing_are_refused(source, tmp_path) -> None:
    with pytest.raises(ConfigError, match="A retraining has no setting 'trials', since nothing is searched"):
        retrain(source, trials=3)
    mine = save(tmp_path / "mine.json", provenance={"train": "mine:train", "data": {"num_classes": 10}})
    with pytest.raises(ConfigError, match=r"was trained by a function of your own \(mine:train\): add --train"):
        read_request(mine, {})
    unknown = save(tmp_path / "unknown.json", provenance={})
    with pytest.raises(ConfigError, match=r"names no data set that can be read again: add --data\."):
        read_request(unknown, {})
    mine.write_text(mine.read_text().replace('"found #1"', '"found #2"'))
    with pytest.raises(FileError, match="is altered: its content does not match its digest"):
        read_request(mine, {})


def test_the_preview_has_one_stage_and_writes_nothing(source, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["retrain", str(source), "--dry-run", "--seeds", "3", "--executor", "local"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Retrained placement of tiny: nothing is searched or confirmed." in lines
    assert "Retrain: 6 runs of 2 epochs." in lines
    assert "Arms: found #1, none." in lines
    assert any("arm 'found #1' (its run recommends 'none')" in line for line in lines)
    assert not [line for line in lines if line.startswith(("Search:", "Confirm:", "cheapest"))]
    assert not list(tmp_path.iterdir())
