"""Blocks of other people's styles: opened with equal outputs and strides, or closed with a reason in plain words."""

from __future__ import annotations

import copy
import pickle

import own_styles as styles
import pytest
import torch
from torch import nn

from nas_attn.backbones.opening import OPENINGS, open_block
from nas_attn.backbones.survey.survey import survey
from nas_attn.errors import SpaceError
from nas_attn.model.build import build_model
from nas_attn.placement import Placement, Shape

STYLES = (
    *(styles.Wide, styles.Called, styles.MadeInForward, styles.OwnShortcut, styles.Parts, styles.ChannelsLast),
    *(styles.Listed, styles.Spatial, styles.SELines, styles.SEModule, styles.SEFactor),
)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
SHAPE = {"num_classes": 5, "in_channels": 3, "image_size": 16}


def sites_of(block):
    torch.manual_seed(0)
    return survey(styles.Net(block), Shape(**SHAPE)).table


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", STYLES, ids=lambda block: block.__name__)
def test_outputs_and_gradients_are_equal_bit_for_bit_and_in_their_strides(block, layout):
    torch.manual_seed(0)
    plain = block()
    opened = open_block(copy.deepcopy(plain), "b")
    x = torch.randn(2, 16, 6, 6).contiguous(memory_format=LAYOUTS[layout])
    for training in (True, False):
        for again in (opened, copy.deepcopy(opened), pickle.loads(pickle.dumps(opened))):
            results = []
            for module in (copy.deepcopy(plain), copy.deepcopy(again)):
                leaf = x.clone().requires_grad_()
                torch.manual_seed(1)
                output = module.train(training)(leaf * 1)
                output.square().sum().backward()
                results.append((output, leaf.grad))
            for one, other in zip(*results, strict=True):
                assert torch.equal(one, other)
                assert one.stride() == other.stride()


@pytest.mark.parametrize("block", STYLES, ids=lambda block: block.__name__)
def test_every_style_has_the_edges_of_a_residual_block(block):
    table = sites_of(block)
    kinds = {site.kind for site in table.sites if site.name.startswith("block2.")}
    assert {"pre", "branch", "shortcut", "merge"} <= kinds


def test_a_block_whose_children_are_run_by_their_forward_is_surveyed_on_large_images_too():
    table = survey(styles.Net(styles.Called), Shape(5, 3, 128)).table
    assert table.site("block1.hidden").height == 64


@pytest.mark.parametrize(
    ("block", "channels"),
    [
        (styles.Called, 8),
        (styles.Parts, 16),
        (styles.SELines, 8),
        (styles.SEModule, 8),
        (styles.Spatial, 8),
        (styles.SEFactor, 8),
    ],
)
def test_hidden_lies_before_the_last_1x1_of_the_branch_and_never_inside_a_factor(block, channels):
    found = [site for site in sites_of(block).sites if site.name == "block1.hidden"]
    assert [(site.kind, site.channels, site.height) for site in found] == [("hidden", channels, 8)]
    opening = next(node for node in open_block(block(), "b").graph.nodes if node.target == f"{OPENINGS}.hidden")
    assert [reader.target for reader in opening.users] == ["conv3"]


def test_a_mode_that_is_passed_on_is_followed_after_opening():
    block = open_block(styles.Wide(), "b")
    x = torch.randn(2, 16, 6, 6)
    for again in (block, copy.deepcopy(block), pickle.loads(pickle.dumps(block.eval()))):
        assert torch.equal(again.eval()(x), again(x))
        assert not torch.equal(again.train()(x), again(x))
        assert list(again.state_dict()) == list(styles.Wide().state_dict())


def test_a_placed_network_with_the_shortcut_first_equals_the_plain_one():
    torch.manual_seed(0)
    net = styles.Net(styles.ChannelsLast).eval()
    sites = [f"block{k}.{kind}" for k in (1, 2) for kind in ("pre", "branch", "shortcut", "merge")]
    entries = {site: {"name": "daf" if site.endswith("merge") else "se", "start": "identity"} for site in sites}
    for site, entry in entries.items():
        if not site.endswith("merge"):
            entry["reduction"] = 2
    model = build_model(
        net, Placement.from_dict({k: v for k, v in entries.items() if v["name"] == "se"}), **SHAPE
    ).eval()
    x = torch.randn(2, 3, 16, 16)
    inner, placed = net.block1(net.stem(x)), model.backbone.block1(model.backbone.stem(x))
    assert torch.equal(inner, placed)
    assert inner.stride() == placed.stride()
    assert torch.equal(model(x), net(x))


class Refused(styles.Bare):
    def __init__(self, lines):
        super().__init__()
        self.lines = lines

    def forward(self, x):
        return self.lines(self, x)


def by_size(block, x):
    return block.branch(x) + x if x.size(1) > 3 else x


def by_number(block, x):
    return block.branch(x) * int(x.size(2) / 2) + x


def by_loop(block, x):
    return torch.stack([block.branch(x) + image for image in x], 0)


def with_zeros(block, x):
    return block.branch(x) + torch.cat([x[:, :8], torch.zeros(x.size(0), 8, x.size(2), x.size(3))], 1)


def with_norm(block, x):
    return nn.BatchNorm2d(16)(block.branch(x)) + x


def other_steps(block, x):
    y = block.branch(x)
    return (y * 0.5 if block.training else y) + x


def other_numbers(block, x):
    return block.branch(x) * (0.5 if block.training else 1.0) + x


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            by_size,
            r"its forward decides by the size of a tensor \('return .* if x\.size\(1\) > 3 else x'\)",
        ),
        (by_number, r"its forward makes a number of the size of a tensor \('return .*int\("),
        (by_loop, r"its forward runs a loop over the values of a tensor \('return torch\.stack"),
        (with_zeros, r"passes a tensor, or its size, where a number is needed \('return .*torch\.zeros|torch\.cat"),
        (with_norm, r"its forward runs a BatchNorm2d that is no part of the block \("),
        (other_steps, r"its forward takes other steps in training than in evaluation\.$"),
        (other_numbers, r"its forward computes with other numbers in training than in evaluation\.$"),
    ],
)
def test_a_block_that_stays_closed_says_why_with_its_line(lines, reason):
    with pytest.raises(SpaceError, match=f"^Block 'b' cannot be opened: .*{reason}") as caught:
        open_block(Refused(lines), "b")
    assert not any(word in str(caught.value) for word in ("Proxy", "symbolic", "trace", "fx"))


def test_a_child_with_hooks_that_is_run_past_them_keeps_its_block_closed():
    block = styles.Called()
    block.conv2.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(SpaceError, match="its forward runs a child past its hooks"):
        open_block(block, "b")
    assert "forward" not in vars(block.conv2)
