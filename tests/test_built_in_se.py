"""Networks that carry squeeze-and-excitation of their own: taken out on request, else named."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models
from torchvision.ops import SqueezeExcitation

from nas_attn.backbones.build import build_backbone
from nas_attn.backbones.catalog import check_backbone
from nas_attn.backbones.modules import built_in_se
from nas_attn.backbones.passes import count_parameters, forward_macs
from nas_attn.backbones.site_table import site_table
from nas_attn.cli.commands import main
from nas_attn.errors import FileError, SpaceError
from nas_attn.model import build as model_module
from nas_attn.model.build import build_model
from nas_attn.model.file import load_model, save_model
from nas_attn.placement import Placement, Shape
from nas_attn.run.request import bind, read_settings
from nas_attn.space.fit import placement_cost
from nas_attn.space.search_space import SearchSpace

SHAPE = {"num_classes": 4, "in_channels": 3, "image_size": 32}
SMALL = {"name": "mobilenet_v3_small", "width_mult": 0.25, "stem": "small"}
CARRIERS = (SMALL, {"name": "regnet_y_400mf"}, {"name": "efficientnet_b0"})
OWN = {"import": "torchvision.models:mobilenet_v3_small", "num_classes": 4, "width_mult": 0.25}
ONE = {"stage2.block2.branch": {"name": "eca"}}


def small(**words):
    return models.mobilenet_v3_small(num_classes=4, width_mult=0.25, **words)


@pytest.mark.parametrize("spec", [*CARRIERS, OWN], ids=lambda spec: spec.get("name", "own"))
def test_the_rest_keeps_its_names_and_its_initial_weights(spec):
    plain = build_backbone(spec, Shape(**SHAPE), seed=0)
    inside = built_in_se(plain)
    state, without = plain.state_dict(), build_backbone({**spec, "replace": "se"}, Shape(**SHAPE), seed=0).state_dict()
    assert inside
    rest = {key for key in state if not key.startswith(tuple(f"{path}." for path in inside))}
    assert set(without) == rest
    assert len(rest) < len(state)
    assert all(torch.equal(without[key], state[key]) for key in rest)


@pytest.mark.parametrize("spec", CARRIERS, ids=lambda spec: spec["name"])
def test_costs_of_a_placement_equal_those_of_the_built_network(spec):
    spec = {**spec, "replace": "se"}
    table, plain = site_table(spec, **SHAPE), site_table({**spec, "replace": None}, **SHAPE)
    assert table.n_parameters < plain.n_parameters
    assert not table.built_in
    assert plain.built_in
    assert [site.name for site in table.sites] == [site.name for site in plain.sites]
    sites = [site.name for site in table.sites if site.kind == "branch"][:2]
    placement = Placement.from_dict({name: {"name": "se", "reduction": 4} for name in sites})
    model = build_model(spec, placement, **SHAPE, seed=0).eval()
    cost = placement_cost(table, placement)
    assert cost.n_parameters == count_parameters(model)
    assert cost.n_macs == forward_macs(model, torch.zeros(1, 3, 32, 32))
    assert not any(isinstance(module, SqueezeExcitation) for module in model.modules())


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.safetensors"
    save_file(build_backbone(SMALL, Shape(**SHAPE), seed=5).state_dict(), path)
    return path


def test_pretrained_weights_load_strictly_but_for_what_is_taken_out(file):
    spec = {**SMALL, "replace": "se", "weights": str(file)}
    given = build_backbone(SMALL, Shape(**SHAPE), seed=5).state_dict()
    found = build_model(spec, Placement.from_dict(ONE), **SHAPE, seed=0).backbone.state_dict()
    assert found
    assert all(torch.equal(value, given[key]) for key, value in found.items())
    save_file({**given, "other.weight": torch.zeros(1)}, file)
    with pytest.raises(FileError, match=r"'other\.weight' must be absent"):
        build_model(spec, Placement(), **SHAPE, seed=0)


def test_a_model_without_it_comes_back_from_its_file_also_in_a_network_of_one_s_own(tmp_path):
    facts = {"mean": [0.0] * 3, "std": [1.0] * 3, "class_names": list("abcd")}
    images = torch.rand(2, 3, 32, 32)
    for spec, net in (
        ({**SMALL, "replace": "se"}, None),
        ({**OWN, "replace": "se"}, lambda: small()),
        ({**OWN, "replace": "se"}, models.mobilenet_v3_small),
        ({**OWN, "replace": "se"}, small()),
    ):
        model = build_model(spec, Placement(), **SHAPE, seed=0).eval()
        save_model(model, tmp_path / "best.json", record=facts)
        again = load_model(tmp_path / "best.json", backbone=net)
        assert torch.equal(again(images), model(images))
    assert built_in_se(net)


def test_attention_on_top_of_it_is_warned_of_once(caplog):
    model_module._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "nas_attn"):
        build_model(SMALL, Placement(), **SHAPE, seed=0)
        build_model({**SMALL, "replace": "se"}, Placement.from_dict(ONE), **SHAPE, seed=0)
        assert not caplog.records
        for _ in range(2):
            build_model(SMALL, Placement.from_dict(ONE), **SHAPE, seed=0)
    (record,) = caplog.records
    assert record.getMessage().startswith("'mobilenet_v3_small' has 9 built-in squeeze-and-excitation modules (")
    assert "features.1.block.1, " in record.getMessage()
    assert record.getMessage().endswith("attention is added to them: replace = 'se' in the backbone removes them.")


def test_a_network_of_one_s_own_is_warned_of_too(caplog):
    model_module._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "nas_attn"):
        build_model(small(), Placement.from_dict({"features.3": {"name": "eca"}}), **SHAPE, seed=0)
    assert "'MobileNetV3' has 9 built-in squeeze-and-excitation modules" in caplog.text


def notes(backbone):
    space = {"title": "t", "backbone": backbone, "sites": [{"match": list(ONE), "attentions": ["eca"]}]}
    words = {"space": SearchSpace.from_dict(space), "train": lambda model, run: 0.5, **SHAPE}
    return bind(read_settings(words)).notes


def test_the_plan_s_notes_name_it_and_say_how_to_take_it_out(file):
    assert any("has 9 built-in squeeze-and-excitation modules" in note for note in notes(SMALL))
    assert notes({**SMALL, "replace": "se"}) == ()
    assert notes({**SMALL, "replace": "se", "weights": str(file)}) == (f"Initial weights of the backbone: {file}.",)


def test_the_listing_of_sites_has_a_row_for_it(capsys):
    words = ("sites", "mobilenet_v3_small", "stem=small", "--image-size", "32")
    assert main(words) == 0
    assert "9 built-in squeeze-and-excitation modules" in capsys.readouterr().out
    assert main([*words[:3], "replace=se", *words[3:]]) == 0
    assert "built-in" not in capsys.readouterr().out


def test_another_word_is_refused():
    with pytest.raises(SpaceError, match=r"replace of a backbone must be 'se', which .* in x\.toml, but got 'eca'\."):
        check_backbone({**SMALL, "replace": "eca"}, "x.toml")


def test_a_network_that_carries_none_has_nothing_to_take_out():
    with pytest.raises(
        SpaceError, match=r"Backbone 'resnet18' has no squeeze-and-excitation of its own: leave replace"
    ):
        site_table({"name": "resnet18", "replace": "se"}, **SHAPE)
