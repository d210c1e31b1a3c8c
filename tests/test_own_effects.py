"""What a network does with its modules besides running them: no attention goes where it would have no effect."""

from __future__ import annotations

import re
from types import CellType, FunctionType

import pytest
import torch
from framed_networks import SHAPE, Net, OfBlock, at, images, reason
from own_networks import Block
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torchvision.models import mnasnet0_5

from nas_attn.backbones.survey.survey import survey
from nas_attn.cost.measurement import count_macs
from nas_attn.errors import SpaceError
from nas_attn.model.build import build_model
from nas_attn.model.file import load_model, save_model
from nas_attn.placement import Placement, Shape
from nas_attn.space.fit import placement_cost

RECORD = {"mean": (0.5,), "std": (0.25,), "class_names": list("abcde")}


class TwoNames(Net):
    """Keeps its blocks as attributes, and runs them from a list of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(8, 8), Block(8, 8)
        self.blocks = nn.ModuleList([self.first, self.second])

    def body(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("site", ["first.branch", "second.pre", "first.conv1.conv"])
def test_a_module_with_two_names_takes_attention_whichever_is_run(site):
    attention = "deform" if site.endswith("conv") else "se"
    model = build_model(TwoNames(), at(site, attention), **SHAPE)
    model(images()).square().sum().backward()
    assert all(weight.grad is not None for weight in model.insert_at(site).parameters())
    table = survey(TwoNames(), Shape(**SHAPE)).table
    assert placement_cost(table, at(site, attention)).n_macs == count_macs(model, (1, 8, 8))


class Hidden(Net):
    """Runs its modules from a list that torch does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.conv = Block(8, 8), nn.Conv2d(8, 8, 3, padding=1)
        self.order = [self.block, self.conv]

    def body(self, x):
        for module in self.order:
            x = module(x)
        return x


def test_a_module_that_is_reached_otherwise_than_by_name_is_refused_and_the_others_are_not():
    assert "Block 'block' cannot be opened: the network uses more of it than its" in reason(Hidden(), "block.branch")
    assert "the network does not call it by its name" in reason(Hidden(), "conv.conv")
    model = build_model(Hidden(), at("block"), **SHAPE)  # a hook goes where the module goes
    model(images()).sum().backward()
    assert all(weight.grad is not None for weight in model.attention.parameters())


class ReadsConv(Net):
    """Reads what its convolutions are, and of one the weight itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def body(self, x):
        assert x.shape[1] == self.a.in_channels
        return self.b(functional.relu(self.a(x))) * self.b.weight.norm()


def test_what_takes_a_convolution_s_place_tells_what_that_was_but_has_no_weight():
    sk = {"groups": None, "reduction": 2, "min_hidden": 4}
    assert build_model(ReadsConv(), at("a.conv", "sk", **sk), **SHAPE)(images()).shape == (2, 5)
    assert "the network reads more of it than its output" in reason(ReadsConv(), "b.conv")


class ReadsNorm(Net):
    """Reads how many features its norm has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def body(self, x):
        y = self.norm(self.conv(x))
        assert y.shape[1] == self.norm.num_features
        return functional.relu(y)


def test_the_norm_that_goes_too_tells_what_it_was():
    sk = {"groups": None, "reduction": 2, "min_hidden": 4}
    model = build_model(ReadsNorm(), at("conv.conv", "sk", **sk), **SHAPE)
    assert "backbone.norm.weight" not in model.state_dict()
    assert model(images()).shape == (2, 5)


class NotingBlock(Block):
    """Has a method beside its forward."""

    def note(self, x):
        self.noted = x.detach().mean()


class OtherwiseInTraining(Net):
    """Uses a block's method, and a convolution's weight, in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.conv = NotingBlock(8, 8), nn.Conv2d(8, 8, 3, padding=1)

    def body(self, x):
        x = self.conv(self.block(x))
        if self.training:
            self.block.note(x)
            x = x + 0 * self.conv.weight.norm()
        return x


def test_what_a_network_uses_in_training_only_is_seen():
    assert "the network uses more of it than its forward" in reason(OtherwiseInTraining(), "block.branch")
    assert "the network reads more of it than its output" in reason(OtherwiseInTraining(), "conv.conv")
    build_model(OtherwiseInTraining(), at("block"), **SHAPE).train()(images()).sum().backward()


class Numberless(Net):
    """Gives no numbers for some images."""

    def body(self, x):
        return x / 0 * 0


class Counting(Net):
    """Gives another answer each time."""

    count = 0

    def body(self, x):
        self.count += 1
        return x * self.count


def test_numbers_that_are_none_are_compared_too_and_a_network_that_counts_is_refused():
    assert build_model(Numberless(), at("stem"), **SHAPE)
    with pytest.raises(
        SpaceError, match=r"^The network Counting must return the same output twice for the same images, but does not"
    ):
        build_model(Counting(), at("stem"), **SHAPE)


class Unread(Net):
    """Runs a layer whose result nobody takes, a part without gradients, and one that hands none back."""

    def __init__(self) -> None:
        super().__init__()
        self.lost, self.fixed, self.last = nn.Conv2d(8, 8, 1), Block(8, 8), Block(8, 8)

    def body(self, x):
        self.lost(x)
        with torch.no_grad():
            x = self.fixed(x)
        return self.last(x.detach())


def test_no_attention_goes_where_its_output_is_lost_or_nothing_is_trained():
    for site in ("lost", "stem", "fixed", "fixed.branch", "fixed.conv1.conv", "fixed.bn2"):
        assert "its output gets no gradient, so an attention there could not" in reason(Unread(), site)
    assert build_model(Unread(), at("last"), **SHAPE)


class OlderCheckpoint(Net):
    """Runs a block again for its gradient, in the way that takes the gradients of all tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.lost, self.block = nn.Conv2d(8, 8, 1), Block(8, 8)

    def body(self, x):
        self.lost(x)
        return checkpoint(self.block, x, use_reentrant=True)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_gradients_are_known_behind_an_older_checkpoint_too():
    assert "its output gets no gradient, so an attention there could not" in reason(OlderCheckpoint(), "lost")
    assert build_model(OlderCheckpoint(), at("block"), **SHAPE)


class WritesAside(nn.Module):
    """An in-place ReLU at the start of its branch changes what its shortcut reads: a well-known accident."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1))
        self.skip = nn.Sequential(nn.BatchNorm2d(8))

    def forward(self, x):
        return self.branch(x) + self.skip(x)


def test_no_attention_goes_where_a_copy_would_change_the_network():
    net = OfBlock(WritesAside()).eval()
    assert reason(net, "block.pre").endswith(
        "part of the network modifies it in place, and another part reads the result."
    )
    for site in ("stem", "block.branch", "block.shortcut"):
        model = build_model(net, at(site, start="identity"), **SHAPE).eval()
        assert torch.equal(model(images()), net(images()))


class TiedFunction(Net):
    """Keeps a function that holds one of its layers."""

    def __init__(self) -> None:
        super().__init__()
        layer = self.stem
        self.steps = [lambda x: functional.relu(layer(x))]


class TiedDefault(Net):
    """Keeps a function that has one of its layers as a default."""

    def __init__(self) -> None:
        super().__init__()
        self.step = lambda x, layer=self.stem: layer(x)


@pytest.mark.parametrize(("make", "name"), [(TiedFunction, "steps"), (TiedDefault, "step")])
def test_a_function_that_holds_a_layer_holds_the_copy_s_own_in_a_copy(make, name):
    net = make()
    model = build_model(net, Placement(), **SHAPE)
    with torch.no_grad():
        net.stem.weight.zero_()
    (step,) = found if isinstance(found := getattr(model.backbone, name), list) else [found]
    assert torch.equal(step(images()).relu(), model.backbone.stem(images()).relu())
    assert model.backbone.stem.weight.abs().sum() > 0


class Unfilled(Net):
    """Keeps a function that names what is not there any more."""

    def __init__(self) -> None:
        super().__init__()
        layer = self.stem
        code = (lambda x: layer(x)).__code__
        self.step = FunctionType(code, {}, closure=(CellType(),))


def test_a_function_that_holds_nothing_is_no_matter():
    assert build_model(Unfilled(), at("stem"), **SHAPE)(images()).shape == (2, 5)


class LateBuffer(Net):
    """Keeps what it saw first."""

    def body(self, x):
        if not hasattr(self, "mean"):
            self.register_buffer("mean", x.detach().mean((0, 2, 3), keepdim=True))
        return x - self.mean


def test_a_network_that_registers_as_it_runs_is_refused_unless_it_has_run(tmp_path):
    message = r"LateBuffer creates 'mean' in its first pass, .* run the network once before\.$"
    with pytest.raises(SpaceError, match=message):
        build_model(LateBuffer, at("stem"), **SHAPE)
    net = LateBuffer()
    net(images())
    model = build_model(net, at("stem"), **SHAPE).eval()
    save_model(model, tmp_path / "best.json", record=RECORD)
    assert torch.equal(load_model(tmp_path / "best.json", backbone=net)(images()), model(images()))


def test_modules_that_have_versions_come_back(tmp_path):
    shape = {"num_classes": 5, "in_channels": 3, "image_size": 32}
    model = build_model(lambda: mnasnet0_5(num_classes=5), Placement(), **shape).eval()
    record = {**RECORD, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    save_model(model, tmp_path / "best.json", record=record)
    again = load_model(tmp_path / "best.json", backbone=lambda: mnasnet0_5(num_classes=5))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(images), model(images))


class NamedSE(Net):
    """Has a module that is called like an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Sequential()
        self.unit.add_module("se", nn.Conv2d(8, 8, 1))
        self.unit.add_module("conv", nn.Conv2d(8, 8, 1))

    def body(self, x):
        return self.unit(x)


def test_an_attention_may_be_called_like_a_site_below():
    both = Placement.from_dict({name: {"name": "se", "reduction": 4} for name in ("unit", "unit.se")})
    model = build_model(NamedSE(), both, **SHAPE)
    assert {re.match(r"unit\.se_|unit\.se\.se", key)[0] for key in model.attention.state_dict()} == {
        "unit.se_",
        "unit.se.se",
    }
    assert model.insert_at("unit").attention is not model.insert_at("unit.se").attention
    again = build_model(NamedSE(), both, **SHAPE)
    assert again.load_state_dict(model.state_dict(), strict=True)
    assert set(build_model(NamedSE(), at("unit"), **SHAPE).attention._modules["unit"]._modules) == {"se"}
