"""Bad input through the command line: code 2, one sentence with rule, value and fix, and nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import tiny_space

from nas_attn.cli.commands import main

BUDGET = ("--trials", "1", "--epochs", "1", "--seeds", "1", "--top", "1", "--batch-size", "64", "--executor", "local")

SPACE = """
title = "A space"
[backbone]
name = "densenet"
block_config = [2, 2]
[[sites]]
match = ["denseblock*"]
attentions = ["se"]
"""


def write_images(folder: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.full((8, 8), 10 * index, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that can be wrong with a file that a user names."""
    root = tmp_path_factory.mktemp("files")
    tiny_space(root)
    for name, old, new in (
        ("attention", '["se"]', '["cbma"]'),
        ("backbone", '"densenet"', '"densnet"'),
        ("pattern", "denseblock*", "densblock*"),
        ("option", 'attentions = ["se"]', 'attentions = ["se"]\n[attentions.se]\nreductoin = 4'),
        ("value", 'attentions = ["se"]', 'attentions = ["se"]\n[attentions.se]\nreduction = 4096'),
        ("twice", 'match = ["denseblock*"]', 'match = ["denseblock*"]\nmatch = ["x"]'),
        ("kind", 'match = ["denseblock*"]\nattentions = ["se"]', 'match = ["denseblock1"]\nattentions = ["aff"]'),
        ("kinds", 'attentions = ["se"]', 'attentions = ["deform", "sk"]'),
        ("small", "block_config = [2, 2]", "block_config = [2, 2, 2, 2]"),
        ("heads", 'attentions = ["se"]', 'attentions = ["self_attention"]\n[attentions.self_attention]\nheads = 5'),
        ("choice", 'attentions = ["se"]', 'attentions = ["lska"]\n[attentions.lska]\nkernel_size = [7, 9]'),
        ("start", 'attentions = ["se"]', 'attentions = ["se"]\nstart = "indentity"'),
        ("broken", 'attentions = ["se"]', 'attentions = ["brokn_gate"]'),
        ("limit", 'attentions = ["se"]', 'attentions = ["se"]\n[limits]\nmax_params = 5'),
        ("bare", '[backbone]\nname = "densenet"\nblock_config = [2, 2]\n', ""),
    ):
        assert old in SPACE
        text = SPACE.replace('["se"]', '["shuffle"]') if name == "small" else SPACE
        (root / f"{name}.toml").write_text(text.replace(old, new))
    write_images(root / "few", {"cat": 9, "dog": 2})
    write_images(root / "damaged", {"cat": 9, "dog": 9})
    for number in range(4):
        (root / "damaged" / "cat" / f"{number}.png").write_bytes(b"\x89PNG no more")
    write_images(root / "blank", {"cat": 9, "dog": 9})
    (root / "empty").mkdir()
    images = np.zeros((12, 8, 8), np.uint8)
    np.savez(root / "labels.npz", train_images=images, train_labels=np.arange(11) % 2)
    np.savez(root / "negative.npz", train_images=images, train_labels=np.arange(12) % 2 - 1)
    (root / "half.npz").write_bytes((root / "labels.npz").read_bytes()[:300])
    (root / "text.npz").write_text("no arrays")
    (root / "file").write_text("a file")
    shutil.copytree(root / "empty", root / "letters")
    (root / "letters" / "letter.txt").write_text("not a run")
    (root / "broken_training.py").write_text("def train(:\n")
    return root


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--space densnet_attn", "Unknown space 'densnet_attn': did you mean 'densenet_attn'?"),
        ("--space nowhere/mine.toml", "A space file must exist, but there is no folder 'nowhere'"),
        ("--space FILES/attention.toml", "Unknown attention 'cbma' in [[sites]] 1 of"),
        ("--space FILES/backbone.toml", "Unknown backbone 'densnet' in [backbone] of"),
        ("--space FILES/pattern.toml", "did you mean 'denseblock"),
        ("--space FILES/option.toml", "did you mean 'reduction'?"),
        ("--space FILES/value.toml", "reduction <= channels must hold, but got reduction=4096"),
        ("--space FILES/kind.toml", "'aff' does not fit site 'denseblock1': a site of kind 'output' is not among its"),
        (
            "--space FILES/kinds.toml",
            "matches only sites of kind output, which none of its attentions fits: they fit",
        ),
        ("--space FILES/small.toml", "'shuffle' does not fit site 'denseblock4': the map must be at least 2x2, but is"),
        ("--space FILES/heads.toml", "heads must divide the channels, but got heads=5, channels=48; the nearest that"),
        ("--space FILES/choice.toml", "must be one of 7, 11, 23, 35, 41, 53, but got 9."),
        ("--space FILES/start.toml", "must be one of own, identity, but got 'indentity': did you mean 'identity'?"),
        ("--space FILES/broken.toml", "Unknown attention 'brokn_gate' in [[sites]] 1 of"),
        ("--space FILES/twice.toml", "must be TOML, but is not: "),
        ("--space FILES/limit.toml", "No placement of"),
        ("--space FILES/bare.toml", "A search needs a backbone, but"),
        ("--max-params 100", "and max_params is 100."),
        ("--data digts", "Unknown data source 'digts': did you mean 'digits'?"),
        ("--data FILES/few", "follow the name of its data source, but got 'FILES/few': write folder:FILES/few."),
        ("--data FILES/half.npz", "write npz:FILES/half.npz."),
        ("--data cifar10", "name its folder with --data-root, or download it with --download."),
        (
            "--data folder:FILES/nowhere",
            "An image folder must exist, but there is none at FILES/nowhere: check the path.",
        ),
        ("--data folder:FILES/empty", "two classes or more, but it has no folder: make them,"),
        ("--data folder:FILES/few", "class 'dog' has 2 where 3 are needed: add images, or remove the class."),
        ("--data folder:FILES/damaged --strict-data", "Every file must be an image under --strict-data, but"),
        ("--data folder:FILES/damaged", "At most 1 % of the files, or 3, may be no images"),
        (
            "--data folder:FILES/blank",
            "The images of the data set must differ and have contrast, but all 18 are nearly",
        ),
        ("--data folder:FILES/blank --pixel-range 9:1", "'--pixel-range' must be two numbers that ascend, LOW:HIGH"),
        ("--data folder:FILES/blank --background pink", "'--background' must be white, black or #rrggbb"),
        ("--frames some", "'--frames' must be one of first, all, but got 'some'."),
        ("--max-pixels 0", "'--max-pixels' must be a whole number from 1 to 1,000,000,000,000, but got 0."),
        ("--data npz:FILES/labels.npz", "must have one row per image, but has 11 for 12 images: make them agree."),
        (
            "--data npz:FILES/negative.npz",
            "must be class numbers from 0, but has the value -1: number the classes anew.",
        ),
        ("--data npz:FILES/half.npz", "cannot be read as an .npz file, it is damaged or of another kind"),
        ("--data npz:FILES/text.npz", "damaged or of another kind: it is no archive of plain arrays."),
        ("--split 0/50/50", "The share of train must be above 0"),
        ("--trials 0", "'--trials' must be a whole number from 1"),
        ("--epochs -3", "'--epochs' must be a whole number from 1"),
        ("--seeds 1e9", "'--seeds' must be a whole number from 1"),
        ("--executor tune --workers 9999", "--workers must be at most 8 for each of the"),
        ("--executor tune --cpus-per-trial 1024", "--cpus-per-trial must be at most the"),
        ("--executor ray", "'--executor' must be one of tune, local, but got 'ray'."),
        (
            "--executor tune --address nonsense",
            "--address must be HOST:PORT of a running Ray cluster, or auto, but got",
        ),
        ("--executor tune --address localhost:1", "nothing answers at 'localhost:1' (Connection refused): start one"),
        ("--augment crop-flip", "--augment must be none or crop for digits"),
        ("--num-classes 3", "but got 3 together with data that has its own: leave it out."),
        ("--train nowhere:train --data digits", "--train names the module 'nowhere', but it cannot be imported"),
        ("--train broken_training:train --data digits", "must be importable, but it raised SyntaxError"),
        ("--train os:getcwd", "needs num_classes, in_channels, image_size: state them, or name the data set."),
        ("--out FILES/file", "A run needs a folder, but FILES/file is a file: choose another --out."),
        ("--out FILES/file/run", "must be writable, but: Not a directory. Choose another --out."),
        ("--out FILES/letters", "contains other files and no config.json, so it is not a run: choose another --out."),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(words, sentence, files, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(files)
    before = sorted(files.rglob("*"))
    given = words.replace("FILES", str(files)).split()
    space = [] if "--space" in given else ["--space", str(files / "tiny.toml")]
    assert main(["search", *space, *BUDGET, *given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert sentence.replace("FILES", str(files)) in err
    assert list(tmp_path.iterdir()) == []
    assert sorted(path for path in files.rglob("*") if "__pycache__" not in path.parts) == before


@pytest.mark.parametrize("words", ["--gpus-per-trial 1", "--device cuda", "--device mps"])
def test_a_gpu_that_is_not_there_is_refused(words, files, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    for executor in ("local", "tune"):
        line = ["search", "--space", str(files / "tiny.toml"), *BUDGET, *words.split(), "--executor", executor]
        assert main(line) == 2
        assert "none was found" in (err := capsys.readouterr().err) or "no GPU was found" in err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def finished(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["search", "--space", str(files / "tiny.toml"), *BUDGET, "--quiet", "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A finished run of one's own to damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def again(files: Path, run: Path, *words: str) -> int:
    return main(["search", "--space", str(files / "tiny.toml"), *BUDGET, "--quiet", "--out", str(run), *words])


def test_the_folder_of_another_search_is_refused_and_untouched(files, run, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert again(files, run, "--lr", "0.2") == 2
    assert "belongs to another search (recipe.lr was 0.1, now 0.2): results would be mixed." in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_best_json_is_refused_and_written_again_by_the_same_command(damage, files, run, capsys) -> None:
    best = run / "best.json"
    whole = best.read_text()
    best.write_text(whole[:200] if damage == "truncated" else whole.replace('"n": 1', '"n": 9', 1))
    assert main(["report", str(run)]) == 2
    err = capsys.readouterr().err
    assert "best.json must be " in err
    assert err.endswith("the search's command writes it again from the ledger.\n")
    assert again(files, run) == 0
    records = (json.loads(text) for text in (whole, best.read_text()))
    assert len({json.dumps(record["metrics"], sort_keys=True) for record in records}) == 1


def test_damaged_weights_are_written_again_by_the_same_command(files, run) -> None:
    weights = run / "best.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    assert again(files, run) == 0
    assert weights.read_bytes() == whole
