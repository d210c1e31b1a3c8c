"""The catalogue of backbones, the plain networks that it builds, and the table of their sites."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest
import torch
import torchvision

from nas_attn import files
from nas_attn.backbones import site_table as table_module
from nas_attn.backbones.build import build_backbone, load_object
from nas_attn.backbones.catalog import BACKBONES, check_backbone, image_sizes
from nas_attn.backbones.site_table import site_table
from nas_attn.cost import count_macs, count_parameters
from nas_attn.errors import SpaceError
from nas_attn.placement import KINDS, Convolution, Shape, Site

TINY = {"name": "densenet", "growth_rate": 4, "block_config": [2, 2]}
SHAPE = {"num_classes": 5, "in_channels": 1}


def test_every_entry_names_functions_that_exist_and_kinds_that_are_known():
    for name, entry in BACKBONES.items():
        assert callable(load_object(entry.build)), name
        assert callable(load_object(entry.places)), name
        assert set(entry.kinds) <= set(KINDS), name
        assert entry.summary, name
        assert "arXiv:" in entry.source or name in ("lenet", "cats_dogs_cnn")


def test_the_table_of_backbones_cannot_be_changed():
    with pytest.raises(TypeError, match="does not support item assignment"):
        BACKBONES["mine"] = BACKBONES["densenet"]


def test_equal_networks_have_equal_specs():
    assert check_backbone("densenet") == check_backbone({"name": "densenet", "num_init_features": 24, "drop_rate": 0})
    assert (
        check_backbone({"name": "densenet", "num_init_features": "auto", "growth_rate": 5})["num_init_features"] == 10
    )
    assert check_backbone(check_backbone(TINY)) == check_backbone(TINY)
    assert check_backbone({"name": "densenet", "block_config": (6, 6, 6)}) == check_backbone("densenet")
    assert json.loads(json.dumps(check_backbone(TINY))) == check_backbone(TINY)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("densnet", r"Unknown backbone 'densnet' in x.toml: did you mean 'densenet'\?"),
        ({}, "A backbone must have a name in x.toml, but got None"),
        ({"name": "resnet18", "growth_rate": 8}, "Unknown option of backbone 'resnet18' 'growth_rate' in x.toml"),
        ({"name": "densenet", "growth": 8}, "did you mean 'growth_rate'"),
        ({"name": "densenet", "growth_rate": 0}, "1 <= growth_rate <= 256 must hold for backbone 'densenet' in x.toml"),
        ({"name": "densenet", "growth_rate": True}, "but got True"),
        ({"name": "densenet", "growth_rate": 8.0}, r"but got 8\.0"),
        ({"name": "densenet", "block_config": []}, "a list of 1 to 8 whole numbers from 1 to 128"),
        ({"name": "densenet", "block_config": [4, 0]}, r"but got \[4, 0\]"),
        ({"name": "densenet", "block_config": 4}, "but got 4"),
        ({"name": "densenet", "drop_rate": 1.0}, r"0.0 <= drop_rate <= 0.9"),
        ({"name": "resnet18", "stem": "smal"}, "did you mean 'small'"),
        ({"name": "resnet18", "stem": 3}, "stem in .*'small'.* but got 3"),
        ({"import": "mine"}, "must read 'module:function' in x.toml, but got 'mine'"),
        ({"import": "mine:net", "name": "densenet"}, "either a name or an import"),
    ],
)
def test_a_spec_that_is_not_valid_is_refused_in_one_sentence(spec, sentence):
    with pytest.raises(SpaceError, match=sentence):
        check_backbone(spec, "x.toml")


@pytest.mark.parametrize("spec", [TINY, {**TINY, "block_config": [1, 1, 1, 1], "stem": "imagenet"}], ids=str)
def test_the_smallest_image_is_taken_and_one_pixel_less_is_refused(spec):
    smallest, default = image_sizes(spec)
    assert smallest <= default
    table = site_table(spec, **SHAPE, image_size=smallest)
    assert min(min(site.height, site.width) for site in table.sites) >= 1
    net = build_backbone(spec, Shape(**SHAPE, image_size=smallest), seed=0).eval()
    assert net(torch.zeros(1, 1, smallest, smallest)).shape == (1, 5)
    sentence = f"takes images of {smallest}x{smallest} pixels or more, but got image_size={smallest - 1}"
    with pytest.raises(SpaceError, match=sentence):
        site_table(spec, **SHAPE, image_size=smallest - 1)


@pytest.mark.parametrize("block_config", [[1], [1, 1], [1, 1, 1, 1]], ids=len)
@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_torchvision_itself_refuses_what_is_smaller_for_a_densenet(stem, block_config):
    spec = {**TINY, "block_config": block_config, "stem": stem}
    smallest, _ = image_sizes(spec)
    net = build_backbone(spec, Shape(**SHAPE, image_size=smallest), seed=0).eval()
    if smallest > 1:
        with pytest.raises(RuntimeError, match="too small"):
            net(torch.zeros(1, 1, smallest - 1, smallest - 1))


def test_a_free_densenet_is_torchvisions_bit_for_bit():
    net = build_backbone(
        {**TINY, "stem": "imagenet"}, Shape(num_classes=5, in_channels=3, image_size=33), seed=3
    ).eval()
    plain = torchvision.models.DenseNet(4, (2, 2), 8, num_classes=5).eval()
    assert plain.load_state_dict(net.state_dict(), strict=True)
    images = torch.randn(2, 3, 33, 33)
    with torch.no_grad():
        assert torch.equal(net(images), plain(images))


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    first, again, other = (
        build_backbone(TINY, Shape(**SHAPE, image_size=8), seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


@pytest.mark.parametrize(("spec", "conv"), [(TINY, "features.conv0"), ({"name": "resnet18"}, "conv1")])
def test_grey_images_get_a_first_convolution_of_their_own_drawn_as_the_others(spec, conv):
    net = build_backbone(spec, Shape(**SHAPE, image_size=33), seed=0)
    weight = net.get_submodule(conv).weight
    fan = weight.shape[0] if spec["name"] == "resnet18" else weight.shape[1]
    expected = (2 / (fan * weight.shape[2] * weight.shape[3])) ** 0.5
    assert weight.shape[1] == 1
    assert weight.std().item() == pytest.approx(expected, rel=0.3)


def test_the_sites_of_a_densenet_in_the_order_of_the_data():
    table = site_table(TINY, **SHAPE, image_size=9)
    assert [(site.name, site.kind, site.channels, site.height, site.stage) for site in table.sites] == [
        ("denseblock1.layer1.conv", "conv", 4, 9, "stage1"),
        ("denseblock1.layer1", "output", 4, 9, "stage1"),
        ("denseblock1.layer2.conv", "conv", 4, 9, "stage1"),
        ("denseblock1.layer2", "output", 4, 9, "stage1"),
        ("denseblock1", "output", 16, 9, "stage1"),
        ("transition1", "output", 8, 4, "stage2"),
        ("denseblock2.layer1.conv", "conv", 4, 4, "stage2"),
        ("denseblock2.layer1", "output", 4, 4, "stage2"),
        ("denseblock2.layer2.conv", "conv", 4, 4, "stage2"),
        ("denseblock2.layer2", "output", 4, 4, "stage2"),
        ("denseblock2", "output", 16, 4, "stage2"),
        ("head", "head", 16, 4, "stage2"),
    ]
    assert table.sites[0].replaced == Convolution(16, 4, bias=False, relu=False)


def test_the_sites_of_a_resnet_in_the_order_of_the_data():
    table = site_table({"name": "resnet18", "stem": "small"}, **SHAPE, image_size=9)
    assert len(table.sites) == 8 * 7 + 1
    first = Convolution(64, 128, stride=2, bias=False, norm="layer2.0.bn1")
    second = Convolution(128, 128, bias=False, norm="layer2.0.bn2", relu=False)
    assert table.sites[14:21] == (
        Site("stage2.block1.pre", "pre", "layer2.0", 64, 9, 9, "stage2"),
        Site("stage2.block1.conv1", "conv", "layer2.0.conv1", 128, 9, 9, "stage2", first),
        Site("stage2.block1.conv2", "conv", "layer2.0.conv2", 128, 5, 5, "stage2", second),
        Site("stage2.block1.branch", "branch", "layer2.0", 128, 5, 5, "stage2"),
        Site("stage2.block1.shortcut", "shortcut", "layer2.0", 128, 5, 5, "stage2"),
        Site("stage2.block1.merge", "merge", "layer2.0", 128, 5, 5, "stage2"),
        Site("stage2.block1.output", "output", "layer2.0", 128, 5, 5, "stage2"),
    )
    assert table.sites[-1] == Site("head", "head", "avgpool", 512, 2, 2, "stage4")


@pytest.mark.parametrize("spec", [TINY, {"name": "resnet18", "stem": "small"}], ids=str)
def test_a_table_states_the_cost_of_the_plain_network(spec):
    table = site_table(spec, **SHAPE, image_size=9)
    net = build_backbone(spec, Shape(**SHAPE, image_size=9), seed=0)
    assert table.n_parameters == count_parameters(net)
    assert table.n_macs == count_macs(net, (1, 9, 9))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and nothing remembered by this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table_module._remembered.cache_clear()
    yield tmp_path / "cache" / "nas_attn" / "sites"
    table_module._remembered.cache_clear()


def test_a_known_network_is_read_from_the_cache(cache, monkeypatch):
    first = site_table(TINY, **SHAPE, image_size=8)
    assert len(list(cache.iterdir())) == 1
    table_module._remembered.cache_clear()
    monkeypatch.setattr("nas_attn.backbones.sites.make_table", None)
    assert site_table(dict(reversed(TINY.items())), **SHAPE, image_size=8) == first


def test_another_shape_spec_or_version_is_another_entry(cache, monkeypatch):
    site_table(TINY, **SHAPE, image_size=8)
    site_table(TINY, **SHAPE, image_size=9)
    site_table({**TINY, "stem": "imagenet"}, **SHAPE, image_size=9)
    table_module._remembered.cache_clear()
    monkeypatch.setattr(table_module, "_versions", lambda spec: ["torch 99"])
    site_table(TINY, **SHAPE, image_size=8)
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"channels": 16', '"channels": 61'),
        lambda text: "",
        lambda text: "[1]",
        lambda text: "[" * 100_000,
        lambda text: json.dumps({"digest": files._record_digest({"a": 1}), "record": {"a": 1}}),
    ],
    ids=["truncated", "altered", "empty", "a list", "deep", "another record"],
)
def test_a_damaged_cache_is_made_again(cache, damage):
    first = site_table(TINY, **SHAPE, image_size=8)
    (file,) = cache.iterdir()
    text = file.read_text()
    assert damage(text) != text
    file.write_text(damage(text))
    table_module._remembered.cache_clear()
    assert site_table(TINY, **SHAPE, image_size=8) == first
    assert file.read_text() == text


def test_a_cache_that_cannot_be_written_costs_only_time(cache, monkeypatch):
    blocker = cache.parent.parent
    blocker.write_text("a file where a folder should be")
    assert site_table(TINY, **SHAPE, image_size=8).sites
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(files.Path, "home", _no_home)
    table_module._remembered.cache_clear()
    assert site_table(TINY, **SHAPE, image_size=8).sites


def _no_home():
    raise RuntimeError("Could not determine home directory.")


def test_a_known_network_needs_no_torch(cache, run_python):
    site_table(TINY, **SHAPE, image_size=8)
    code = f"""
import sys
from nas_attn.backbones.site_table import site_table
assert site_table({TINY!r}, num_classes=5, in_channels=1, image_size=8).sites
assert not {{"torch", "torchvision", "numpy", "pydantic"}} & set(sys.modules), "loaded too much"
"""
    done = run_python("-c", code, env={"XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ({"num_classes": 0}, "num_classes >= 1 must hold, but got num_classes=0"),
        ({"in_channels": True}, "in_channels >= 1 must hold, but got in_channels=True"),
        ({"image_size": 8.0}, "got image_size=8.0"),
    ],
)
def test_a_shape_that_makes_no_sense_is_refused(shape, sentence):
    with pytest.raises(SpaceError, match=sentence):
        site_table(TINY, **{**SHAPE, "image_size": 8, **shape})


def test_without_an_image_size_the_default_counts():
    assert site_table(TINY, **SHAPE).image_size == 32


def test_a_table_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign"):
        site_table(TINY, **SHAPE, image_size=8).image_size = 3
