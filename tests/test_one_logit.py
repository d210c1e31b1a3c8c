"""One logit for two classes: trained, evaluated, exported and loaded as two logits would be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from multilabel_cases import planted
from one_logit_cases import TWO_CLASSES, build_lenet, images_of, write_folder
from PIL import Image
from runs import SETTINGS, tiny_space
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from nas_attn import Placement, SearchSpace, auxiliary_loss, build_model, create_attention, load_model
from nas_attn.attention.entry import Context
from nas_attn.backbones.site_table import site_table
from nas_attn.backbones.weights import classifier_path
from nas_attn.cli.commands import main
from nas_attn.config import DataConfig, Recipe
from nas_attn.data.dataset import Images, load_data
from nas_attn.errors import ConfigError, RunError, SpaceError
from nas_attn.model.tasks import LABEL_KINDS, class_logits, class_weights
from nas_attn.records import RunRecord
from nas_attn.report.page import render
from nas_attn.run.job import search
from nas_attn.run.request import bind, read_settings
from nas_attn.space.fit import placement_cost
from nas_attn.space.published import load_published
from nas_attn.training.loop import accuracy, predict, train

ONE = LABEL_KINDS["single-label"]


# --- the loss and the value


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_binary_cross_entropy(smoothing: float) -> None:
    logits, targets = torch.tensor([[0.3], [-1.2], [2.5], [-0.7]]), torch.tensor([1, 0, 0, 1])
    found = ONE.criterion(targets, Recipe(label_smoothing=smoothing), 1)(logits, targets)
    soft = targets * (1 - smoothing) + smoothing / 2
    expected = functional.binary_cross_entropy_with_logits(logits[:, 0], soft)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_logit_and_two_weigh_classes_alike_and_have_the_same_gradient(weighted: bool, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(40, 2, generator=generator).requires_grad_()
    targets = (torch.rand(40, generator=generator) < 0.2).long()
    single = (pair[:, 1:] - pair[:, :1]).detach().requires_grad_()
    recipe = Recipe(class_weights=weighted, label_smoothing=smoothing)
    of_two = ONE.criterion(targets, recipe, 2)(pair, targets)
    of_one = ONE.criterion(targets, recipe, 1)(single, targets)
    assert of_one.item() == pytest.approx(of_two.item(), rel=1e-6)
    of_one.backward()
    of_two.backward()
    assert single.grad is not None
    assert pair.grad is not None
    assert torch.allclose(single.grad[:, 0], pair.grad[:, 1], rtol=1e-5, atol=1e-8)
    weights = class_weights(targets, 2)
    assert weights[1] > weights[0]


def test_a_large_logit_has_a_finite_loss() -> None:
    logits, targets = torch.tensor([[200.0], [-200.0]]), torch.tensor([0, 1])
    assert ONE.criterion(targets, Recipe(), 1)(logits, targets).item() == pytest.approx(200)


def test_above_zero_means_the_second_class() -> None:
    logits, targets = torch.tensor([[0.1], [-0.1], [5.0], [0.0]]), torch.tensor([1, 0, 0, 0])
    assert ONE.value(logits, targets) == 3 / 4
    assert torch.allclose(ONE.probabilities(logits)[:, 1], torch.sigmoid(logits[:, 0]))
    assert torch.allclose(ONE.probabilities(logits).sum(1), torch.ones(4))
    more = torch.randn(5, 3)
    assert class_logits(more) is more


def test_auxiliary_logits_of_one_class_train_by_the_same_loss() -> None:
    attention = create_attention("triple", 8, context=Context(num_classes=1, height=4, width=4), reduction=4).train()
    targets, inputs = torch.tensor([0, 1, 1]), torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    attention(inputs)
    auxiliary_loss(attention, targets, lambda logits, _: seen.append(logits) or logits.sum())
    assert seen[0].shape == (3, 1)
    attention(inputs)
    found = auxiliary_loss(attention, targets)
    expected = 0.1 * functional.binary_cross_entropy_with_logits(seen[0][:, 0], targets.float())
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_softmax_over_one_logit_is_refused_before_anything_starts() -> None:
    record = {
        "title": "t",
        "backbone": {"name": "lenet"},
        "sites": [{"match": ["stage1.pool"], "attentions": ["triple"]}],
        "attentions": {"triple": {"reduction": 2, "softmax": ["spatial", "channel"]}},
    }
    two = SearchSpace.from_dict(record, num_classes=2)
    assert two.bound.n_placements == 3
    with pytest.raises(
        SpaceError, match=r"softmax=channel.* needs a network with at least 2 logits, but this one has 1"
    ):
        _ = SearchSpace.from_dict(record, num_classes=1).bound
    placement = Placement.from_dict({"stage1.pool": {"name": "triple", "reduction": 2, "softmax": "channel"}})
    with pytest.raises(SpaceError, match=r"At site 'stage1\.pool'"):
        placement_cost(site_table("lenet", num_classes=1, in_channels=1, image_size=32), placement)


# --- training


def tiny_cnn(n_logits: int, attention: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    stem = (nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), attention or nn.Identity(), nn.MaxPool2d(2))
    return nn.Sequential(*stem, nn.Flatten(), nn.Linear(8 * 16, n_logits))


def fit(model: nn.Module, validation: Images | None, n_logits: int, epochs: int = 3, **recipe: object) -> list[float]:
    seen: list[float] = []
    train(
        model,
        images_of(160, 0, share=0.3),
        validation,
        Recipe(lr=0.02, **recipe),
        seed=0,
        epochs=epochs,
        device="cpu",
        report=lambda _, value: seen.append(value),
        num_classes=n_logits,
    )
    return seen


@pytest.mark.parametrize("attention", ["none", "triple"])
def test_a_network_with_one_logit_learns_two_classes(attention: str) -> None:
    context = Context(num_classes=1, height=8, width=8)
    inner = None if attention == "none" else create_attention("triple", 8, context=context, reduction=4)
    model, validation = tiny_cnn(1, inner), images_of(80, 1)
    seen = fit(model, validation, 1, class_weights=True, label_smoothing=0.1)
    assert seen[-1] > 0.95
    assert seen[-1] == accuracy(model, validation)
    logits = predict(model, validation)
    assert logits.shape == (80, 1)
    assert seen[-1] == ((logits[:, 0] > 0) == (validation.targets == 1)).double().mean().item()


def test_it_trains_as_two_logits_of_which_the_first_stays_zero() -> None:
    """Two logits of which the first is always 0 are the same network."""

    class Pair(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, inputs: Tensor) -> Tensor:
            return class_logits(self.inner(inputs))

    one, two = tiny_cnn(1), Pair(tiny_cnn(1))
    recipe = {"class_weights": True, "label_smoothing": 0.1}
    assert fit(one, None, 1, **recipe) == fit(two, None, 2, **recipe)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_smaller_rate_spares_the_backbone_and_not_the_one_logit() -> None:
    placement = Placement.from_dict({"stage1.pool": {"name": "scse", "reduction": 2}})
    model = build_model("lenet", placement, num_classes=1, in_channels=1, image_size=32, seed=0)
    assert classifier_path(model.backbone, 1) == classifier_path(build_lenet(10).backbone, 10)


# --- the space of the tutorial


def test_the_tutorials_networks_have_its_parameters() -> None:
    space = SearchSpace.load("cats_dogs_attn")
    table = space.bound.table
    assert (table.num_classes, table.in_channels, table.image_size) == (1, 3, 128)
    assert table.n_parameters == 8_413_217
    published = load_published("se_cats_dogs_cnn").placement(table)
    cost = space.bound.cost(space.bound.resolve(published))
    assert cost.n_parameters == 8_414_246
    model = build_model("cats_dogs_cnn", published, num_classes=1, in_channels=3, image_size=128, seed=0)
    counted = sum(weight.numel() for weight in model.parameters())
    statistics = sum(buffer.numel() for buffer in model.buffers() if buffer.is_floating_point())
    assert (counted, counted + statistics) == (8_414_246, 8_414_484)
    assert space.bound.params(published) is not None, "the tutorial's placement lies in the space"


def test_the_space_has_the_tutorials_recipe() -> None:
    recipe = Recipe(**SearchSpace.load("cats_dogs_attn").recipe)
    assert (recipe.optimizer, recipe.lr, recipe.batch_size, recipe.epochs) == ("adam", 0.001, 64, 15)
    assert recipe.one_logit


def test_sites_of_the_space_are_those_of_its_one_logit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sites", "cats_dogs_attn"]) == 0
    assert "one logit; 8,413,217 parameters" in capsys.readouterr().out
    assert main(["sites", "cats_dogs_attn", "--num-classes", "2"]) == 0
    assert "2 classes; 8,413,730 parameters" in capsys.readouterr().out


# --- refusals


def test_data_of_more_classes_are_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--dry-run"]):
        assert main(["search", "--space", "lenet_attn", "--one-logit", *more]) == 2
        said = capsys.readouterr().err
        assert "One logit needs two classes, but digits has 10 classes: use --no-one-logit" in said
        assert said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_several_labels_are_refused_even_if_they_are_two(tmp_path: Path) -> None:
    images, labels = planted(60)
    np.savez(tmp_path / "two.npz", train_images=images, train_labels=labels[:, :2])
    settings = read_settings({"space": "lenet_attn", "data": f"npz:{tmp_path / 'two.npz'}", "one_logit": True})
    with pytest.raises(ConfigError, match=r"two\.npz has 2 independent labels: use --no-one-logit"):
        bind(settings)


def mine(model, run) -> float:
    assert model.num_classes == 1
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 1)
    run.report(1, 0.5)
    return 0.5


def test_a_custom_training_gets_one_logit_for_two_classes(tmp_path: Path) -> None:
    given = {"space": tiny_space(tmp_path), "train": mine, "one_logit": True}
    with pytest.raises(ConfigError, match="but --num-classes states 3 classes"):
        bind(read_settings({**given, **TWO_CLASSES, "num_classes": 3}))
    request = bind(read_settings({**given, **TWO_CLASSES}))
    assert request.shape.num_classes == 1
    few = {"executor": "local", "trials": 1, "epochs": 1, "seeds": 1, "top": 1, **TWO_CLASSES}
    run = search(given["space"], mine, tmp_path / "run", one_logit=True, **few)
    assert run.best is not None
    assert (run.best["num_classes"], run.best["class_names"]) == (1, ["0", "1"])
    assert run.best["logits_of"] == "second_class"
    open_run = search(given["space"], open_training, tmp_path / "two", **few)
    assert open_run.best is not None
    assert open_run.best["logits_of"] is None
    assert load_model(tmp_path / "two" / "best.json").probabilities is None


def open_training(model, run) -> float:
    run.report(1, 0.5)
    return 0.5


# --- a whole run


TRAINED = SETTINGS | {"epochs": 6, "batch_size": 16, "trials": 1, "seeds": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "pets")


@pytest.fixture(scope="module")
def run(folder: Path) -> RunRecord:
    space, out = tiny_space(folder.parent), folder.parent / "run"
    given = {"data": f"folder:{folder}", "image_size": 8, "one_logit": True, "class_weights": True}
    return search(space, out=out, executor="local", **given, **TRAINED)


def test_best_json_says_how_its_one_logit_is_read(run: RunRecord) -> None:
    assert run.best is not None
    assert (run.best["num_classes"], run.best["class_names"]) == (1, ["cat", "dog"])
    assert run.best["logits_of"] == "second_class"
    assert run.best["recipe"]["one_logit"] is True
    assert run.config["recipe"]["one_logit"] is True
    assert run.best["cost"]["n_parameters"] == sum(
        tensor.numel() for name, tensor in load_file(run.folder / "best.safetensors").items() if counts(name)
    )


def counts(name: str) -> bool:
    return not name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def test_the_loaded_model_classifies_images_as_the_test_stage_did(run: RunRecord, folder: Path) -> None:
    assert run.best is not None
    model = load_model(run.folder / "best.json")
    paths = sorted(folder.glob("*/*.png"))
    with torch.no_grad():
        logits = model(model.preprocess([Image.open(path) for path in paths]))
    assert model.probabilities is not None
    names = [model.class_names[index] for index in model.probabilities(logits).argmax(1)]
    assert [name == "dog" for name in names] == (logits[:, 0] > 0).tolist()
    assert np.mean([name == path.parent.name for name, path in zip(names, paths, strict=True)]) > 0.9
    test = load_data(DataConfig(name=f"folder:{folder}", image_size=8)).test
    with torch.no_grad():
        found = model.probabilities(model(model.preprocess(test.pixels)))
    right = (found.argmax(1) == test.targets).double().mean().item()
    assert right == run.best["metrics"]["test"]["by_seed"]["20000"]


def test_the_page_says_one_logit_and_two_classes(run: RunRecord) -> None:
    page = render(run)
    assert "one logit" in page
    assert ", 2 classes)" in page
    assert "1 classes" not in page
    assert "above 0 it means 'dog', otherwise 'cat'" in (run.folder / "log.txt").read_text()


def test_the_plan_says_what_the_logit_means(run: RunRecord, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "--dry-run", "--space", str(folder.parent / "tiny.toml"), "--one-logit", "--image-size", "8"]
    assert main([*words, "--data", f"folder:{folder}", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "The network returns one logit: above 0 it means 'dog', otherwise 'cat'." in out
    bare = site_table(run.config["space"]["backbone"], num_classes=1, in_channels=1, image_size=8)
    assert f"{bare.n_parameters:,}" in out


def test_a_run_with_one_logit_is_not_mixed_with_one_of_two(run: RunRecord, folder: Path) -> None:
    given = {"data": f"folder:{folder}", "image_size": 8, "class_weights": True, "executor": "local", **TRAINED}
    with pytest.raises(RunError, match=r"recipe\.one_logit was True, now False"):
        search(folder.parent / "tiny.toml", out=run.folder, **given)
