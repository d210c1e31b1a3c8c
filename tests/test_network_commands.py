"""What a person does with a finished run on the command line: best, compare, predict, export."""

from __future__ import annotations

import csv
import io
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas_attn import build_model, load_model, save_model
from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.cli.commands import main
from nas_attn.errors import FileError
from nas_attn.files import content_digest
from nas_attn.model import formats
from nas_attn.model.formats import FORMATS, Format, write_format
from nas_attn.model.stored import find_model
from nas_attn.placement import NONE

DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of version 0.1.0, `finished` and `interrupted`: copies, since reading a database tidies it."""
    return Path(shutil.copytree(Path(__file__).parent / "old_runs", tmp_path_factory.mktemp("old") / "runs"))


@pytest.fixture(scope="module")
def finished(old: Path) -> Path:
    return old / "finished"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with three images, of which one lies deeper, a damaged one, and a file that is none."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, shape in (("a.png", (9, 9, 3)), ("b.jpg", (20, 12)), ("more/c.png", (8, 8))):
        Image.fromarray(generator.integers(256, size=shape, dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_text("no image")
    (folder / "notes.txt").write_text("not asked for")
    return folder


def changed(run: Path, name: str, change) -> None:
    """Change a model file of a run, with its digest."""
    content = json.loads((run / name).read_text())
    change(content)
    content["digest"] = content_digest(content)
    (run / name).write_text(json.dumps(content))


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_predictions_are_those_of_the_network_and_bad_files_are_named(
    finished: Path, images: Path, capsys: pytest.CaptureFixture[str]
):
    absent = images / "absent.png"
    assert main(["predict", str(finished), str(images / "b.jpg"), str(images), str(absent)]) == 1
    out, err = capsys.readouterr()
    rows = table(out)
    files = [images / name for name in ("b.jpg", "a.png", "b.jpg", "more/c.png")]
    assert [row["path"] for row in rows] == list(map(str, files))
    model = load_model(finished)
    with torch.no_grad():
        expected = model.probabilities(model(model.preprocess(files)))
    found = torch.tensor([[float(row[name]) for name in DIGITS] for row in rows])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert [row["predicted"] for row in rows] == [DIGITS[k] for k in expected.argmax(1)]
    assert [float(row["probability"]) for row in rows] == pytest.approx(expected.amax(1).tolist(), abs=1e-6)
    network, *skipped = err.splitlines()
    assert network.startswith("Network: arm 'found #1' (recommended), from ")
    assert skipped == [
        f"The image {images}/broken.png cannot be read: no image.",
        f"The image {absent} cannot be read: No such file or directory.",
    ]


def test_any_arm_predicts(finished: Path, images: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["predict", str(finished), str(images / "a.png"), "--arm", "none"]) == 0
    out, err = capsys.readouterr()
    model = load_model(finished, arm="none")
    with torch.no_grad():
        expected = model.probabilities(model(model.preprocess(images / "a.png")))
    assert float(table(out)[0]["probability"]) == pytest.approx(float(expected.max()), abs=1e-6)
    assert "arm 'none' (its run recommends 'found #1')" in err


def test_several_labels_are_predicted_together(
    finished: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    changed(run, "best.json", lambda best: best.update(logits_of="labels"))
    assert main(["predict", str(run / "best.json"), str(images / "a.png")]) == 0
    (row,) = table(capsys.readouterr().out)
    chosen = [name for name in DIGITS if float(row[name]) >= 0.5]
    assert 0 < len(chosen) < 10
    assert row["predicted"] == ";".join(chosen)


@pytest.mark.filterwarnings("ignore:.torch.jit.load.:FutureWarning")
@pytest.mark.parametrize("name", ["torch-export", "torchscript", pytest.param("onnx", marks=pytest.mark.nightly)])
def test_a_network_is_exported_and_checked(
    finished: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["export", str(finished), f"--{name}", "--arm", "cbam everywhere", "--out", str(tmp_path / "out")]) == 0
    network, line = capsys.readouterr().out.splitlines()
    file = tmp_path / "out" / f"cbam_everywhere{FORMATS[name].suffix}"
    assert network.startswith("Network: arm 'cbam everywhere'")
    assert line.startswith(f"{file}: checked with batches of 1, 2 and 5 images, greatest difference ")
    assert float(line.rpartition(" ")[2]) <= 1e-4
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    model, images = load_model(finished, arm="cbam everywhere"), torch.randn(7, 1, 8, 8)
    with torch.no_grad():
        (found,) = FORMATS[name].read(file)([images])
        torch.testing.assert_close(found, model(images), atol=1e-4, rtol=1e-4)


def test_the_python_file_computes_the_same(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    assert main(["export", str(run), "--python"]) == 0
    files = [run / "exported" / name for name in ("found_1.py", "found_1.pt")]
    assert f"{files[0]} and {files[1]}: checked" in capsys.readouterr().out
    written, model, images = runpy.run_path(str(files[0])), load_model(run), torch.rand(2, 1, 8, 8)
    network = written["load_network"]()
    with torch.no_grad():
        found = written["probabilities"](network(written["preprocess"](images)))
        torch.testing.assert_close(found, model.probabilities(model(model.preprocess(images))))


def test_a_python_file_that_needs_this_package_is_refused(tmp_path: Path):
    (tmp_path / "net.py").write_text("import nas_attn")
    with pytest.raises(
        FileError, match=r"does not run without nas_attn: ModuleNotFoundError: import of nas_attn halted"
    ):
        FORMATS["python"].read(tmp_path / "net.py")([])


def test_a_file_that_computes_something_else_is_not_written(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model, described = load_model(finished), find_model(finished).described
    wrong = {
        "off": lambda batches: [model(images) + 0.01 for images in batches],
        "fixed": lambda batches: [model(images)[:1] for images in batches],
        "broken": lambda batches: 1 / 0,
    }
    sentences = {
        "off": r"The off file differs from the network by 0\.01 for 1 images",
        "fixed": r"The fixed file returns \(1, 10\) for 2 images and the network \(2, 10\)",
        "broken": r"The network cannot be written as a format: ZeroDivisionError: division by zero\.",
    }
    for name, run in wrong.items():
        form = Format(
            ".x", "a format", lambda model, described, path, images: path.write_text("x"), lambda path, run=run: run
        )
        monkeypatch.setattr(formats, "FORMATS", {name: form})
        with pytest.raises(FileError, match=sentences[name]):
            write_format(name, model, described, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_the_best_of_a_run_in_words_and_as_json(finished: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["best", str(finished)]) == 0
    words = capsys.readouterr().out
    assert "found #1" in words
    assert f"{finished}/best.json" in words
    assert main(["best", str(finished), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["finished"] is True
    assert record["recommended"] == "found #1"
    assert {arm["arm"]: arm["n"] for arm in record["arms"]} == {
        "found #1": 2, "none": 2, "se everywhere": 2, "cbam everywhere": 2,
    }  # fmt: skip
    assert [arm["arm"] for arm in record["arms"] if arm["recommended"]] == ["found #1"]
    assert all(Path(file).exists() for file in record["files"].values())


def test_the_best_of_an_unfinished_run_is_what_is_known(old: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["best", str(old / "interrupted"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["finished"], record["recommended"], record["models"]) == (False, None, {})
    assert list(record["files"]) == ["best-so-far.json"]
    assert main(["best", str(old / "interrupted")]) == 0
    assert record["title"] in capsys.readouterr().out


def test_runs_on_the_same_data_are_compared(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    assert main(["compare", str(finished), str(other), "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["same_data"], found["notes"], found["metric"]) == (True, [], "accuracy")
    arms = {run: [row for row in found["arms"] if row["run"] == run] for run in ("finished", "other")}
    assert [{**row, "run": ""} for row in arms["finished"]] == [{**row, "run": ""} for row in arms["other"]]
    assert {row["arm"] for row in arms["other"]} == {"found #1", "none", "se everywhere", "cbam everywhere"}
    assert {Path(file).name for file in found["figures"]} == {"compare.png", "compare.svg", "compare.pdf"}
    assert "finished: found #1 (recommended)" in (tmp_path / "compare.svg").read_text()


def test_runs_on_other_data_or_with_other_training_say_so(
    old: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["data"]["facts"] |= {"fingerprint": "0" * 64, "n_test": 99}
    config["recipe"]["lr"] = 0.5
    (other / "config.json").write_text(json.dumps(config))
    words = ["compare", str(finished), str(other), str(old / "interrupted"), "--out", str(tmp_path)]
    assert main(words) == 0
    data, training, silent, *_ = capsys.readouterr().out.splitlines()
    assert data.startswith(
        "The runs have other data or another split (n_test: 1258 in finished, 99 in other, 1258 in i"
    )
    assert data.endswith("values can be compared within a run only.")
    assert training.startswith("The runs train differently (lr: 0.1 in finished, 0.5 in other, 0.1 in interrupted)")
    assert silent == "No arm of interrupted has a test value yet."
    assert "Tested on different images" in (tmp_path / "compare.svg").read_text()


def test_attentions_as_json(capsys: pytest.CaptureFixture[str]):
    assert main(["attentions", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(listed) >= set(ATTENTIONS.own)
    assert main(["attentions", "cbam", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one == listed["cbam"]
    assert {option["name"]: option["default"] for option in one["options"]}["kernel_size"] == 7
    assert one["parameters"] == 2 * 64 * 4 + 64 + 4 + 2 * 49 + 2


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("best {tmp}", "must be a run folder with a config.json, but there is none"),
        ("compare {run}", "At least two runs are compared, but got {run}."),
        ("compare {run} {run}/", "At least two runs are compared, but got {run}, {run}."),
        ("compare {run} {tmp}", "{tmp} must be a run folder with a config.json"),
        ("predict {run} {tmp}", "A folder must contain images, but {tmp} has no file with the suffix of one."),
        ("predict {run} x.png --arm se", "Unknown arm 'se' in {run}"),
        ("predict {tmp} x.png", "A model is loaded from a finished run, but {tmp} has no best.json"),
        ("predict {run} x.png --backbone a:b", "has the catalogue's backbone 'densenet': leave --backbone out."),
        ("export {run}", "At least one format is needed: add --onnx, --torch-export, --torchscript, --python."),
        ("export {run} --python --arm nne", "Unknown arm 'nne' in {run}: did you mean 'none'?"),
    ],
)
def test_bad_input_is_one_sentence(
    finished: Path, line: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    names = {"run": str(finished), "tmp": str(tmp_path)}
    assert main(line.format(**names).split()) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert err.startswith("Error: ")
    assert sentence.format(**names) in err


def test_a_network_of_ones_own_is_named_on_the_command_line(
    finished: Path, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    changed(run, "best.json", lambda best: best.update(backbone={"import": "mine:make"}))
    assert main(["predict", str(run), str(images / "a.png")]) == 2
    assert "has a network of your own (mine:make): add --backbone MODULE:FUNCTION" in capsys.readouterr().err
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
        "nn.Linear(4, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = build_model({"import": "my_nets:make"}, NONE, num_classes=2, in_channels=3, image_size=8)
    record = {"mean": [0.5] * 3, "std": [0.2] * 3, "class_names": ["cat", "dog"], "logits_of": "classes"}
    save_model(model, "mine.json", record=record)
    assert main(["predict", "mine.json", str(images / "a.png"), "--backbone", "my_nets:make"]) == 0
    (row,) = table(capsys.readouterr().out)
    assert float(row["cat"]) + float(row["dog"]) == pytest.approx(1.0, abs=1e-5)
    assert main(["export", "mine.json", "--python", "--backbone", "my_nets:make"]) == 2
    assert "for the networks of the catalogue, but 'Sequential' is none of them" in capsys.readouterr().err


def test_a_custom_training_has_no_predictions(
    finished: Path, tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    changed(run, "best.json", lambda best: best.update(logits_of=None))
    assert main(["predict", str(run), str(images)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Predictions need to know what the logits mean" in err


def test_missing_packages_are_named(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(formats, "NEEDED", {"onnx": ("absent_package", "torch")})
    assert main(["export", str(finished), "--onnx"]) == 2
    assert "--onnx needs the package absent_package: pip install 'nas_attn[onnx]'." in capsys.readouterr().err
