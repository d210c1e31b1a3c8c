"""Every network of the catalogue with an attention at every site at once, and with none at all."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import NamedTuple

import cloudpickle
import pytest
import torch
from backbone_cases import EVERY_DAY, SAME_BLOCKS, everywhere, quick_draws, tiny_spec
from conftest import at_night
from torch import nn

from nas_attn.backbones import sites
from nas_attn.backbones.build import build_backbone
from nas_attn.backbones.catalog import BACKBONES, image_sizes
from nas_attn.backbones.opening import open_block
from nas_attn.backbones.site_table import site_table
from nas_attn.cost import count_macs, count_parameters
from nas_attn.model.build import AttentionModel, build_model
from nas_attn.model.file import load_model, save_model
from nas_attn.placement import Attention, Placement, Shape, SiteTable
from nas_attn.space.fit import placement_cost

NOTHING_IN_PLACE = ("lenet", "cats_dogs_cnn", "mini_xception", "googlenet", "inception_v3")
"""Networks without an activation module that works in place; some call functions that do."""


class Case(NamedTuple):
    spec: dict
    shape: dict
    table: SiteTable
    placement: Placement
    plain: nn.Module
    model: AttentionModel
    images: torch.Tensor


def _size(spec: dict) -> int:
    """The smallest image, or with a head the smallest that leaves more than one pixel to pool."""
    smallest, _ = image_sizes(spec)
    if spec["name"] == "inception_v3":
        return 107
    return 2 * smallest if "head" in BACKBONES[spec["name"]].kinds else smallest


@pytest.fixture(scope="module", params=at_night(BACKBONES, but=EVERY_DAY))
def case(request) -> Iterator[Case]:
    spec = tiny_spec(request.param)
    size = _size(spec)
    shape = {"num_classes": 3, "in_channels": 1, "image_size": size}
    table = site_table(spec, **shape)
    placement = everywhere(table)
    with quick_draws():
        plain = build_backbone(spec, Shape(**shape), seed=1).eval()
        model = build_model(spec, placement, **shape, seed=1)
        images = torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(0))
        yield Case(spec, shape, table, placement, plain, model, images)


def test_nothing_inserted_is_the_plain_network_bit_for_bit(case):
    empty = build_model(case.spec, Placement(), **case.shape, seed=1).eval()
    with torch.no_grad():
        assert torch.equal(empty(case.images), case.plain(case.images))
    assert list(empty.state_dict()) == [f"backbone.{key}" for key in case.plain.state_dict()]
    assert empty.backbone.load_state_dict(case.plain.state_dict(), strict=True, assign=True)


def test_every_site_takes_something_and_the_network_keeps_its_names_and_weights(case):
    empty = [site for site in case.table.sites if site.name not in case.placement]
    assert [site.name for site in empty if site.kind != "conv" or site.replaced.relu or site.height > 1] == []
    state, plain = case.model.backbone.state_dict(), case.plain.state_dict()
    replaced = {
        path
        for site in case.table.sites
        if site.name in case.placement and case.placement[site.name].name == "sk"
        for path in (site.module, site.replaced.norm)
    }
    assert {key for key in plain if key not in state} == {key for key in plain if key.rpartition(".")[0] in replaced}
    assert all(torch.equal(state[key], plain[key]) for key in state)


def _gradients(case: Case) -> list[torch.Tensor | None]:
    """Logits and gradients of one pass in training, dropping the same values at random."""
    torch.manual_seed(0)
    logits = case.model.train()(case.images)
    logits.square().sum().backward()
    gradients = [parameter.grad for parameter in case.model.parameters()]
    case.model.zero_grad(set_to_none=True)
    return [logits.detach(), *gradients]


def test_every_parameter_gets_a_gradient_the_same_one_with_activations_in_place_or_not(case):
    written = _gradients(case)
    assert written[0].shape == (2, 3)
    assert written[0].isfinite().all()
    names = [name for name, _ in case.model.named_parameters()]
    assert [name for name, gradient in zip(names, written[1:], strict=True) if gradient is None] == []
    in_place = [module for module in case.model.modules() if getattr(module, "inplace", False)]
    assert in_place or case.spec["name"] in NOTHING_IN_PLACE
    try:
        for module in in_place:
            module.inplace = False
        assert all(map(torch.equal, _gradients(case), written))
    finally:
        for module in in_place:
            module.inplace = True


def test_its_cost_by_closed_forms_is_that_of_the_built_network(case):
    cost = placement_cost(case.table, case.placement)
    assert cost.n_parameters == count_parameters(case.model)
    assert cost.n_macs == count_macs(case.model, case.images.shape[1:])


EXPORTED = ("densenet", "mobilenet_v3_small")
"""Hooks on modules; opened blocks with every kind of site. `test_model_swaps.py` exports each kind in a ResNet."""


@pytest.mark.parametrize(
    "case", at_night([name for name in BACKBONES if name not in SAME_BLOCKS], but=EXPORTED), indirect=True
)
def test_a_network_full_of_attention_exports(case):
    case.model.eval()
    with torch.no_grad():
        exported = torch.export.export(case.model, (case.images,)).module()
        assert torch.equal(exported(case.images), case.model(case.images))


@pytest.mark.parametrize(
    "case", at_night([name for name in BACKBONES if name not in SAME_BLOCKS], but=EVERY_DAY), indirect=True
)
def test_files_copies_and_pickles_compute_the_same(case, tmp_path):
    case.model.eval()
    with torch.no_grad():
        expected = case.model(case.images)
        assert expected.isfinite().all()
        record = {"mean": (0.5,), "std": (0.25,), "class_names": ["a", "b", "c"]}
        save_model(case.model, tmp_path / "best.json", record=record)
        loaded = load_model(tmp_path / "best.json")
        assert torch.equal(loaded(case.images), expected)
        assert loaded.placement == case.placement
        if count_parameters(getattr(case.model.backbone, "classifier", nn.Identity())) > 10_000_000:
            case.model.backbone.classifier = nn.LazyLinear(
                3
            )  # nothing is inserted there, and copies of it take seconds
            expected = case.model(case.images)
        copies = [copy.deepcopy(case.model), pickle.loads(cloudpickle.dumps(case.model))]
        for again in copies:
            assert list(again.state_dict()) == list(case.model.state_dict())
            assert torch.equal(again(case.images), expected)
            next(again.attention.parameters()).add_(1)
        assert torch.equal(case.model(case.images), expected), "copies share weights with the model"


@pytest.mark.parametrize("name", ["resnet18", pytest.param("efficientnet_b0", marks=pytest.mark.nightly)])
def test_a_block_that_is_opened_at_one_edge_computes_what_one_opened_at_all_does(name, monkeypatch):
    spec, shape = tiny_spec(name), {"num_classes": 3, "in_channels": 1, "image_size": 16}
    table = site_table(spec, **shape)
    for kind in ("pre", "branch", "shortcut", "output"):
        placement = Placement({site.name: Attention("scse") for site in table.sites if site.kind == kind})
        passes = []
        for at_all in (False, True):
            monkeypatch.setattr(sites, "open_block", _open_at_all if at_all else open_block)
            with quick_draws():
                model = build_model(spec, placement, **shape, seed=1)
            torch.manual_seed(0)
            logits = model(torch.randn(2, 1, 16, 16))
            logits.square().sum().backward()
            passes.append([logits, *(parameter.grad for parameter in model.parameters())])
        assert all(map(torch.equal, *passes)), kind


def _open_at_all(block: nn.Module, name: str, kinds: set[str]) -> nn.Module:
    return open_block(block, name)
