"""A backbone that starts from a file of weights, and how it is trained then."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import hub
from torchvision import models

from nas_attn.backbones.build import build_backbone
from nas_attn.backbones.catalog import check_backbone
from nas_attn.config import Recipe
from nas_attn.data.dataset import Images
from nas_attn.errors import ConfigError, FileError, RunError, SpaceError
from nas_attn.model.build import build_model
from nas_attn.model.file import load_model, save_model
from nas_attn.placement import Placement, Shape
from nas_attn.run.job import search
from nas_attn.run.request import bind, read_settings
from nas_attn.space.search_space import SearchSpace
from nas_attn.training.loop import make_optimizer, train

SHAPE = {"num_classes": 4, "in_channels": 3, "image_size": 8}
SMALL = {"name": "preact_resnet", "width": 4}


def state_of(spec=SMALL, seed=5, **shape):
    return build_backbone(spec, Shape(**{**SHAPE, **shape}), seed=seed).state_dict()


def first_conv(state):
    return next(key for key, value in state.items() if value.ndim == 4)


def classifier(state):
    return next(key for key in reversed(state) if key.endswith(".weight") and state[key].ndim == 2)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.safetensors"
    save_file(state_of(), path)
    return path


def built(file, placement=None, spec=SMALL, **shape):
    named = {**spec, "weights": str(file)}
    words = {"class_names": shape.pop("class_names", ())}
    return build_model(named, Placement.from_dict(placement or {}), **{**SHAPE, **shape}, seed=1, **words)


@pytest.mark.parametrize("wrap", [dict, lambda state: {"state_dict": state}, lambda state: {"model": state}])
def test_a_torch_file_is_loaded_bit_for_bit(tmp_path, wrap):
    path = tmp_path / "small.pth"
    torch.save(wrap(state_of()), path)
    found = built(path).backbone.state_dict()
    assert all(torch.equal(found[key], value) for key, value in state_of().items())


def test_a_parallel_network_s_file_is_loaded_under_the_network_s_own_names(tmp_path):
    path = tmp_path / "small.pt"
    torch.save({f"module.{key}": value for key, value in state_of().items()}, path)
    assert torch.equal(built(path).backbone.state_dict()[first_conv(state_of())], state_of()[first_conv(state_of())])


def test_weights_load_under_any_placement_and_replaced_parts_are_dropped(file):
    placement = {
        "stage1.block1.branch": {"name": "se", "reduction": 2},
        "stage2.block2.conv1": {"name": "sk", "groups": 1},
        "stage2.block3.conv1": {"name": "deform"},
        "head": {"name": "attention_pool"},
    }
    model, given = built(file, placement), state_of()
    found = model.backbone.state_dict()
    assert set(found) < set(given)
    assert all(torch.equal(value, given[key]) for key, value in found.items())
    assert "stages.1.2.branch.conv1.weight" in found  # deform takes it over


def test_the_spec_of_the_model_does_not_name_the_file(file, tmp_path):
    model = built(file)
    assert model.spec == check_backbone(SMALL)
    facts = {"mean": [0.0] * 3, "std": [1.0] * 3, "class_names": list("abcd")}
    save_model(model, tmp_path / "best.json", record=facts)
    file.unlink()
    assert load_model(tmp_path / "best.json").image_size == 8


def test_a_model_of_ours_gives_its_backbone(file, tmp_path):
    model = built(file, {"stage1.block1.branch": {"name": "se", "reduction": 2}})
    facts = {"mean": [0.0] * 3, "std": [1.0] * 3, "class_names": list("abcd")}
    save_model(model, tmp_path / "best.json", record=facts)
    found = built(tmp_path / "best.safetensors", {"stage3.block1.branch": {"name": "eca"}}).backbone.state_dict()
    assert all(torch.equal(found[key], value) for key, value in state_of().items())


def test_a_classifier_of_other_classes_is_left_as_drawn_with_a_line_in_the_log(file, caplog):
    with caplog.at_level(logging.INFO, "nas_attn"):
        found = built(file, num_classes=6).backbone.state_dict()
    drawn = state_of(num_classes=6, seed=1)
    key, conv = classifier(drawn), first_conv(drawn)
    assert torch.equal(found[key], drawn[key])
    assert torch.equal(found[conv], state_of()[conv])
    assert f"the classifier '{key.removesuffix('.weight')}' keeps its initial weights" in caplog.text


def test_classes_of_the_same_name_keep_their_rows(file, tmp_path, caplog):
    record = {"class_names": ["ant", "bee", "cat", "dog"], "weights": {"name": file.name}}
    file.with_suffix(".json").write_text(json.dumps(record))
    with caplog.at_level(logging.INFO, "nas_attn"):
        found = built(file, num_classes=3, class_names=("dog", "eel", "ant")).backbone.state_dict()
    given, drawn = state_of(), state_of(num_classes=3, seed=1)
    for key in (classifier(given), classifier(given).replace("weight", "bias")):
        assert torch.equal(found[key], torch.stack([given[key][3], drawn[key][1], given[key][0]]))
    assert "keeps the rows of 2 classes of the same name" in caplog.text


def test_equal_class_counts_keep_all_rows_unless_the_names_say_otherwise(file):
    key = classifier(state_of())
    assert torch.equal(built(file, class_names="abcd").backbone.state_dict()[key], state_of()[key])
    record = {"class_names": ["w", "x", "y", "z"], "weights": {"name": file.name}}
    file.with_suffix(".json").write_text(json.dumps(record))
    assert torch.equal(built(file, class_names="abcd").backbone.state_dict()[key], state_of(seed=1)[key])
    assert torch.equal(built(file).backbone.state_dict()[key], state_of()[key])
    flipped = built(file, class_names="zyxw").backbone.state_dict()[key]
    assert torch.equal(flipped, state_of()[key].flip(0))


def test_grey_images_take_the_sum_over_the_first_convolution_s_channels(file, caplog):
    key = first_conv(state_of())
    with caplog.at_level(logging.INFO, "nas_attn"):
        found = built(file, in_channels=1).backbone.state_dict()[key]
    torch.testing.assert_close(found, state_of()[key].sum(1, keepdim=True))
    assert f"'{key}' is summed over them" in caplog.text


def test_other_channels_are_refused(file):
    with pytest.raises(FileError, match=r"for images of 3 channels, but these have 2 \('.*weight'\): only 3 can be"):
        built(file, in_channels=2)


def test_the_first_differing_key_or_shape_is_named(tmp_path):
    state = state_of()
    path = tmp_path / "other.safetensors"
    key = next(key for key in state if key.startswith("stages.0.1."))
    save_file({name: value for name, value in state.items() if name != key}, path)
    with pytest.raises(
        FileError,
        match=rf"do not fit the network: '{key}' must be \(.*\), but is absent: take weights of this network, "
        r"with its options\.$",
    ):
        built(path)
    save_file({**state, "extra.weight": torch.zeros(2)}, path)
    with pytest.raises(FileError, match=r"'extra\.weight' must be absent, but is \(2,\): take weights of this network"):
        built(path)
    save_file({**state, key: torch.zeros(7)}, path)
    with pytest.raises(FileError, match=rf"'{key}' must be \(.*\), but is \(7,\): take weights of this network"):
        built(path)


def test_a_file_that_is_none_or_damaged_or_executes_code_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"must be a file, but there is none at .*gone\.pth\.$"):
        built(tmp_path / "gone.pth")
    for name in ("bad.safetensors", "bad.pth"):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(FileError, match=rf"The weights .*{name} .*cannot be read"):
            built(tmp_path / name)
    torch.save({"state_dict": Path("x")}, tmp_path / "code.pth")
    with pytest.raises(
        FileError, match="dict of tensors, but are of type dict, without tensors: 'state_dict' is of type pathlib"
    ):
        built(tmp_path / "code.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(
        FileError, match="dict of tensors, but are of type dict, without tensors: 'epoch' is of type int; save"
    ):
        built(tmp_path / "none.pth")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(FileError, match=r"must be a file, but .*folder\.pth is a folder: name a file in it\.$"):
        built(tmp_path / "folder.pth")
    for name in ("model-00001-of-00002.safetensors", "pytorch_model.bin.index.json"):
        with pytest.raises(FileError, match=rf"must be one file, but .*{name} belongs to several: join them"):
            built(tmp_path / name)
    with pytest.raises(FileError, match=r"\.safetensors, .*, \.tar file or a name .*, but got 'a/b\.onnx'"):
        built("a/b.onnx")


def test_weights_that_are_no_text_are_refused():
    with pytest.raises(SpaceError, match=r"must be a file or a name of torchvision's in x\.toml, but got 3"):
        check_backbone({**SMALL, "weights": 3}, "x.toml")
    with pytest.raises(SpaceError, match="download of a backbone must be true or false, but got 1"):
        check_backbone({**SMALL, "weights": "a.pt", "download": 1})


def test_torchvision_s_weights_are_fetched_only_with_leave(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "get_dir", lambda: str(tmp_path))
    fetched = []

    def fetch(url, path, prefix, progress):
        fetched.append((Path(url).name, prefix))
        torch.save(state_of("squeezenet", num_classes=1000, image_size=32), path)

    monkeypatch.setattr(hub, "download_url_to_file", fetch)
    spec = {"name": "squeezenet", "weights": "IMAGENET1K_V1"}
    with pytest.raises(
        FileError, match=r"IMAGENET1K_V1 are not on this machine \(.*squeezenet1_1-b8a52dc0\.pth\).*--dow"
    ):
        build_model(spec, Placement(), **{**SHAPE, "image_size": 32})
    assert not fetched
    model = build_model({**spec, "download": True}, Placement(), **{**SHAPE, "image_size": 32}, seed=1)
    assert fetched == [("squeezenet1_1-b8a52dc0.pth", "b8a52dc0")]
    given = state_of("squeezenet", num_classes=1000, image_size=32)
    assert torch.equal(model.backbone.features[0].weight, given["features.0.weight"])
    build_model(spec, Placement(), **{**SHAPE, "image_size": 32}, seed=1)
    assert len(fetched) == 1


def test_a_fetch_that_fails_and_unknown_names_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "get_dir", lambda: str(tmp_path))

    def fetch(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(hub, "download_url_to_file", fetch)
    with pytest.raises(FileError, match=r"IMAGENET1K_V2 cannot be downloaded from https://.*resnet50.*: no route\.$"):
        built("IMAGENET1K_V2", spec={"name": "resnet50", "download": True}, image_size=32)
    with pytest.raises(SpaceError, match=r"Unknown weights of backbone 'resnet18' 'IMAGENET1K_V2': did you mean"):
        built("IMAGENET1K_V2", spec={"name": "resnet18"}, image_size=32)
    with pytest.raises(
        SpaceError, match="torchvision has no weights for backbone 'lenet', but got weights = 'DEFAULT'"
    ):
        built("DEFAULT", spec={"name": "lenet"}, image_size=32)
    with pytest.raises(FileError, match="DEFAULT are not on this machine"):
        built("DEFAULT", spec={"import": "torchvision.models:squeezenet1_1"}, image_size=32)


def test_old_names_of_densenets_auxiliary_parts_and_missing_counters_are_understood(tmp_path):
    spec = {"name": "densenet", "growth_rate": 4, "block_config": [1, 1]}
    state = state_of(spec)
    old = {
        key.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.").replace("conv1.", "conv.1.").replace(
            "conv2.", "conv.2."
        ) if "denselayer" in key else key: value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }  # fmt: skip
    save_file({**old, "aux1.fc.weight": torch.zeros(2)}, tmp_path / "old.safetensors")
    found = built(tmp_path / "old.safetensors", spec=spec).backbone.state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_torchvision_s_own_state_dicts_fit_our_networks(tmp_path):
    for name in ("squeezenet1_1", "mobilenet_v2"):
        torch.save(models.get_model(name, num_classes=4).state_dict(), tmp_path / f"{name}.pth")
        built(tmp_path / f"{name}.pth", spec={"name": name.split("1_1")[0]}, image_size=32)


def test_a_changed_file_is_another_search(file, tmp_path):
    def space():
        return {
            "title": "t",
            "backbone": {**SMALL, "weights": str(file)},
            "sites": [{"match": ["stage1.block1.branch"], "attentions": ["eca"]}],
        }

    words = {"out": tmp_path / "run", "trials": 1, "top": 1, "seeds": 1, "epochs": 1, "executor": "local"}
    words |= {"num_classes": 4, "in_channels": 3, "image_size": 8}
    request = bind(read_settings({"space": SearchSpace.from_dict(space()), "train": lambda model, run: 0.5, **words}))
    assert request.notes == (f"Initial weights of the backbone: {file}.",)
    seen = []

    def train(model, run):
        seen.append(model.backbone.state_dict()[first_conv(state_of())].clone())
        return 0.5

    search(SearchSpace.from_dict(space()), train, **words)
    assert seen
    assert all(torch.equal(conv, state_of()[first_conv(state_of())]) for conv in seen)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["weights"]["file"] == str(file)
    save_file(state_of(seed=6), file)
    with pytest.raises(RunError, match=r"belongs to another search \(weights\.sha256 was '"):
        search(SearchSpace.from_dict(space()), train, **words)


def test_weights_of_another_network_are_refused_before_anything_is_written(file, tmp_path):
    save_file({"a": torch.zeros(1)}, file)
    space = {
        "title": "t",
        "backbone": {**SMALL, "weights": str(file)},
        "sites": [{"match": ["stage1.block1.branch"], "attentions": ["eca"]}],
    }
    with pytest.raises(FileError, match="do not fit the network"):
        search(
            SearchSpace.from_dict(space), lambda model, run: 0.5, tmp_path / "run", num_classes=4, in_channels=3,
            image_size=8, executor="local",
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def images_of(n=32):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % 4, (0.5,) * 3, (0.25,) * 3)


def trained(file, epochs=1, placement=None, **recipe):
    model = built(file, {"stage1.block1.branch": {"name": "bam", "reduction": 2}} if placement is None else placement)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    words = Recipe(batch_size=16, **recipe)
    train(model, images_of(), None, words, seed=0, epochs=epochs, device="cpu", report=lambda *_: None, num_classes=4)
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}, model


def is_new(key):
    return key.startswith("attention.") or key in (f"backbone.{name}" for name in CLASSIFIER)


CLASSIFIER = ("fc.weight", "fc.bias", "classifier.weight", "classifier.bias")


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_every_optimizer_goes_on_after_the_frozen_epochs(file, optimizer):
    changed, _ = trained(file, epochs=2, freeze_epochs=1, backbone_lr=0.5, optimizer=optimizer)
    assert f"backbone.{first_conv(state_of())}" in changed


def test_a_frozen_backbone_keeps_weights_and_statistics_while_the_new_parts_learn(file):
    changed, model = trained(file, freeze_epochs=1)
    assert changed
    assert all(is_new(key) for key in changed)
    assert any(key.startswith("attention.") and "running_mean" in key for key in changed)
    assert any(not key.startswith("attention.") for key in changed)
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    changed, _ = trained(file, epochs=2, freeze_epochs=1)
    assert {f"backbone.{first_conv(state_of())}", "backbone.stages.0.0.branch.norm2.running_mean"} <= changed


def test_the_backbone_s_weights_have_their_share_of_the_rate_and_the_classifier_the_full_one(file):
    model = built(file, {"stage1.block1.branch": {"name": "se", "reduction": 2}})
    optimizer = make_optimizer(model, Recipe(backbone_lr=0.1), num_classes=4)
    shares = {id(weight): group["share"] for group in optimizer.param_groups for weight in group["params"]}
    named = dict(model.named_parameters())
    assert len(shares) == len(named)
    for key, weight in named.items():
        assert shares[id(weight)] == (1.0 if is_new(key) else 0.1), key
        decays = next(g for g in optimizer.param_groups if any(w is weight for w in g["params"]))["weight_decay"]
        assert (decays > 0) == (weight.ndim >= 2)


def test_a_smaller_rate_moves_the_backbone_less(file):
    key = f"backbone.{first_conv(state_of())}"
    start = state_of()[first_conv(state_of())]
    slow, fast = (
        (trained(file, placement={}, backbone_lr=share, weight_decay=0.0)[1].state_dict()[key] - start).norm()
        for share in (0.01, 1.0)
    )
    assert 0 < slow < 0.1 * fast


def test_a_frozen_part_taken_over_by_deform_stays_too(file):
    placement = {"stage1.block2.conv1": {"name": "deform"}}
    changed, _ = trained(file, placement=placement, freeze_epochs=1)
    assert all(is_new(key) for key in changed)
    assert any(key.startswith("attention.") for key in changed)


def test_the_settings_of_the_recipe_come_from_the_space_or_the_command_line():
    space = {
        "title": "t",
        "backbone": SMALL,
        "sites": [{"match": ["stage1.block1.branch"], "attentions": ["eca"]}],
        "recipe": {"backbone_lr": 0.1, "freeze_epochs": 2},
    }
    recipe = read_settings({"space": SearchSpace.from_dict(space), "freeze_epochs": 3}).recipe
    assert (recipe.backbone_lr, recipe.freeze_epochs) == (0.1, 3)
    with pytest.raises(
        SpaceError, match=r"'backbone_lr' in \[recipe\] of x\.toml must be a number above 0 to 1, but got 2.0"
    ):
        SearchSpace.from_dict({**space, "recipe": {"backbone_lr": 2.0}}, "x.toml")
    with pytest.raises(
        ConfigError, match=r"'freeze_epochs' in the settings must be a whole number from 0 to 100,000, but got -1"
    ):
        read_settings({"space": SearchSpace.from_dict(space), "freeze_epochs": -1})
