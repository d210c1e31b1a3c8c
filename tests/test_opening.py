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
from nas_attn.backbones.opening import OPENINGS, has_opening, open_block
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
    "reading its mode": lambda: own.ModeBlock(8, 8),
    "writing over its input": lambda: own.WritesOverByPower(8, 8),
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
    assert list(dict(opened.get_submodule(OPENINGS).named_children())) == list(kinds)
    for again in (opened, copy.deepcopy(opened), pickle.loads(pickle.dumps(opened))):
        assert ("+=" in again.code) is written
    x = torch.randn(2, 8, 6, 6)
    at_all = open_block(BLOCKS[name](), "b")  # and so adds out of place
    at_all.load_state_dict(opened.state_dict())
    passes = []
    for again in (opened, at_all):
        for kind in kinds:  # a sigmoid keeps what it gave for its gradient
            again.get_submodule(f"{OPENINGS}.{kind}").register_forward_hook(
                lambda module, args, output: output.sigmoid()
            )
        passes.append(_run(again.train(), x))
    assert all(map(torch.equal, *passes))


class Rows(nn.Module):
    """Runs as many layers as there are, as some of timm's blocks do."""

    def __init__(self, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(n_layers))

    def forward(self, x):
        y = x
        for layer in self.layers:
            y = layer(y)
        return y + x


def test_blocks_of_a_library_that_differ_below_their_children_are_told_apart(monkeypatch):
    monkeypatch.setattr(tracing, "_READ", {})
    monkeypatch.setattr(Rows, "__module__", "timm.rows")
    x = torch.randn(2, 8, 6, 6)
    for n_layers in (2, 3, 2):
        block = Rows(n_layers)
        assert torch.equal(open_block(block, "b")(x), block(x))
    assert len(tracing._READ) == 2


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
def test_an_opened_block_copies_and_pickles_with_the_hooks_on_its_openings(name):
    opened = open_block(BLOCKS[name]().eval(), "b")
    opened.get_submodule(f"{OPENINGS}.output").register_forward_hook(_double)
    x = torch.randn(2, 8, 6, 6)
    expected = opened(x)
    for again in (copy.deepcopy(opened), pickle.loads(pickle.dumps(opened))):
        assert torch.equal(again(x), expected)
        assert list(again.state_dict()) == list(opened.state_dict())


def test_copies_of_an_opened_block_keep_what_it_holds_beside_tensors():
    block = own.Block(8, 8)
    block.width, block.names = 8, ["a"]
    opened = open_block(block, "b")
    for again in (copy.deepcopy(opened), pickle.loads(pickle.dumps(opened)), copy.deepcopy(copy.deepcopy(opened))):
        assert (again.width, again.names, again.project) == (8, ["a"], None)
        assert again.names is not block.names


class Counting(own.Block):
    """Doubles its branch as long as a buffer says so."""

    def __init__(self, channels: int, out: int, *, decides: bool) -> None:
        super().__init__(channels, out)
        self.register_buffer("seen", torch.zeros(()))
        self.decides = decides

    def forward(self, x):
        y = self.conv1(x)
        if self.decides and self.seen < 1:
            y = y * 2
        return y * (1 + self.seen) + x


def test_a_buffer_is_read_each_time_and_decides_nothing_for_good():
    block = Counting(8, 8, decides=False)
    opened = open_block(block, "b")
    x = torch.randn(2, 8, 6, 6)
    for count in (0.0, 3.0):
        block.seen.fill_(count)
        assert torch.equal(opened(x), block(x))
    with pytest.raises(
        SpaceError, match=r"decides by the values of a tensor \('if self\.decides and self\.seen < 1:'\)"
    ):
        open_block(Counting(8, 8, decides=True), "b")


class Keeping(own.Block):
    """Keeps what its branch gave, in a way of its own."""

    def __init__(self, channels: int, out: int, how: str) -> None:
        super().__init__(channels, out)
        self.how, self.log, self.count = how, [], 0

    def forward(self, x):
        y = self.conv1(x)
        if self.how == "last":
            self.last = y
        elif self.how == "log":
            self.log.append(y)
        else:
            self.count += 1
        return y + x


@pytest.mark.parametrize("how", ["last", "log", "count"])
def test_a_block_that_keeps_something_on_itself_is_refused_and_left_as_it_was(how):
    block = Keeping(8, 8, how)
    before = set(vars(block))
    with pytest.raises(SpaceError, match=rf"its forward changes an attribute of the block \('{how}'\)"):
        open_block(block, "b")
    assert set(vars(block)) == before
    assert (block.log, block.count) == ([], 0)
    assert block(torch.zeros(1, 8, 4, 4)).shape == (1, 8, 4, 4)


def _double(module, args, output):
    return 2 * output


@pytest.mark.parametrize(("name", "kinds"), [("own", "pre branch shortcut output merge"), ("basic", "pre branch")])
def test_a_block_has_these_openings(name, kinds):
    opened = open_block(BLOCKS[name](), "b")
    assert all(has_opening(opened, kind) for kind in kinds.split())
    assert not has_opening(BLOCKS[name](), "branch")


def test_each_opening_lies_on_its_edge():
    block = BasicBlock(8, 16, 2, _projection(8, 16)).eval()
    opened = open_block(block, "b")
    seen = {}
    for kind in ("pre", "branch", "shortcut", "output"):
        opened.get_submodule(f"{OPENINGS}.{kind}").register_forward_hook(
            lambda module, args, output, kind=kind: seen.__setitem__(kind, output.clone())
        )
    x = torch.randn(2, 8, 6, 6)
    output = opened(x)
    branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    expected = {"pre": x, "branch": branch, "shortcut": block.downsample(x), "output": output}
    assert seen.keys() == expected.keys()
    assert all(torch.equal(seen[kind], expected[kind]) for kind in expected)


def test_a_bottleneck_has_an_opening_before_its_last_convolution():
    block = Bottleneck(8, 4, 2, _projection(8, 16)).eval()
    opened = open_block(block, "b")
    seen = []
    opened.get_submodule(f"{OPENINGS}.hidden").register_forward_hook(lambda module, args, output: seen.append(output))
    x = torch.randn(2, 8, 6, 6)
    opened(x)
    start = torch.relu(block.bn1(block.conv1(x)))
    assert torch.equal(seen[0], torch.relu(block.bn2(block.conv2(start))))
    assert not has_opening(open_block(BasicBlock(8, 8), "b"), "hidden")


def test_the_branch_ends_before_what_drops_it_at_random():
    opened = open_block(own.Dropping(8, 8), "b")
    steps = [str(node.target) for node in opened.graph.nodes]
    assert steps.index(f"{OPENINGS}.branch") == steps.index("stochastic_depth") - 1


def test_a_shortcut_that_begins_like_the_branch_leaves_no_pre():
    opened = open_block(own.SharedStart(8, 8), "b")
    assert not has_opening(opened, "pre")
    assert has_opening(opened, "branch")


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (
            own.BranchingBlock(8, 8),
            r"its forward decides by the values of a tensor \('return x \+ self\.conv1\(x\) if ",
        ),
        (own.TieBlock(8, 8), "both sides of its addition lie behind 1 convolutions"),
        (own.TwoAdditions(8, 8), "its forward has 2 additions"),
        (own.WritesOver(8, 8), "its addition overwrites a tensor that is read again"),
        (own.WritesOverByMethod(8, 8), "its addition overwrites a tensor that is read again"),
        (own.Constant(8, 8), "its forward creates a tensor"),
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


class Added(nn.Module):
    """Adds by a function or a method of torch that takes a factor."""

    def __init__(self, add, **options) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.add, self.options = add, options

    def forward(self, x):
        return self.add(x, self.conv(x), **self.options)


@pytest.mark.parametrize("add", [torch.add, lambda x, y, **factor: x.add(y, **factor)])
def test_an_addition_with_a_factor_of_one_is_an_addition_and_another_is_none(add):
    x = torch.randn(2, 8, 6, 6)
    block = Added(add, alpha=1)
    assert torch.equal(open_block(block, "b")(x), block(x))
    with pytest.raises(SpaceError, match="its forward has no addition of a branch and a shortcut, and one is needed"):
        open_block(Added(add, alpha=0.5), "b")
