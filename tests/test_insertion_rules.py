"""How an attention joins the network: names, copies, numbers, modes and what is left alone."""

from __future__ import annotations

import logging
import pickle

import pytest
import torch
from torch import Tensor, nn

from nas_attn.backbones.modules import seeded
from nas_attn.errors import SpaceError
from nas_attn.model import build as build_file
from nas_attn.model.build import AttentionModel, _written_later, build_model
from nas_attn.model.insert import Held, Insert, SkippedNorm, Tap
from nas_attn.placement import Attention, Convolution, Placement, Site

SHAPE = {"num_classes": 5, "in_channels": 3, "image_size": 8}


class Doubles(nn.Module):
    """Attention that doubles its input."""

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        return 2 * sum(others, x)


class Net(nn.Module):
    """Two convolutions, a pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.second(self.act(self.first(x)))).mean((2, 3)))


def insert(wiring: str = "gate", start: str = "own", below: tuple[str, ...] = ()) -> Insert:
    """Return an insert whose attention doubles its input, on four channels."""
    return Insert(Attention("se", {}, wiring, start), Doubles(), 4, below)


def images(n: int = 2) -> Tensor:
    """Return random images of 8x8 pixels."""
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def placed(*names: str, attention: Attention | None = None) -> Placement:
    """Return SE, or another attention, at these sites."""
    return Placement(dict.fromkeys(names, attention or Attention("se", {"reduction": 4})))


@pytest.fixture
def maps() -> Tensor:
    """Feature maps of four channels."""
    return torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1))


def test_each_wiring_is_its_formula(maps):
    assert torch.equal(insert("gate")(maps), 2 * maps)
    assert torch.equal(insert("residual")(maps), 3 * maps)
    concat = insert("concat")
    assert concat.join.weight.shape == (4, 8, 1, 1)
    assert torch.equal(concat(maps), concat.join(torch.cat([maps, 2 * maps], dim=1)))
    assert not hasattr(insert("gate"), "join")
    assert not hasattr(insert("gate"), "share")


def test_the_identity_start_moves_from_the_plain_tensor_to_the_attended_one(maps):
    started = insert("residual", "identity")
    assert torch.equal(started(maps), maps)
    with torch.no_grad():
        started.share.fill_(0.5)
    assert torch.allclose(started(maps), 2 * maps)
    assert started.share.shape == ()


def test_at_a_merge_the_plain_tensor_is_the_sum(maps):
    assert torch.equal(insert(start="identity")(maps, maps), 2 * maps)
    assert torch.equal(insert()(maps, 3 * maps), 8 * maps)


def test_the_attention_bears_its_name_unless_a_site_below_is_called_so():
    assert [name for name, _ in insert().named_children()] == ["se"]
    assert [name for name, _ in insert(below=("se", "other")).named_children()] == ["se_"]
    assert isinstance(insert(below=("se",)).attention, Doubles)


@pytest.mark.parametrize("copies", [True, False])
def test_a_tap_copies_where_the_network_writes_over_its_maps(maps, copies):
    seen: list[Tensor] = []

    class Keeps(Doubles):
        def forward(self, x: Tensor, *others: Tensor) -> Tensor:
            seen.append(x)
            return x

    tap = Tap(Insert(Attention("se"), Keeps(), 4), copies)
    given = tap(nn.Identity(), (), maps)
    assert (seen[0] is maps) is not copies
    assert (given is seen[0]) is not copies
    assert torch.equal(given, maps)


@pytest.mark.parametrize(("norm", "copied"), [("bn1", {"conv1"}), ("bn2", set()), (None, set())])
def test_a_replaced_convolution_is_copied_where_its_norm_s_output_is_written_over(norm, copied):
    conv = Convolution(in_channels=8, out_channels=8, norm=norm)
    sites = {
        "conv1": Site("conv1", "conv", "conv1", 8, 4, 4, "stage1", replaced=conv),
        "output": Site("output", "output", "bn1", 8, 4, 4, "stage1"),
    }
    assert _written_later(sites, {"bn1"}) == copied


def test_what_stands_in_the_place_of_a_module_has_its_features_and_not_its_weights(maps):
    norm = nn.BatchNorm2d(4, eps=0.25)
    skipped = SkippedNorm(norm)
    assert (skipped.num_features, skipped.eps) == (4, 0.25)
    assert torch.equal(skipped(maps), maps)
    assert not list(skipped.parameters())
    conv = nn.Conv2d(4, 6, 3, bias=False)
    held = Held(insert(), conv)
    assert (held.in_channels, held.out_channels, held.kernel_size) == (4, 6, (3, 3))
    assert not list(held.parameters()), "its weights belong to the model's `attention`"
    assert torch.equal(held(maps), 2 * maps)
    held.keep(conv)
    assert [name for name, _ in held.named_parameters()] == ["weight"]
    assert held.weight is conv.weight


def test_only_the_parameters_of_the_module_itself_are_kept():
    block = nn.Sequential(nn.Conv2d(4, 4, 1))
    block.register_parameter("scale", nn.Parameter(torch.ones(())))
    held = Held(insert(), nn.Identity())
    held.keep(block)
    assert [name for name, _ in held.named_parameters()] == ["scale"]


def test_sites_below_a_site_hang_below_its_insert():
    net = nn.Sequential()
    net.add_module("se", nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()))
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    net.add_module("head", nn.Linear(8, 5))
    model = build_model(net, placed("se.0", "se"), **SHAPE, seed=0)
    assert {name.rpartition(".")[0].split(".se")[0] for name in model.attention.state_dict()} == {"se", "se.0"}
    assert isinstance(model.insert_at("se"), Insert)
    assert isinstance(model.insert_at("se.0"), Insert)
    assert model.insert_at("se") is not model.insert_at("se.0")


def test_nothing_is_at_a_site_without_a_placement():
    model = build_model(Net(), placed("first"), **SHAPE, seed=0)
    assert isinstance(model.insert_at("first"), Insert)
    with pytest.raises(SpaceError, match=r"^Nothing is placed at site 'second': the placement is "):
        model.insert_at("second")


def test_a_site_whose_name_means_something_else_is_refused():
    with pytest.raises(SpaceError, match=r"^Site 'train\.0' cannot be used: .*'train'"):
        build_file._nested({"train.0": insert()})


def test_a_model_keeps_the_mode_the_device_and_the_number_type_of_the_network():
    net = Net().double().eval()
    model = build_model(net, placed("first", "second"), **SHAPE, seed=0)
    assert {weight.dtype for weight in model.parameters()} == {torch.float64}
    assert not model.training
    assert not any(module.training for module in model.modules())
    assert model(images().double()).shape == (2, 5)
    net.train()
    net.second.eval()
    model = build_model(net, placed("first"), **SHAPE, seed=0)
    assert (model.training, model.backbone.second.training, model.attention.training) == (True, False, True)


def test_a_model_states_its_shape_its_network_and_its_placement():
    model = build_model(Net(), placed("first"), **SHAPE, seed=0)
    assert (model.num_classes, model.in_channels, model.image_size) == (5, 3, 8)
    assert model.spec == {"own": "Net"}
    assert list(model.placement) == ["first"]
    assert (model.preprocess, model.class_names, model.probabilities) == (None, None, None)
    fresh = AttentionModel(Net(), {}, Placement(), {})
    assert (fresh.num_classes, fresh.in_channels, fresh.image_size) == (0, 0, 0)


def test_images_have_three_channels_where_nothing_else_is_asked_for():
    assert build_model(Net(), Placement(), num_classes=5, image_size=8, seed=0).in_channels == 3


def test_a_function_that_makes_the_network_gets_the_shape_it_asks_for_and_its_own_seed():
    asked: list[tuple[int, int]] = []

    def make(num_classes: int, image_size: int) -> nn.Module:
        asked.append((num_classes, image_size))
        return Net()

    models = [build_model(make, Placement(), **SHAPE, seed=seed) for seed in (1, 1, 2)]
    assert asked == [(5, 8)] * 3
    weights = [model.backbone.first.weight for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    with seeded(1, "backbone"):
        assert torch.equal(Net().first.weight, weights[0])


@pytest.mark.parametrize("backbone", [3, None])
def test_what_is_no_backbone_is_refused(backbone):
    with pytest.raises(SpaceError, match=r"^A backbone must be a name, a mapping, a network or a function, but got "):
        build_model(backbone, Placement(), **SHAPE)


def test_two_names_of_one_place_are_refused_with_both():
    net = Net()
    net.first = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1))
    with pytest.raises(SpaceError, match=r"^Sites 'first' and 'first\.1' are one place: leave one of them out\.$"):
        build_model(net, placed("first", "first.1"), **SHAPE)


def test_a_hook_of_the_users_own_runs_after_the_attention():
    model = build_model(Net(), placed("first"), **SHAPE, seed=0)
    seen: list[Tensor] = []
    model.backbone.first.register_forward_hook(lambda module, args, output: seen.append(output))
    model(images())
    tap = next(hook for hook in model.backbone.first._forward_hooks.values() if isinstance(hook, Tap))
    assert torch.equal(seen[0], tap.insert(nn.Conv2d.forward(model.backbone.first, images())))
    again = pickle.loads(pickle.dumps(build_model(Net(), placed("first"), **SHAPE, seed=0)))
    (tap,) = again.backbone.first._forward_hooks.values()
    assert tap.insert is again.insert_at("first"), "the copy's hook runs the copy's attention"


def test_a_warning_is_given_once(caplog):
    build_file._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for sentence in ("One.", "One.", "Two."):
            build_file._warn_once(sentence)
    assert [record.getMessage() for record in caplog.records] == ["One.", "Two."]
