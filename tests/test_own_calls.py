"""Parts of a network that it calls from lists and functions: attention that would not run there is refused, truly."""

from __future__ import annotations

from collections import deque

import pytest
from framed_networks import SHAPE, Net, OfBlock, at, images, reason
from own_networks import Block
from torch import nn
from torch.nn import functional

from nas_attn.backbones.survey.survey import survey
from nas_attn.model.build import build_model
from nas_attn.placement import Shape

OTHERWISE = "the network does not call it by its name, but from a list, a function or another attribute"


class Steps(Net):
    """Calls its convolution from a function that was made with it."""

    def __init__(self, keep) -> None:
        super().__init__()
        conv = self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.steps = keep(lambda x: functional.relu(conv(x)))

    def body(self, x):
        return (self.steps if callable(self.steps) else self.steps[0])(x)


def in_dict(step):
    return {0: step}


def as_default(step):
    return lambda x, inner=step: inner(x)


def learns(net, site, attention="se") -> bool:
    model = build_model(net, at(site, attention), **SHAPE)
    model(images()).square().sum().backward()
    return all(weight.grad is not None for weight in model.attention.parameters())


@pytest.mark.parametrize("keep", [in_dict, tuple, as_default, deque], ids=lambda keep: keep.__name__)
def test_a_convolution_of_a_function_takes_attention_behind_it_and_none_in_its_place(keep):
    keep = keep if keep in (in_dict, as_default) else lambda step, container=keep: container([step])
    assert reason(Steps(keep), "conv.conv").endswith(f"{OTHERWISE}.")
    assert learns(Steps(keep), "conv")


class Inside(nn.Module):
    """A residual block whose function holds its part; the graph of the opened block calls that by its name."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.last = nn.Conv2d(8, 8, 3, padding=1)
        self.step = lambda x: part(x)

    def forward(self, x):
        return x + self.last(self.step(x))


def test_what_would_run_in_an_opened_block_alone_is_no_site():
    assert reason(OfBlock(Inside(nn.Conv2d(8, 8, 3, padding=1))), "block.part.conv").endswith(f"{OTHERWISE}.")
    for site in ("block.part", "block.branch", "block.last.conv"):
        assert learns(OfBlock(Inside(nn.Conv2d(8, 8, 3, padding=1))), site, "deform" if "last" in site else "se")


def test_a_block_inside_a_block_is_opened_only_where_it_is_called_by_its_name():
    assert "Block 'block.part' cannot be opened" in reason(OfBlock(Inside(Block(8, 8))), "block.part.branch")
    assert learns(OfBlock(Inside(Block(8, 8))), "block.part")
    assert learns(OfBlock(Inside(Block(8, 8))), "block.part.conv1.conv", "deform")


class Direct(Net):
    """Runs one convolution by its forward, and replaces that of another."""

    def __init__(self) -> None:
        super().__init__()
        self.direct, self.twice, self.idle = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        once = self.twice.forward
        self.twice.forward = lambda x: once(once(x))

    def body(self, x):
        return self.twice(self.direct.forward(x))


def test_reasons_tell_a_forward_that_is_called_directly_a_replaced_one_and_none():
    refusals = survey(Direct(), Shape(**SHAPE)).table.refusals
    assert refusals["direct"] == "the network does not call it, but uses its weights or its forward, which runs no hook"
    assert refusals["twice.conv"] == "it has a forward of its own"
    assert refusals["idle"] == "it never runs"
    assert learns(Direct(), "twice")


class Reads(nn.Module):
    """A residual block that reads a weight of its own, and calls its last convolution from a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.order = [self.last]

    def forward(self, x):
        return x + self.order[0](self.first(x.to(self.first.weight.dtype)))


def test_what_is_read_hides_nothing_else():
    assert reason(OfBlock(Reads()), "block.last.conv").endswith(f"{OTHERWISE}.")
    assert reason(OfBlock(Reads()), "block.first.conv").endswith("the network reads more of it than its output.")
