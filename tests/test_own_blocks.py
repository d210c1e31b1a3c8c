"""Blocks of one's own that stay closed, since a graph would lose something, and what copies of opened ones keep."""

from __future__ import annotations

import copy
import pickle
import random

import pytest
import torch
from framed_networks import SHAPE, OfBlock, at, images, reason
from own_networks import Block
from torch import nn
from torch.utils.checkpoint import checkpoint

from nas_attn.cost.measurement import measure
from nas_attn.model.build import build_model


class Skipped(Block):
    """Is left out at random."""

    def forward(self, x):
        if self.training and torch.rand(()) < 0.1:
            return x
        return self.conv1(x) + x


class SkippedByPython(Block):
    """Is left out at random, whatever the mode."""

    def forward(self, x):
        return x if random.random() < 0.5 else self.conv1(x) + x


class PartlyFrozen(Block):
    """Trains its second convolution only."""

    def forward(self, x):
        with torch.no_grad():
            y = self.conv1(x)
        return self.conv2(y) + x


class Precise(Block):
    """Adds in float32 whatever goes on around it."""

    def forward(self, x):
        with torch.autocast("cpu", enabled=not torch.is_autocast_enabled("cpu"), dtype=torch.bfloat16):
            y = self.conv1(x)
        return y + x


class Checkpointed(Block):
    """Runs its branch once more for the gradient."""

    def forward(self, x):
        return checkpoint(lambda x: self.bn1(self.conv1(x)), x, use_reentrant=False) + x


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (Skipped, "its forward draws random numbers"),
        (SkippedByPython, "its forward draws random numbers"),
        (PartlyFrozen, "a part of its forward runs without gradients, or in another precision"),
        (Precise, "a part of its forward runs without gradients, or in another precision"),
        (Checkpointed, "a part of its forward runs by torch.utils.checkpoint"),
    ],
)
def test_a_block_of_which_a_graph_would_lose_something_stays_closed(block, why):
    assert f"Block 'block' cannot be opened: {why}" in reason(OfBlock(block(8, 8)), "block.branch")


class UnderAutocast(OfBlock):
    """Computes in bfloat16, whoever calls it: its block does not run alone on what it was given."""

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x).float()


def test_a_block_that_does_not_run_alone_opens_where_the_network_runs_as_before():
    net = UnderAutocast(Block(8, 8)).eval()
    model = build_model(net, at("block.branch", start="identity"), **SHAPE).eval()
    assert torch.equal(model(images()), net(images()))


class ReadsBlock(OfBlock):
    """Reads an attribute of its block."""

    def forward(self, x):
        return super().forward(x) * self.block.scale


def test_what_a_network_reads_of_an_opened_block_is_in_copies_too():
    block = Block(8, 8)
    block.scale = 2.0
    net = ReadsBlock(block).eval()
    model = build_model(net, at("block.branch", start="identity"), **SHAPE).eval()
    for again in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(images()), net(images()))
    assert measure(model, (2, 1, 8, 8), seconds=0.01).latency_ms > 0


class Gate(nn.Module):
    """Lets pass in training only while the network runs."""

    is_open = False

    def forward(self, x):
        if self.training and not Gate.is_open:
            raise RuntimeError("the network does not run")
        return x


class Gated(OfBlock):
    """Opens the gate of its first block as it runs."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(Block(8, 8), Block(8, 8)))
        self.block[0].drop = Gate()

    def forward(self, x):
        Gate.is_open = True
        x = super().forward(x)
        Gate.is_open = False
        return x


class Listed(Gated):
    """Runs a block more, which it knows from a list."""

    def __init__(self) -> None:
        super().__init__()
        self.more = Block(8, 8)
        self.rest = [self.more]

    def forward(self, x):
        return super().forward(self.rest[0](x.expand(-1, 8, -1, -1))[:, :1])


def test_one_part_that_fails_takes_no_other_away():
    gated, listed = Gated(), Listed()
    assert build_model(gated, at("block.0.branch"), **SHAPE)
    assert "it does not run on its own (the network does not run)" in reason(listed, "block.0.branch")
    assert "the network uses more of it than its forward, or does not call it by its name" in reason(listed, "more.pre")
    for site in ("block.1.branch", "block.1.conv1.conv"):
        assert build_model(listed, at(site, "deform" if site.endswith("conv") else "se"), **SHAPE)
