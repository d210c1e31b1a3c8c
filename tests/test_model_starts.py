"""Insertions that start as the identity, and choices that place nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.backbones.build import build_backbone
from nas_attn.backbones.site_table import site_table
from nas_attn.cost import count_macs, count_parameters
from nas_attn.errors import SpaceError
from nas_attn.model.build import build_model
from nas_attn.model.file import load_model, save_model
from nas_attn.placement import Attention, Placement, Shape, Site, SiteTable
from nas_attn.space.fit import placement_cost, resolve_placement
from nas_attn.space.search_space import SearchSpace

RESNET = {"name": "resnet18", "stem": "small"}
SHAPE = {"num_classes": 3, "in_channels": 1, "image_size": 16}
KINDS = ("pre", "branch", "shortcut", "output")
SHAPE_KEEPING = [name for name in ATTENTIONS.own if ATTENTIONS[name].keeps_shape]


def _images() -> torch.Tensor:
    return torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def _start(name: str, kinds: tuple[str, ...] = KINDS, **more: str) -> Placement:
    return Placement({f"stage2.block1.{kind}": Attention(name, start="identity", **more) for kind in kinds})


SITES = [f"stage{stage}.block{block}.{kind}" for stage in (1, 2, 3) for block in (1, 2) for kind in KINDS]


@pytest.mark.parametrize("offset", range(len(KINDS)), ids=KINDS)
def test_any_attention_can_start_as_the_plain_network_bit_for_bit(offset):
    """One model has each attention at one site; over the rows, each attention gets every kind of site."""
    for start in range(0, len(SHAPE_KEEPING), len(SITES)):
        names = SHAPE_KEEPING[start : start + len(SITES)]
        sites = [SITES[(index + offset) % len(SITES)] for index in range(len(names))]
        placement = Placement(
            {site: Attention(name, start="identity") for site, name in zip(sites, names, strict=True)}
        )
        plain = build_backbone(RESNET, Shape(**SHAPE), seed=5)
        model = build_model(RESNET, placement, **SHAPE, seed=5)
        assert len(model.placement) == len(names)
        for training in (False, True):
            images = _images()
            assert torch.equal(model.train(training)(images), plain.train(training)(images)), names


@pytest.mark.parametrize("wiring", ["gate", "residual", "concat"])
def test_any_wiring_can_start_as_the_plain_network_and_learns_to_leave_it(wiring):
    plain = build_backbone(RESNET, Shape(**SHAPE), seed=5).eval()
    model = build_model(RESNET, _start("cbam", wiring=wiring), **SHAPE, seed=5).eval()
    images = _images()
    assert torch.equal(model(images), plain(images))

    model(images).square().sum().backward()
    shares = [model.insert_at(f"stage2.block1.{kind}").share for kind in KINDS]
    assert all(share.grad is not None and share.grad != 0 for share in shares)
    with torch.no_grad():
        for share in shares:
            share.fill_(1.0)
    usual = build_model(
        RESNET, Placement({site: Attention("cbam", wiring=wiring) for site in model.placement}), **SHAPE
    )
    usual.load_state_dict({key: value for key, value in model.state_dict().items() if not key.endswith("share")})
    torch.testing.assert_close(model(images), usual.eval()(images))


def test_the_start_counts_one_parameter_and_makes_another_key():
    table = site_table(RESNET, **SHAPE)
    placement = _start("se", ("branch",))
    usual = Placement({"stage2.block1.branch": Attention("se")})
    model = build_model(RESNET, placement, **SHAPE)

    cost = placement_cost(table, placement)
    assert cost.n_parameters == placement_cost(table, usual).n_parameters + 1 == count_parameters(model)
    assert cost.n_macs == count_macs(model, (1, 16, 16))
    assert resolve_placement(table, placement).key != resolve_placement(table, usual).key
    assert str(placement) == "se(start=identity) at stage2.block1.branch"


def test_the_start_comes_back_from_a_model_file(tmp_path):
    model = build_model(RESNET, _start("cbam", ("output",)), **SHAPE).eval()
    with torch.no_grad():
        model.insert_at("stage2.block1.output").share.fill_(0.25)
    record = {"mean": (0.5,), "std": (0.5,), "class_names": ["a", "b", "c"], "recommended": "found #1"}
    save_model(model, tmp_path / "best.json", record=record)
    again = load_model(tmp_path / "best.json")

    assert again.placement == model.placement
    assert again.placement["stage2.block1.output"].to_dict()["start"] == "identity"
    assert torch.equal(again(_images()), model(_images()))


def test_a_space_can_ask_for_the_start():
    record = {
        "title": "t",
        "backbone": RESNET,
        "sites": [{"match": ["stage1.block1.output"], "attentions": ["se", "eca"], "start": "identity"}],
    }
    bound = SearchSpace.from_dict(record).bind(site_table(RESNET, **SHAPE))
    assert bound.everywhere("eca")["stage1.block1.output"].start == "identity"
    assert bound.params(bound.everywhere("eca")) == {"stage1.block1.output.attention": "eca"}
    message = (
        r"'start' in \[\[sites\]\] 1 .* must be one of own, identity, but got 'identiy': did you mean 'identity'\?"
    )
    with pytest.raises(SpaceError, match=message):
        SearchSpace.from_dict({**record, "sites": [{**record["sites"][0], "start": "identiy"}]})


def test_no_weight_decay_reaches_the_share():
    model = build_model(RESNET, _start("se", ("output",)), **SHAPE)
    assert model.insert_at("stage2.block1.output").share.ndim < 2


def test_a_copy_shares_nothing_with_the_first():
    model = build_model(RESNET, _start("se", ("output",)), **SHAPE).eval()
    copied = copy.deepcopy(model)
    with torch.no_grad():
        model.insert_at("stage2.block1.output").share.fill_(1.0)
    assert not torch.equal(model(_images()), copied(_images()))


def _merge_table() -> SiteTable:
    sites = (
        Site("stage1.block1.merge", "merge", "layer1.0", 16, 8, 8, "stage1"),
        Site("stage1.block1.output", "output", "layer1.0", 16, 8, 8, "stage1"),
    )
    return SiteTable("resnet18", 3, 1, 16, 1000, 5000, sites)


def test_plain_addition_at_a_merge_places_nothing():
    table = _merge_table()
    placement = Placement({"stage1.block1.merge": Attention("daf")})

    assert resolve_placement(table, placement) == Placement()
    assert placement_cost(table, placement).n_parameters == table.n_parameters

    record = {"title": "t", "sites": [{"match": ["*.*.merge"], "attentions": ["daf", "aff", "iaff"]}]}
    bound = SearchSpace.from_dict(record).bind(table)
    assert bound.n_placements == 3  # nothing = daf, aff, iaff
    chosen = {name: bound.placement({"stage1.block1.merge.attention": name}) for name in ("none", "daf", "aff")}
    assert chosen["daf"].key == chosen["none"].key != chosen["aff"].key


def test_a_merge_has_no_wiring_and_takes_no_gate():
    table = _merge_table()
    for entry, sentence in [
        (Attention("aff", wiring="residual"), r"Wiring 'residual' does not fit site 'stage1\.block1\.merge'"),
        (Attention("cbam"), r"'cbam' does not fit site 'stage1\.block1\.merge': a site of kind 'merge' is not among"),
    ]:
        with pytest.raises(SpaceError, match=sentence):
            resolve_placement(table, Placement({"stage1.block1.merge": entry}))
    with pytest.raises(SpaceError, match=r"'aff' does not fit site 'stage1\.block1\.output': .*its kinds \(merge\)"):
        resolve_placement(table, Placement({"stage1.block1.output": Attention("aff")}))
