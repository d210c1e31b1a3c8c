"""A model goes to two files and comes back bit-equal; files that are damaged are refused, and nothing is executed."""

from __future__ import annotations

import copy
import hashlib
import json
import sys

import numpy as np
import own_networks as own
import pytest
import torch
from PIL import Image
from torch import nn

from nas_attn.data.arrays import resized, with_channels
from nas_attn.data.dataset import Images
from nas_attn.errors import FileError
from nas_attn.files import content_digest
from nas_attn.model.build import build_model
from nas_attn.model.description import ModelFile, read_model_file
from nas_attn.model.file import load_model, save_model
from nas_attn.model.preprocess import Preprocess
from nas_attn.placement import Placement
from nas_attn.training.batches import ordered_batches

TINY = {"name": "densenet", "growth_rate": 4, "block_config": [2, 2]}
SHAPE = {"num_classes": 3, "in_channels": 1, "image_size": 8}
RECORD = {
    "mean": (0.25,),
    "std": (0.5,),
    "class_names": ["a", "b", "ü"],
    "metrics": {"test accuracy": {"mean": 0.9, "sd": 0.01, "n": 5, "seeds": [1, 2, 3, 4, 5]}},
    "provenance": {"command": "nas-attn search"},
    "recommended": "found #1",
}
PLACEMENT = Placement.from_dict(
    {
        "denseblock1": {"name": "cbam", "reduction": 4},
        "denseblock1.layer1": {"name": "se", "reduction": 2, "wiring": "residual"},
        "transition1": {"name": "triple", "reduction": 2, "wiring": "concat"},
    }
)


def _trained(backbone=TINY, placement=PLACEMENT, **shape):
    """A model whose weights and statistics are none of the initial ones."""
    model = build_model(backbone, placement, **{**SHAPE, **shape}, seed=1)
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        model(torch.randn(4, model.in_channels, 8, 8))
    return model.eval()


def _images(channels: int = 1) -> torch.Tensor:
    return torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def saved(tmp_path):
    model = _trained()
    path = tmp_path / "run" / "best.json"
    save_model(model, path, record=RECORD)
    return model, path


def test_a_model_comes_back_bit_equal(saved):
    model, path = saved
    again = load_model(path)
    assert torch.equal(again(_images()), model(_images()))
    assert not again.training
    assert (again.placement, again.spec) == (PLACEMENT, model.spec)
    assert (again.num_classes, again.in_channels, again.image_size) == (3, 1, 8)
    assert again.class_names == ("a", "b", "ü")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_the_files_lie_beside_each_other_and_say_what_they_are(saved):
    _, path = saved
    assert sorted(file.name for file in path.parent.iterdir()) == ["best.json", "best.safetensors"]
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["schema_version"] == 1
    assert content["placement"] == PLACEMENT.to_dict()
    assert content["weights"]["sha256"] == hashlib.sha256((path.parent / "best.safetensors").read_bytes()).hexdigest()
    assert content["metrics"] == RECORD["metrics"]
    assert read_model_file(path).recommended == "found #1"


def test_the_folder_may_be_moved(saved, tmp_path):
    model, path = saved
    moved = path.parent.rename(tmp_path / "moved")
    assert torch.equal(load_model(str(moved / "best.json"))(_images()), model(_images()))


def test_saving_again_replaces_both_files(saved):
    _, path = saved
    plain = _trained(placement=Placement())
    save_model(plain, path, record={**RECORD, "recommended": "none"})
    assert torch.equal(load_model(path)(_images()), plain(_images()))


def test_without_weights_the_model_is_untrained(saved):
    model, path = saved
    (path.parent / "best.safetensors").unlink()
    fresh = load_model(path, weights=False)
    assert fresh.state_dict().keys() == model.state_dict().keys()
    assert not torch.equal(fresh(_images()), model(_images()))
    with pytest.raises(
        FileError, match=r"best.safetensors cannot be read .*put them beside best.json, or pass weights"
    ):
        load_model(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(saved, share):
    _, path = saved
    for file in (path.with_suffix(".safetensors"), path):
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])
        with pytest.raises(FileError, match=f"{file.name} (are|is) truncated or altered"):
            load_model(path)


def test_an_altered_weight_is_refused(saved):
    _, path = saved
    file = path.with_suffix(".safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    message = r"best.safetensors are truncated or altered: their SHA-256 differs from the one in best.json"
    with pytest.raises(FileError, match=message):
        load_model(path)


def _edited(path, edit, *, sign: bool) -> None:
    content = json.loads(path.read_text())
    edit(content)
    if sign:
        content["digest"] = content_digest(content)
    path.write_text(json.dumps(content))


def _set(*keys):
    *path, last, value = keys

    def edit(content):
        for key in path:
            content = content[key]
        content[last] = value

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        _set("placement", "denseblock1", "reduction", 2),
        _set("mean", [0.5]),
        _set("metrics", {}),
        _set("class_names", ["b", "a", "ü"]),
    ],
)
def test_an_altered_description_is_refused(saved, edit):
    _, path = saved
    _edited(path, edit, sign=False)
    with pytest.raises(FileError, match=r"best.json is altered: its content does not match its digest"):
        load_model(path)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (_set("schema_version", 2), "must have schema_version 1, but has 2"),
        (_set("colour", 1), "Unknown key 'colour' in .*best.json"),
        (_set("meen", 1), "did you mean 'mean'"),
        (_set("mean", [0.1, 0.2]), "'mean' in .*best.json must have 1 entries, but has 2"),
        (_set("std", [0.0]), r"'std.0' in .*best.json is refused: .*greater than 0"),
        (_set("class_names", ["a"]), "'class_names' in .* must have 3 entries, but has 1"),
        (_set("num_classes", "3"), "'num_classes' in .* must be a whole number from 0 to 1,000,000, but got '3'"),
        (_set("weights", "name", "../best.safetensors"), r"'weights.name' in .*best.json is refused"),
        (_set("weights", "name", "/etc/best.safetensors"), r"'weights.name' in .*best.json is refused"),
        (_set("placement", "denseblock1", "name", "see"), "cannot be built: Unknown attention 'see'"),
        (_set("placement", "denseblock9", {"name": "se"}), "cannot be built: Unknown site 'denseblock9'"),
        (_set("backbone", "name", "dense"), "cannot be built: Unknown backbone 'dense'"),
        (_set("backbone", "growth_rate", 10**9), "cannot be built: 1 <= growth_rate <= 256 must hold"),
        (_set("backbone", "growth_rate", 5), "best.safetensors do not fit the network: 'attention.denseblock1"),
        (_set("placement", {}), "do not fit the network: 'attention.* must be absent"),
    ],
)
def test_a_description_that_fits_nothing_is_refused_even_when_signed(saved, edit, sentence):
    _, path = saved
    _edited(path, edit, sign=True)
    with pytest.raises(FileError, match=sentence):
        load_model(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "NaN", '{"mean": NaN}', "[" * 100_000, "\x80"])
def test_what_is_no_description_is_refused(tmp_path, text):
    path = tmp_path / "best.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FileError, match=r"The model file .*best.json (is truncated or altered|must contain an object)"):
        load_model(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"The model file .*best.json cannot be read: No such file or directory"):
        load_model(tmp_path / "best.json")


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({**RECORD, "colour": 1}, "Unknown key 'colour' in .*best.json"),
        ({**RECORD, "metrics": {"accuracy": float("nan")}}, "must be plain JSON: Out of range float values"),
        ({**RECORD, "metrics": {"accuracy": torch.zeros(1)}}, "must be plain JSON: Object of type Tensor"),
        ({**RECORD, "mean": [0.1, 0.1]}, "must have 1 entries, but has 2"),
        ({"mean": [0.1]}, "Key 'std' is missing in .*best.json"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, record, sentence):
    with pytest.raises(FileError, match=sentence):
        save_model(_trained(), tmp_path / "best.json", record=record)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(FileError, match="cannot be written"):
        save_model(_trained(), tmp_path / "run" / "best.json", record=RECORD)


def test_a_network_of_ones_own_is_passed_in(tmp_path):
    placement = Placement.from_dict({"stage1.0.branch": {"name": "se", "reduction": 2}})
    model = _trained(own.ResidualCNN(3), placement)
    path = tmp_path / "mine.json"
    save_model(model, path, record=RECORD)
    assert json.loads(path.read_text())["backbone"] == {"own": "ResidualCNN"}
    for passed in (lambda: own.ResidualCNN(3), own.ResidualCNN(3)):
        assert torch.equal(load_model(path, backbone=passed)(_images()), model(_images()))
    with pytest.raises(FileError, match=r"a network of your own \(ResidualCNN\): pass it, or a function"):
        load_model(path)
    with pytest.raises(FileError, match=r"cannot be built: Unknown site 'stage1.0.branch' in backbone 'PlainCNN'"):
        load_model(path, backbone=own.PlainCNN(3))


def test_a_catalogue_backbone_is_not_passed_in(saved):
    with pytest.raises(FileError, match="has the catalogue's backbone 'densenet': leave `backbone` out"):
        load_model(saved[1], backbone=own.PlainCNN)


def test_nothing_that_the_file_names_is_imported(tmp_path, monkeypatch):
    trap = tmp_path / "trap_module.py"
    trap.write_text("raise SystemExit('executed')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    model = _trained(own.PlainCNN(3), Placement())
    model.spec = {"import": "trap_module:make"}
    save_model(model, tmp_path / "best.json", record=RECORD)
    with pytest.raises(FileError, match=r"a network of your own \(trap_module:make\)"):
        load_model(tmp_path / "best.json")
    assert torch.equal(load_model(tmp_path / "best.json", backbone=own.PlainCNN(3))(_images()), model(_images()))
    assert "trap_module" not in sys.modules


def test_loading_leaves_the_global_generator_alone(saved):
    before = torch.get_rng_state()
    load_model(saved[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_schema_is_published():
    assert set(ModelFile.model_json_schema()["required"]) >= {"backbone", "placement", "weights", "digest"}


PREPROCESS = Preprocess(8, (0.25,), (0.5,))
COLOUR = Preprocess(6, (0.2, 0.3, 0.4), (0.5, 0.6, 0.7))


def _pixels(n: int, size: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


@pytest.mark.parametrize(("preprocess", "channels"), [(PREPROCESS, 1), (PREPROCESS, 3), (COLOUR, 1), (COLOUR, 3)])
def test_uint8_images_become_what_the_training_saw_bit_for_bit(preprocess, channels):
    pixels = _pixels(3, 11, channels)
    wanted = resized(with_channels(pixels, len(preprocess.mean)), preprocess.image_size)
    stated = preprocess.mean, preprocess.std
    images = Images(torch.from_numpy(wanted).permute(0, 3, 1, 2), torch.zeros(3), *stated)
    (expected,) = ordered_batches(images, batch_size=3)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    assert torch.equal(preprocess(tensor), expected)
    pictures = [Image.fromarray(one.squeeze()) for one in pixels]
    assert torch.equal(preprocess(pictures), expected)
    assert torch.equal(preprocess(pictures[1]), expected[1:2])
    assert torch.equal(preprocess(tensor[1]), expected[1:2])
    torch.testing.assert_close(preprocess(tensor / 255), expected, atol=0.02, rtol=0)


def test_two_lines_are_enough(saved):
    model = load_model(saved[1])
    logits = model(model.preprocess(Image.new("RGB", (30, 20))))
    assert model.class_names[logits.argmax()] in RECORD["class_names"]


def test_a_loaded_model_copies_with_all_that_belongs_to_it(saved):
    again = copy.deepcopy(load_model(saved[1]))
    assert again.preprocess == PREPROCESS
    assert again.class_names == ("a", "b", "ü")
