"""Rows of older versions whose parameters, or whose reading, are no longer those of the space."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engine import small_space
from scripted import at, ledger_in, search_in
from torch import Tensor, nn
from torchvision.models import vgg11

from nas_attn import Attention, Placement, build_model
from nas_attn.errors import RunError, SpaceError
from nas_attn.records import Outcome


def one_trial(folder) -> None:
    """Run one trial of a search in a folder."""
    with search_in(folder) as search:
        task = search.ask()
        search.finish(task.number, Outcome("complete", 0.5))


def test_a_trial_with_other_parameters_is_refused_in_one_sentence(tmp_path):
    one_trial(tmp_path)
    with ledger_in(tmp_path) as ledger:
        ledger.add(replace(ledger.records()[0], params={"layer1.attention": "se"}), {"layer1.attention": ("se",)})
    with pytest.raises(RunError, match=r"named the sites otherwise: .* choose another --out"), search_in(tmp_path):
        pass


def test_an_interrupted_placement_outside_of_the_space_is_left_out(tmp_path):
    one_trial(tmp_path)
    outside = at(1, reduction=3)
    with ledger_in(tmp_path) as ledger:
        cut = replace(ledger.records()[0], placement=outside, key=outside.key, state="fail", value=None)
        ledger.add(replace(cut, cause="interrupted", curve={}), dict(small_space().choices))
    with search_in(tmp_path) as search:
        task = search.ask()
        assert task is not None
        assert task.placement != outside


def test_a_row_that_means_another_placement_now_does_not_teach_the_sampler(tmp_path):
    one_trial(tmp_path)
    other = at(1, reduction=3)
    with ledger_in(tmp_path) as ledger:
        ledger.add(replace(ledger.records()[0], placement=other, key=other.key), dict(small_space().choices))
    with search_in(tmp_path) as search:
        assert len(search._proposals._study.get_trials()) == 1
        assert search.n_done == 2


def test_a_kernel_that_depends_on_a_size_that_nobody_stated_is_refused():
    net = vgg11(weights=None, num_classes=4)
    for attention in (Attention("cbam", {"kernel_size": 7}), Attention("cbam")):
        with pytest.raises(SpaceError, match=r"at 'features.17' depends on the size .* not stated \(on 32x32.*state"):
            build_model(net, Placement({"features.17": attention}))


def test_a_hook_may_hold_none():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    scale, conv = None, net[0]

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output if scale is None else output * scale + conv.bias

    net[0].register_forward_hook(hook)
    model = build_model(net, Placement({}), image_size=8)
    assert torch.equal(model.eval()(torch.ones(1, 3, 8, 8)), net.eval()(torch.ones(1, 3, 8, 8)))
