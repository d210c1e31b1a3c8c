"""Any number of labels an image: read from a file or a table, trained on, judged by ROC AUC, and reported as that."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from runs import SETTINGS, tiny_space
from sklearn.metrics import roc_auc_score
from synthetic_run import make_run
from torch import Tensor, nn

from nas_attn import load_model
from nas_attn.attention.create import auxiliary_loss, create_attention
from nas_attn.attention.entry import Context
from nas_attn.cli import main
from nas_attn.config import DataConfig, Recipe
from nas_attn.data import DataFacts, Images, describe, load_data
from nas_attn.data_parts import dealt
from nas_attn.errors import DataError, TrialFailed
from nas_attn.job import search
from nas_attn.multi_label import BinaryCrossEntropy, label_aucs, mean_auc, positive_weights
from nas_attn.progress import SilentDisplay, _best
from nas_attn.records import RunRecord
from nas_attn.report.page import render
from nas_attn.report.verdict import verdict
from nas_attn.report.words import AS_IS, PER_CENT, ROC_AUC, scale_of
from nas_attn.train import class_weights, make_criterion, predict, train, value_of

LABELS = ("edema", "hernia", "mass")


def planted(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grey 8x8 images in noise, each label a bright corner of its own; the last label is rare."""
    generator = np.random.default_rng(seed)
    labels = (generator.random((n, 3)) < (0.5, 0.4, 0.15)).astype(np.uint8)
    images = generator.integers(0, 120, (n, 8, 8))
    for label, (row, column) in enumerate(((0, 0), (0, 5), (5, 0))):
        images[:, row : row + 3, column : column + 3] += 100 * labels[:, label, None, None]
    return images.astype(np.uint8), labels


def write_npz(path: Path, **parts: tuple[np.ndarray, np.ndarray]) -> str:
    images = {f"{part}_images": pair[0] for part, pair in parts.items()}
    np.savez_compressed(path, **images, **{f"{part}_labels": pair[1] for part, pair in parts.items()})
    return f"npz:{path}"


def facts_of(name: str, **options: object) -> DataFacts:
    return describe(DataConfig(name=name, **options))


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# --- .npz files


def test_an_npz_with_a_column_a_label_is_multi_label(tmp_path: Path) -> None:
    train_part, val_part, test_part = planted(60), planted(20, 1), planted(30, 2)
    data = load_data(DataConfig(name=write_npz(tmp_path / "a.npz", train=train_part, val=val_part, test=test_part)))
    assert (data.facts.task, data.facts.num_classes, data.facts.class_names) == ("multi-label", 3, ("0", "1", "2"))
    assert data.facts.class_counts == tuple(np.concatenate([train_part[1], val_part[1], test_part[1]]).sum(0))
    assert data.test.targets.dtype == torch.float32
    assert np.array_equal(data.test.targets.numpy(), test_part[1])
    assert data.train_val.targets.shape == (80, 3)
    assert "each with any of 3 labels, judged by their mean ROC AUC." in data.facts.in_words


def test_one_column_and_true_and_false_are_read_as_what_they_are(tmp_path: Path) -> None:
    images, labels = planted(60)
    assert facts_of(write_npz(tmp_path / "a.npz", train=(images, labels[:, :1]))).task == "single-label"
    plain = facts_of(write_npz(tmp_path / "b.npz", train=(images, labels)))
    truth = facts_of(write_npz(tmp_path / "c.npz", train=(images, labels.astype(bool))))
    assert truth.fingerprint == plain.fingerprint
    other = facts_of(write_npz(tmp_path / "d.npz", train=(images, 1 - labels)))
    assert other.fingerprint != plain.fingerprint


def test_labels_of_which_every_image_has_one_are_taken_with_a_remark(tmp_path: Path) -> None:
    images, labels = planted(60)[0], np.eye(3, dtype=int)[np.arange(60) % 3]
    note = "if they exclude each other, write them as class numbers"
    assert any(note in found for found in facts_of(write_npz(tmp_path / "a.npz", train=(images, labels))).notes)
    assert not any(note in found for found in facts_of(write_npz(tmp_path / "b.npz", train=planted(60))).notes)


def column(labels: np.ndarray, number: int, value: int) -> np.ndarray:
    changed = labels.copy()
    changed[:, number] = value
    return changed


TRAIN, OWN = planted(60), planted(20, 1)
BAD_NPZ = {
    "a two": ({"train": (TRAIN[0], TRAIN[1] * 2)}, "must hold 0 or 1 for each of its 3 labels, but 2 is there"),
    "fractions": ({"train": (TRAIN[0], TRAIN[1] / 2)}, "must hold whole numbers, but is float64"),
    "too few": ({"train": (TRAIN[0], TRAIN[1][:-1])}, "but has 59 for 60 images"),
    "other columns": (
        {"train": TRAIN, "val": (OWN[0], OWN[1][:, :2])},
        "as many labels, but they have 3 in train, 2 in",
    ),
    "one column": ({"train": TRAIN, "test": (OWN[0], OWN[1][:, 0])}, "they have 3 in train, one in test"),
    "no positive": ({"train": (TRAIN[0], column(TRAIN[1], 1, 0))}, "label '1' has 0 with it where 3 are needed"),
    "no negative": ({"train": (TRAIN[0], column(TRAIN[1], 2, 1))}, "label '2' has 0 without it where 3 are needed"),
    "own parts, no positive in train": (
        {"train": (TRAIN[0], column(TRAIN[1], 1, 0)), "val": OWN, "test": OWN},
        "label '1' has 0 with it where 1 are needed",
    ),
    "nothing to judge": (
        {"train": TRAIN, "val": (OWN[0], OWN[1] * 0), "test": OWN},
        "in val, but there is no image with label '0'",
    ),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_npz_labels_that_cannot_be_learnt_are_refused(tmp_path: Path, case: str) -> None:
    parts, message = BAD_NPZ[case]
    with pytest.raises(DataError, match=message):
        facts_of(write_npz(tmp_path / "a.npz", **parts))


def test_a_label_that_an_own_part_cannot_judge_is_named(tmp_path: Path) -> None:
    val = (OWN[0], column(OWN[1], 2, 0))
    facts = facts_of(write_npz(tmp_path / "a.npz", train=TRAIN, val=val, test=OWN))
    assert facts.notes == ("The mean ROC AUC on val leaves out '2': all images of that part agree in it.",)


# --- the split


def test_every_label_is_cut_by_the_same_shares_and_the_seed_decides(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((1000, 6)) < (0.5, 0.3, 0.1, 0.05, 0.02, 0.01)).astype(np.int64)
    labels[:, 5] |= labels[:, 4]  # labels that go together
    shares = (0.6, 0.2, 0.1)
    parts = dealt(labels, shares, 0, list("abcdef"))
    assert [len(part) for part in parts] == pytest.approx([600, 200, 100], abs=8)
    assert len(np.unique(np.concatenate(parts))) == sum(map(len, parts))
    for part, share in zip(parts, shares, strict=True):
        assert np.array_equal(part, np.sort(part))
        assert np.abs(labels[part].sum(0) - share * labels.sum(0)).max() <= 3
    again, other = (dealt(labels, shares, seed, list("abcdef")) for seed in (0, 1))
    assert np.array_equal(parts[0], again[0])
    assert not np.array_equal(parts[0], other[0])


def test_three_images_of_a_label_go_to_three_parts() -> None:
    labels = np.zeros((40, 2), np.int64)
    labels[:3, 0] = labels[10:30, 1] = 1
    assert [labels[part, 0].sum() for part in dealt(labels, (0.7, 0.15, 0.15), 0, ("rare", "usual"))] == [1, 1, 1]


# --- a folder with a table


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Forty images, every other one in a folder of its own, and a table of three labels."""
    folder = tmp_path / "chest"
    images, labels = planted(40)
    lines = [f"file,{','.join(LABELS)}"]
    for number, (image, row) in enumerate(zip(images, labels, strict=True)):
        name = f"deep/down/{number:02}.png" if number % 2 else f"{number:02}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
        lines.append(f"{name},{','.join(map(str, row))}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def edit(root: Path, change: Callable[[list[str]], object]) -> str:
    lines = (root / "labels.csv").read_text().splitlines()
    change(lines)
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return f"folder:{root}"


def test_a_folder_with_a_table_has_its_labels_and_their_names(root: Path) -> None:
    data = load_data(DataConfig(name=f"folder:{root}", image_size=8, split=(0.5, 0.25, 0.25)))
    images, labels = planted(40)
    assert (data.facts.task, data.facts.class_names, data.facts.in_channels) == ("multi-label", LABELS, 1)
    assert data.facts.class_counts == tuple(labels.sum(0))
    known = {image.tobytes(): tuple(row) for image, row in zip(images, labels, strict=True)}
    for part in (data.train, data.val, data.test):
        for pixels, targets in zip(part.pixels.numpy(), part.targets.numpy(), strict=True):
            assert known[pixels.tobytes()] == tuple(targets)
    assert len(data.train) + len(data.val) + len(data.test) == 40


def test_a_split_column_is_kept_wherever_it_stands(root: Path) -> None:
    def add(lines: list[str]) -> None:
        for number, line in enumerate(lines):
            file, rest = line.split(",", 1)
            word = "split" if number == 0 else ("train", "VAL", "test", "train")[number % 4]
            lines[number] = f"{file},{word},{rest}"

    data = load_data(DataConfig(name=edit(root, add), image_size=8))
    assert (data.facts.n_train, data.facts.n_val, data.facts.n_test) == (20, 10, 10)
    assert data.facts.class_names == LABELS
    assert np.array_equal(data.test.targets.numpy(), planted(40)[1][1::4])


def test_only_a_column_behind_the_first_is_the_split(root: Path) -> None:
    name = edit(root, lambda lines: lines.__setitem__(0, f"split,{','.join(LABELS)}"))
    assert facts_of(name, image_size=8).class_names == LABELS


def test_the_cache_holds_pixels_and_never_labels(root: Path) -> None:
    before = facts_of(f"folder:{root}", image_size=8)
    edit(
        root,
        lambda lines: lines.__setitem__(1, f"00.png,{','.join('10'[int(bit)] for bit in lines[1].split(',')[1:])}"),
    )
    after = facts_of(f"folder:{root}", image_size=8)
    assert before.class_counts != after.class_counts


def test_a_damaged_image_is_left_out_with_its_labels(root: Path) -> None:
    labels = planted(40)[1]
    (root / "02.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="At most 1 % of the files may be no images"):
        facts_of(f"folder:{root}", image_size=8)
    lines = (root / "labels.csv").read_text().splitlines()
    for number in range(100):
        (root / f"more{number}.png").write_bytes((root / "04.png").read_bytes())
        lines.append(f"more{number}.png,{','.join(map(str, labels[4]))}")
    (root / "labels.csv").write_text("\n".join(lines))
    facts = facts_of(f"folder:{root}", image_size=8)
    assert facts.class_counts == tuple(labels.sum(0) - labels[2] + 100 * labels[4])
    assert any("02.png" in note for note in facts.notes)


BAD_TABLES = {
    "another value": (
        lambda lines: lines.__setitem__(3, "02.png,0,2,1"),
        "Line 4 .* 0 or 1 for label 'hernia', but holds '2'",
    ),
    "an empty cell": (lambda lines: lines.__setitem__(3, "02.png,0,,1"), "for label 'hernia', but holds ''"),
    "a missing file": (lambda lines: lines.append("x.png,0,0,1"), "Line 42 .* must name a file below .* no 'x.png'"),
    "a file outside": (lambda lines: lines.append("../x.png,0,0,1"), r"must name a file below .* no '\.\./x\.png'"),
    "a file twice": (lambda lines: lines.append("./02.png,0,0,1"), r"names './02\.png' again, which line 4 has"),
    "a short row": (lambda lines: lines.append("02.png,0,0"), "must have 4 columns as the first line has, but has 3"),
    "one label": (
        lambda lines: lines.__setitem__(slice(None), ["file,a", "00.png,1"]),
        "two columns of labels or more",
    ),
    "semicolons": (lambda lines: lines.__setitem__(0, "file;a;b"), "with commas between them"),
    "a name twice": (lambda lines: lines.__setitem__(0, "file,a,b,a"), "a name of its own, but column 4 has 'a'"),
    "no name": (lambda lines: lines.__setitem__(0, "file,a,b,"), "a name of its own, but column 4 has ''"),
    "no rows": (lambda lines: lines.__delitem__(slice(1, None)), "a line for each image, but holds 1"),
    "another split": (
        lambda lines: lines.__setitem__(slice(None), ["file,a,b,split", "00.png,1,0,trian"]),
        "Unknown split 'trian' in Line 2 .*: did you mean 'train'",
    ),
    "no train": (
        lambda lines: lines.__setitem__(slice(None), ["file,a,b,split", "00.png,1,0,val"]),
        "must name images of train",
    ),
    "no positive": (
        lambda lines: lines.__setitem__(slice(1, None), [f"{line.rsplit(',', 1)[0]},0" for line in lines[1:]]),
        "label 'mass' has 0 with it where 3 are needed",
    ),
    "an open quote": (lambda lines: lines.append('"x.png,0,0,1'), "must be a table in UTF-8 with commas"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_table_that_does_not_fit_is_refused_with_its_line(root: Path, case: str) -> None:
    change, message = BAD_TABLES[case]
    with pytest.raises(DataError, match=message):
        facts_of(edit(root, change), image_size=8)


def test_a_table_of_other_bytes_is_one_sentence(root: Path) -> None:
    (root / "labels.csv").write_bytes(b"file,a,b\n\xff\xfe,1,0\n")
    with pytest.raises(DataError, match="must be a table in UTF-8 with commas, but cannot be read"):
        facts_of(f"folder:{root}", image_size=8)


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
        assert make_criterion(targets, recipe, 2)(logits, targets).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_a_positive_weighs_what_negatives_are_to_it_up_to_a_hundred() -> None:
    targets = torch.zeros(1000, 4)
    targets[:250, 0] = targets[:800, 1] = targets[:1, 2] = 1
    assert positive_weights(targets).tolist() == [3.0, 0.25, 100.0, 100.0]


def test_single_label_losses_stay_as_they_were() -> None:
    targets = torch.tensor([0, 0, 1])
    criterion = make_criterion(targets, Recipe(class_weights=True, label_smoothing=0.1), 2)
    assert isinstance(criterion, nn.CrossEntropyLoss)
    assert torch.equal(criterion.weight, class_weights(targets, 2))
    assert value_of(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), targets) == 2 / 3


def test_the_value_is_scikit_learns_mean_over_the_labels_that_can_be_judged() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 4, generator=generator)
    targets = (torch.rand(50, 4, generator=generator) < 0.3).float()
    assert value_of(logits, targets) == pytest.approx(roc_auc_score(targets, logits, average="macro"), abs=1e-12)
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


def test_a_training_that_leaves_the_finite_numbers_fails_as_nan() -> None:
    class Broken(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs * float("nan")

    with pytest.raises(TrialFailed, match="left the finite numbers"):
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
    """A whole search on a file with a label that the validation part cannot judge."""
    folder = tmp_path_factory.mktemp("multi")
    val = planted(40, 1)
    data = write_npz(folder / "chest.npz", train=planted(160), val=(val[0], column(val[1], 2, 0)), test=planted(60, 2))
    return search(tiny_space(folder), out=folder / "run", executor="local", data=data, **SETTINGS, class_weights=True)


def test_a_run_says_roc_auc_and_never_accuracy(run: RunRecord) -> None:
    assert run.config["task"] == "multi-label"
    page = render(run)
    for text in (verdict(run), page, (run.folder / "report.html").read_text()):
        assert "ROC AUC" in text
        assert "ccuracy" not in text
        assert " points" not in text
    assert "ROC AUC against cost" in page
    assert "3 labels" in page
    for name in ("best.json", "best-so-far.json", "config.json"):
        assert "accuracy" not in (run.folder / name).read_text()
    assert "leaves out '2'" in (run.folder / "log.txt").read_text()
    console = Console(file=io.StringIO(), width=400)
    SilentDisplay(console).result(run)
    assert "ROC AUC" in console.file.getvalue()


def test_the_plan_says_what_the_labels_are_judged_by(run: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    space, data = run.folder.parent / "tiny.toml", run.folder.parent / "chest.npz"
    assert main(["search", "--dry-run", "--space", str(space), "--data", f"npz:{data}", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "each with any of 3 labels, judged by their mean ROC AUC" in out
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
