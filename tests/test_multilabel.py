"""Several labels per image: trained on, scored by ROC AUC, and reported as such."""

from __future__ import annotations

import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from multilabel_cases import column, planted, write_npz
from rich.console import Console
from runs import SETTINGS, tiny_space
from sklearn.metrics import roc_auc_score
from synthetic_run import make_run
from torch import Tensor, nn

from nas_attn import load_model
from nas_attn.attention.create import create_attention
from nas_attn.attention.entry import Context
from nas_attn.cli.commands import main
from nas_attn.config import Recipe
from nas_attn.data.dataset import Images
from nas_attn.errors import TrialFailed
from nas_attn.model.tasks import LABEL_KINDS, BinaryCrossEntropy, class_weights, label_aucs, mean_auc, positive_weights
from nas_attn.records import RunRecord
from nas_attn.report.page import render
from nas_attn.report.verdict import verdict
from nas_attn.report.words import AS_IS, PER_CENT, ROC_AUC, scale_of
from nas_attn.run.job import search
from nas_attn.run.progress import SilentDisplay, _best
from nas_attn.training.auxiliary import auxiliary_loss
from nas_attn.training.loop import predict, train

ONE, SEVERAL = LABEL_KINDS["single-label"], LABEL_KINDS["multi-label"]


pytestmark = pytest.mark.usefixtures("cache_home")


# --- loss and value


def test_the_loss_is_binary_cross_entropy_with_weighted_positives() -> None:
    logits = torch.tensor([[0.3, -1.2], [2.0, 0.1], [-0.4, 0.7], [0.0, -3.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    chance = 1 / (1 + torch.exp(-logits))
    for recipe, weight, soft in (
        (Recipe(), torch.ones(2), targets),
        (Recipe(class_weights=True), torch.tensor([3.0, 3.0]), targets),
        (Recipe(class_weights=True, label_smoothing=0.2), torch.tensor([3.0, 3.0]), targets * 0.8 + 0.1),
    ):
        by_hand = -(weight * soft * chance.log() + (1 - soft) * (1 - chance).log()).mean()
        assert SEVERAL.criterion(targets, recipe, 2)(logits, targets).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_a_positive_weighs_what_negatives_are_to_it_up_to_a_hundred() -> None:
    targets = torch.zeros(1000, 4)
    targets[:250, 0] = targets[:800, 1] = targets[:1, 2] = 1
    assert positive_weights(targets).tolist() == [3.0, 0.25, 100.0, 100.0]


def test_single_label_losses_stay_as_they_were() -> None:
    targets, logits = torch.tensor([0, 0, 1]), torch.tensor([[1.0, 0.0, 0.3], [0.0, 1.0, 0.2], [0.0, 1.0, -2.0]])
    criterion = ONE.criterion(targets, Recipe(class_weights=True, label_smoothing=0.1), 3)
    theirs = nn.CrossEntropyLoss(weight=class_weights(targets, 3), label_smoothing=0.1)
    assert torch.equal(criterion(logits, targets), theirs(logits, targets))
    assert ONE.value(logits, targets) == 2 / 3


def test_the_value_is_scikit_learns_mean_over_the_labels_that_have_a_roc_auc() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 4, generator=generator)
    targets = (torch.rand(50, 4, generator=generator) < 0.3).float()
    assert SEVERAL.value(logits, targets) == pytest.approx(roc_auc_score(targets, logits, average="macro"), abs=1e-12)
    targets[:, 1] = 0
    aucs = label_aucs(logits, targets)
    assert [np.isnan(auc) for auc in aucs] == [False, True, False, False]
    assert mean_auc(logits, targets) == pytest.approx(np.nanmean(aucs))
    assert np.isnan(mean_auc(logits, targets * 0))
    assert np.isnan(mean_auc(logits.index_fill(0, torch.tensor([3]), float("nan")), targets))


def test_auxiliary_logits_take_the_same_criterion() -> None:
    attention = create_attention("triple", 8, context=Context(num_classes=3, height=4, width=4), reduction=4).train()
    targets, criterion = torch.ones(5, 3), BinaryCrossEntropy(positive_weight=torch.tensor([3.0, 1.0, 1.0]))
    seen: list[Tensor] = []

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        assert target is targets
        seen.append(criterion(logits, target))
        return seen[-1]

    attention(torch.randn(5, 8, 4, 4, generator=torch.Generator().manual_seed(0)))
    total = auxiliary_loss(attention, targets, loss)
    assert total.requires_grad
    assert len(seen) == 1
    assert 0 < total.item() <= seen[0].item()


# --- training


def tiny_cnn(attention: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    head = (nn.Flatten(), nn.Linear(8 * 16, 3))
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), attention or nn.Identity(), nn.MaxPool2d(2), *head
    )


def images_of(n: int, seed: int) -> Images:
    images, labels = planted(n, seed)
    return Images(torch.from_numpy(images)[:, None], torch.from_numpy(labels).float(), (0.3,), (0.2,))


def fit(model: nn.Module, validation: Images | None, *, epochs: int = 5, **recipe: object) -> list[float]:
    seen: list[float] = []
    train(
        model,
        images_of(240, 0),
        validation,
        Recipe(class_weights=True, **recipe),
        seed=0,
        epochs=epochs,
        device="cpu",
        report=lambda _, value: seen.append(value),
        num_classes=3,
    )
    return seen


def test_a_tiny_network_finds_a_planted_signal() -> None:
    model, validation = tiny_cnn(), images_of(120, 1)
    seen = fit(model, validation)
    assert len(seen) == 5
    assert seen[-1] > 0.9
    logits = predict(model, validation)
    assert seen[-1] == pytest.approx(roc_auc_score(validation.targets, logits), abs=1e-12)


def test_without_validation_the_value_on_the_training_batches_is_reported() -> None:
    triple = create_attention("triple", 8, context=Context(num_classes=3, height=8, width=8), reduction=4)
    seen = fit(tiny_cnn(triple), None, epochs=3, label_smoothing=0.1)
    assert len(seen) == 3
    assert seen[0] < seen[-1] <= 1


def test_a_training_that_diverges_fails_as_nan() -> None:
    class Broken(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs * float("nan")

    with pytest.raises(TrialFailed, match=r"^Training diverged: the loss is nan in epoch 1 of \d+\. Try a smaller"):
        fit(tiny_cnn(Broken()), images_of(40, 1))


# --- words


def test_a_runs_task_decides_what_its_values_are_called() -> None:
    run = make_run()
    several = {**run.config, "task": "multi-label"}
    assert scale_of(run) == PER_CENT
    assert scale_of(SimpleNamespace(config=several)) == ROC_AUC
    assert scale_of(SimpleNamespace(config={**several, "train": "mine:train"})) == AS_IS


def test_the_best_so_far_is_named_where_it_is_no_accuracy() -> None:
    best = make_run().search[0]
    assert _best(best, "accuracy") == f"best so far: {100 * best.value:.2f} % on validation, no attention"
    assert _best(best, "roc_auc") == f"best so far: ROC AUC {best.value:.4f} on validation, no attention"
    assert _best(best, "value") == f"best so far: value {best.value:.4f} on validation, no attention"


# --- a whole run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """A whole search on a file with a label that has no ROC AUC on the validation part."""
    folder = tmp_path_factory.mktemp("multi")
    val = planted(40, 1)
    data = write_npz(folder / "chest.npz", train=planted(160), val=(val[0], column(val[1], 2, 0)), test=planted(60, 2))
    return search(tiny_space(folder), out=folder / "run", executor="local", data=data, **SETTINGS, class_weights=True)


def test_a_run_says_roc_auc_and_never_accuracy(run: RunRecord) -> None:
    assert run.config["task"] == "multi-label"
    page = render(run)
    for text in (verdict(run), page, (run.folder / "report.html").read_text()):
        assert "ROC AUC" in text
        beside = re.sub(r"<h2>Classes and curves.*?</section>", "", text, flags=re.DOTALL)
        assert "ccuracy" not in beside, "only the section on labels has it, beside their ROC AUC"
        assert " points" not in text
    assert "ROC AUC against cost" in page
    assert "3 labels" in page
    for name in ("best.json", "best-so-far.json", "config.json"):
        assert "accuracy" not in (run.folder / name).read_text()
    assert "leaves out '2'" in (run.folder / "log.txt").read_text()
    console = Console(file=io.StringIO(), width=400)
    SilentDisplay(console).result(run)
    assert "ROC AUC" in console.file.getvalue()


def test_the_plan_says_how_the_labels_are_scored(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    space, data = run.folder.parent / "tiny.toml", run.folder.parent / "chest.npz"
    assert main(["search", "--dry-run", "--space", str(space), "--data", f"npz:{data}", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "each with any of 3 labels, scored by their mean ROC AUC" in out
    assert "leaves out '2'" in out
    assert "Estimated time of training" in out


def test_every_label_has_its_value_on_test(run: RunRecord) -> None:
    assert run.best is not None
    test = run.best["metrics"]["test"]
    assert set(test["by_label"]) == {"0", "1", "2"}
    assert np.mean(list(test["by_label"].values())) == pytest.approx(test["roc_auc_mean"])
    assert set(run.best["metrics"]["test_without_attention"]["by_label"]) == {"0", "1", "2"}
    for row in run.retrain:
        aucs = [value for name, value in row.facts.items() if name.startswith("test_roc_auc:")]
        assert np.mean(aucs) == pytest.approx(row.value)
    assert json.loads((run.folder / "best-so-far.json").read_text())["validation_roc_auc"] == max(
        row.value for row in run.search if row.value is not None
    )


def test_the_exported_network_gives_what_its_file_says(run: RunRecord) -> None:
    assert run.best is not None
    model = load_model(run.folder / "best.json")
    assert model.class_names == ("0", "1", "2")
    images, labels = planted(60, 2)
    with torch.no_grad():
        logits = model(model.preprocess(torch.from_numpy(images)[:, None]))
    by_seed = run.best["metrics"]["test"]["by_seed"]
    assert roc_auc_score(labels, torch.sigmoid(logits)) == pytest.approx(by_seed["20000"], abs=1e-6)


def test_the_same_command_shows_the_finished_run_again(run: RunRecord) -> None:
    again = search(
        run.folder.parent / "tiny.toml",
        out=run.folder,
        executor="local",
        data=f"npz:{run.folder.parent / 'chest.npz'}",
        **SETTINGS,
        class_weights=True,
    )
    assert [row.value for row in again.retrain] == [row.value for row in run.retrain]
