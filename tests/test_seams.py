"""A residual block opened at its edges computes bit for bit what it did; one that cannot be opened says why."""

from __future__ import annotations

import copy
import pickle

import own_networks as own
import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from nas_attn.backbones import tracing
from nas_attn.backbones.seams import SEAMS, has_seam, open_block
from nas_attn.errors import SpaceError


def _projection(channels: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, out, 1, 2, bias=False), nn.BatchNorm2d(out))


BLOCKS = {
    "basic": lambda: BasicBlock(8, 8),
    "basic strided": lambda: BasicBlock(8, 16, 2, _projection(8, 16)),
    "bottleneck": lambda: Bottleneck(8, 2),
    "bottleneck strided": lambda: Bottleneck(8, 4, 2, _projection(8, 16)),
    "own": lambda: own.Block(8, 8),
    "own strided": lambda: own.Block(8, 16, 2),
    "shared start": lambda: own.SharedStart(8, 8),
    "dropping": lambda: own.Dropping(8, 8),
    "adding into its shortcut": lambda: own.AddsIntoShortcut(8, 8),
}


def _run(block: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The output, and the gradient to the input."""
    torch.manual_seed(0)
    leaf = x.clone().requires_grad_()
    output = block(leaf * 1)  # not the leaf itself: a block may write over its input
    output.square().sum().backward()
    return output.detach(), leaf.grad


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_an_opened_block_is_bit_equal_forward_and_backward(name, training):
    torch.manual_seed(1)
    block = BLOCKS[name]().train(training)
    opened = open_block(copy.deepcopy(block), "b")
    x = torch.randn(2, 8, 7, 7)
    for plain, again in zip(_run(block, x), _run(opened, x), strict=True):
        assert torch.equal(plain, again)
    assert opened.training == training


@pytest.mark.parametrize(
    ("name", "kinds", "written"),
    [
        ("basic", ("pre", "shortcut", "output"), True),
        ("basic", ("branch",), False),
        ("adding into its shortcut", ("branch",), True),
        ("adding into its shortcut", ("shortcut",), False),
        ("own strided", ("pre", "output"), True),
        ("shared start", ("output",), False),  # its author adds out of place
    ],
)
def test_an_addition_in_place_stays_so_unless_attention_may_have_made_what_it_writes_over(name, kinds, written):
    opened = open_block(BLOCKS[name](), "b", kinds)
    assert list(dict(opened.get_submodule(SEAMS).named_children())) == list(kinds)
    for again in (opened, copy.deepcopy(opened), pickle.loads(pickle.dumps(opened))):
        assert ("+=" in again.code) is written
    for kind in kinds:  # a sigmoid keeps what it gave for its gradient
        opened.get_submodule(f"{SEAMS}.{kind}").register_forward_hook(lambda module, args, output: output.sigmoid())
    output, gradient = _run(opened.train(), torch.randn(2, 8, 6, 6))
    assert output.isfinite().all()
    assert gradient.isfinite().all()


def test_blocks_of_a_library_that_are_alike_are_read_once_and_others_apart(monkeypatch):
    monkeypatch.setattr(tracing, "_READ", {})
    x = torch.randn(2, 8, 6, 6)
    blocks = [BasicBlock(8, 8), BasicBlock(8, 8), BasicBlock(8, 16, 2, _projection(8, 16)), Bottleneck(8, 2)]
    for block in blocks:
        assert torch.equal(open_block(block.eval(), "b")(x), block(x))
    assert len(tracing._READ) == 3
    for factor in (1, 2):  # a block of one's own may read anything: it is read each time
        own_block = own.Scaled(8, 8, factor).eval()
        assert torch.equal(open_block(own_block, "b")(x), own_block(x))
    assert len(tracing._READ) == 3


@pytest.mark.parametrize("name", BLOCKS)
def test_an_opened_block_keeps_all_names_in_their_order(name):
    block = BLOCKS[name]()
    opened = open_block(block, "b")
    assert list(opened.state_dict()) == list(block.state_dict())
    assert opened.load_state_dict(block.state_dict(), strict=True)
    assert [name for name, _ in opened.named_children()][:-1] == [name for name, _ in block.named_children()]


@pytest.mark.parametrize("name", ["basic strided", "own"])
def test_an_opened_block_copies_and_pickles_with_the_hooks_on_its_seams(name):
    opened = open_block(BLOCKS[name]().eval(), "b")
    opened.get_submodule(f"{SEAMS}.output").register_forward_hook(_double)
    x = torch.randn(2, 8, 6, 6)
    expected = opened(x)
    for again in (copy.deepcopy(opened), pickle.loads(pickle.dumps(opened))):
        assert torch.equal(again(x), expected)
        assert list(again.state_dict()) == list(opened.state_dict())


def _double(module, args, output):
    return 2 * output


@pytest.mark.parametrize(("name", "kinds"), [("own", "pre branch shortcut output merge"), ("basic", "pre branch")])
def test_a_block_has_these_seams(name, kinds):
    opened = open_block(BLOCKS[name](), "b")
    assert all(has_seam(opened, kind) for kind in kinds.split())
    assert not has_seam(BLOCKS[name](), "branch")


def test_each_seam_lies_on_its_edge():
    block = BasicBlock(8, 16, 2, _projection(8, 16)).eval()
    opened = open_block(block, "b")
    seen = {}
    for kind in ("pre", "branch", "shortcut", "output"):
        opened.get_submodule(f"{SEAMS}.{kind}").register_forward_hook(
            lambda module, args, output, kind=kind: seen.__setitem__(kind, output.clone())
        )
    x = torch.randn(2, 8, 6, 6)
    output = opened(x)
    branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    expected = {"pre": x, "branch": branch, "shortcut": block.downsample(x), "output": output}
    assert seen.keys() == expected.keys()
    assert all(torch.equal(seen[kind], expected[kind]) for kind in expected)


def test_a_bottleneck_has_a_seam_before_its_last_convolution():
    block = Bottleneck(8, 4, 2, _projection(8, 16)).eval()
    opened = open_block(block, "b")
    seen = []
    opened.get_submodule(f"{SEAMS}.hidden").register_forward_hook(lambda module, args, output: seen.append(output))
    x = torch.randn(2, 8, 6, 6)
    opened(x)
    start = torch.relu(block.bn1(block.conv1(x)))
    assert torch.equal(seen[0], torch.relu(block.bn2(block.conv2(start))))
    assert not has_seam(open_block(BasicBlock(8, 8), "b"), "hidden")


def test_the_branch_ends_before_what_drops_it_at_random():
    opened = open_block(own.Dropping(8, 8), "b")
    steps = [str(node.target) for node in opened.graph.nodes]
    assert steps.index(f"{SEAMS}.branch") == steps.index("stochastic_depth") - 1


def test_a_shortcut_that_begins_like_the_branch_leaves_no_pre():
    opened = open_block(own.SharedStart(8, 8), "b")
    assert not has_seam(opened, "pre")
    assert has_seam(opened, "branch")


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (own.ModeBlock(8, 8), "its forward reads self.training"),
        (own.BranchingBlock(8, 8), "its forward depends on the values that pass it"),
        (own.TieBlock(8, 8), "both sides of its addition lie behind 1 convolutions"),
        (own.TwoAdditions(8, 8), "its forward has 2 additions"),
        (own.WritesOver(8, 8), "its addition writes over a tensor that is read again"),
        (own.WritesOverByMethod(8, 8), "its addition writes over a tensor that is read again"),
        (own.Constant(8, 8), "its forward makes a tensor of its own"),
        (nn.Sequential(nn.Conv2d(8, 8, 1)), "its forward has no addition"),
        (nn.Bilinear(2, 2, 2), "it must take one tensor and return one tensor"),
    ],
)
def test_a_block_that_cannot_be_opened_says_why(block, reason):
    with pytest.raises(SpaceError, match=f"Block 'stage1.0' cannot be opened: .*{reason}"):
        open_block(block, "stage1.0")


def test_a_block_with_hooks_is_not_opened():
    block = own.Block(8, 8)
    block.register_forward_hook(_double)
    with pytest.raises(SpaceError, match="it has hooks of its own"):
        open_block(block, "b")
