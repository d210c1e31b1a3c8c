"""Attention in the place of a module: a 3x3 convolution, a residual addition, the global pooling."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from own_networks import ResidualCNN
from torch import nn

from nas_attn.backbones.build import build_backbone
from nas_attn.backbones.site_table import own_table, site_table
from nas_attn.cost import count_macs, count_parameters
from nas_attn.errors import SpaceError
from nas_attn.model.build import AttentionModel, build_model
from nas_attn.model.file import load_model, save_model
from nas_attn.placement import Attention, Convolution, Placement, Shape, Site
from nas_attn.space.fit import placement_cost

RESNETS = {name: {"name": name, "stem": "small"} for name in ("resnet18", "resnet50")}
SHAPE = {"num_classes": 3, "in_channels": 1, "image_size": 9}
CHOICES = {
    "sk": ("conv", {"groups": 8}),
    "deform": ("conv", {}),
    "aff": ("merge", {}),
    "iaff": ("merge", {}),
    "attention_pool": ("head", {}),
}


class OwnBlocks(nn.Module):
    """A convolution with norm and ReLU, one without, one that is no 3x3, and a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2, bias=False)
        self.third = nn.Conv2d(8, 8, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.pool(torch.relu(self.third(self.second(self.first(x))))).flatten(1))


def _images(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 1, 9, 9, generator=torch.Generator().manual_seed(0))


def _everywhere(spec, name: str, **more) -> Placement:
    kind, options = CHOICES[name]
    sites = site_table(spec, **SHAPE).sites
    fitting = [site for site in sites if site.kind == kind and (name != "sk" or site.replaced.relu)]
    return Placement({site.name: Attention(name, options, **more) for site in fitting})


def _randomise(model: nn.Module) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)


BY_NIGHT = [pytest.param(case, marks=pytest.mark.nightly) for case in (("resnet50", "sk"), ("resnet18", "iaff"))]
"""Further cases: `iaff` differs from `aff` inside the module only, which has tests of its own."""


@pytest.fixture(
    scope="module", params=[*(("resnet18", name) for name in CHOICES if name != "iaff"), *BY_NIGHT], ids=str
)
def built(request) -> tuple[dict, str, Placement, AttentionModel]:
    network, name = request.param
    spec = RESNETS[network]
    placement = _everywhere(spec, name)
    model = build_model(spec, placement, **SHAPE, seed=1)
    _randomise(model)
    return spec, name, placement, model


def test_every_site_of_its_kind_takes_it_with_a_gradient_to_every_parameter(built):
    _, name, placement, model = built
    model = copy.deepcopy(model).train()
    model(_images()).square().sum().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    for site in placement:
        assert any(key.startswith(f"attention.{site}.{name}.") for key in model.state_dict())


def test_its_cost_is_that_of_the_built_network_less_what_it_replaces(built):
    spec, _, placement, model = built
    cost = placement_cost(site_table(spec, **SHAPE), placement)
    assert cost.n_parameters == count_parameters(model)
    assert cost.n_macs == count_macs(model, (1, 9, 9))


def test_copies_pickles_exports_and_files_compute_the_same(built, tmp_path):
    *_, model = built
    model = copy.deepcopy(model).eval()
    images = _images()
    expected = model(images)
    save_model(model, tmp_path / "best.json", record={"mean": (0.5,), "std": (0.5,), "class_names": ["a", "b", "c"]})
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), load_model(tmp_path / "best.json")]
    for found in copies:
        assert list(found.state_dict()) == list(model.state_dict())
        assert torch.equal(found(images), expected)
    torch.testing.assert_close(torch.export.export(model, (images,)).module()(images), expected)

    _randomise(model)  # copies share nothing with it
    assert not torch.equal(model(images), expected)
    assert all(torch.equal(found(images), expected) for found in copies)


def test_a_replaced_convolution_leaves_the_state_dict_and_a_moved_one_keeps_its_name():
    spec = RESNETS["resnet18"]
    plain = build_backbone(spec, Shape(**SHAPE), seed=1).state_dict()
    site = "stage2.block1.conv1"
    selected, moved = (
        build_model(spec, Placement({site: Attention(*choice)}), **SHAPE, seed=1).state_dict()
        for choice in (("sk", {"groups": 8}), ("deform",))
    )
    gone = {key for key in plain if f"backbone.{key}" not in selected}
    assert gone == {key for key in plain if key.startswith(("layer2.0.conv1.", "layer2.0.bn1."))}
    assert {key for key in moved if key.startswith("backbone.")} == {f"backbone.{key}" for key in plain}
    assert torch.equal(moved["backbone.layer2.0.conv1.weight"], plain["layer2.0.conv1.weight"])
    assert {key for key in moved if key.startswith("attention.")} == {
        f"attention.{site}.deform.offset.weight",
        f"attention.{site}.deform.offset.bias",
    }


@pytest.mark.parametrize("options", [{}, {"modulated": True}, {"offsets": "channel"}], ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_moved_convolutions_start_as_the_plain_network(options, training):
    spec = RESNETS["resnet18"]
    sites = [site.name for site in site_table(spec, **SHAPE).sites if site.kind == "conv"]
    placement = Placement({name: Attention("deform", options) for name in sites})
    plain = build_backbone(spec, Shape(**SHAPE), seed=1).train(training)
    model = build_model(spec, placement, **SHAPE, seed=1).train(training)
    torch.testing.assert_close(model(_images(4)), plain(_images(4)), rtol=1e-3, atol=1e-4)


def test_the_attention_that_pools_starts_as_the_mean():
    spec = RESNETS["resnet18"]
    plain = build_backbone(spec, Shape(**SHAPE), seed=1).eval()
    model = build_model(spec, Placement({"head": Attention("attention_pool")}), **SHAPE, seed=1).eval()
    torch.testing.assert_close(model(_images()), plain(_images()))


def test_a_merge_can_start_as_the_plain_sum_bit_for_bit():
    spec = RESNETS["resnet18"]
    plain = build_backbone(spec, Shape(**SHAPE), seed=1)
    model = build_model(spec, _everywhere(spec, "aff", start="identity"), **SHAPE, seed=1)
    for training in (False, True):
        assert torch.equal(model.train(training)(_images()), plain.train(training)(_images()))


def test_a_merge_gets_the_branch_and_then_the_shortcut():
    spec, site = RESNETS["resnet18"], "stage1.block2.merge"
    model = build_model(spec, Placement({site: Attention("aff")}), **SHAPE, seed=1).eval()
    seen = []
    model.insert_at(site).attention.register_forward_pre_hook(lambda module, maps: seen.extend(maps))
    model(_images())

    net = build_backbone(spec, Shape(**SHAPE), seed=1).eval()
    x = net.layer1[0](net.maxpool(net.relu(net.bn1(net.conv1(_images())))))
    block = net.layer1[1]
    branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(seen, [branch, x])


def test_plain_addition_builds_the_plain_network():
    spec = RESNETS["resnet18"]
    model = build_model(spec, Placement({"stage1.block1.merge": Attention("daf")}), **SHAPE, seed=1)
    assert len(model.placement) == 0
    assert not list(model.attention.children())


def test_all_kinds_go_together_in_one_block():
    spec = RESNETS["resnet50"]
    block = "stage2.block1"
    placement = Placement(
        {
            f"{block}.pre": Attention("gct"),
            f"{block}.conv": Attention("sk"),
            f"{block}.branch": Attention("cbam"),
            f"{block}.shortcut": Attention("eca"),
            f"{block}.merge": Attention("iaff"),
            f"{block}.output": Attention("se", wiring="residual"),
            "head": Attention("attention_pool"),
        }
    )
    model = build_model(spec, placement, **SHAPE, seed=1)
    model(_images()).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert count_parameters(model) == placement_cost(site_table(spec, **SHAPE), placement).n_parameters


def test_a_network_of_ones_own_gives_its_convolutions_and_its_pooling():
    net = OwnBlocks()
    shape = {"num_classes": 3, "in_channels": 1, "image_size": 8}
    sites = {site.name: site for site in own_table(net, **shape).sites if site.kind in ("conv", "head")}
    assert list(sites) == ["first.0.conv", "second.conv", "pool.head"]
    assert sites["first.0.conv"].replaced == Convolution(1, 8, bias=True, norm="first.1", relu=True)
    assert sites["second.conv"].replaced == Convolution(8, 8, stride=2, groups=2, bias=False, norm=None, relu=False)
    assert (sites["second.conv"].height, sites["pool.head"].height) == (8, 4)

    placement = Placement(
        {
            "first.0.conv": Attention("sk", {"groups": 1}),
            "second.conv": Attention("deform"),
            "pool.head": Attention("attention_pool"),
        }
    )
    model = build_model(net, placement, **shape)
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    cost = placement_cost(own_table(net, **shape), placement)
    assert (cost.n_parameters, cost.n_macs) == (count_parameters(model), count_macs(model, (1, 8, 8)))
    assert "backbone.second.weight" in model.state_dict()
    assert not any(key.startswith(("backbone.first.0", "backbone.first.1")) for key in model.state_dict())


def test_a_network_of_ones_own_takes_a_merge():
    net = ResidualCNN()
    table = own_table(net, num_classes=5, in_channels=1, image_size=8)
    merges = [site for site in table.sites if site.kind == "merge"]
    assert merges
    placement = Placement({site.name: Attention("aff", {"reduction": 2}) for site in merges})
    model = build_model(net, placement, num_classes=5, in_channels=1, image_size=8)
    images = torch.randn(2, 1, 8, 8)
    model(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.attention.parameters())
    assert placement_cost(table, placement).n_parameters == count_parameters(model)


@pytest.mark.parametrize(
    ("site", "attention", "sentence"),
    [
        ("stage1.block1.conv2", Attention("sk"), "ends in a ReLU, but no ReLU is found after the convolution"),
        ("stage1.block1.conv1", Attention("sk", {"groups": 48}), r"groups must divide .* groups=48, channels=64 in"),
        ("stage1.block1.conv1", Attention("cbam"), r"kind 'conv' is not among its kinds \(output, pre"),
        ("stage1.block1.branch", Attention("deform"), r"kind 'branch' is not among its kinds \(conv\)"),
        ("head", Attention("attention_pool", {"heads": 5}), "heads must divide the channels, .* heads=4 or 8"),
        ("head", Attention("attention_pool", start="identity"), "Start 'identity' does not fit site 'head'"),
        ("stage1.block1.conv1", Attention("deform", wiring="concat"), "Wiring 'concat' does not fit .* fit: gate"),
    ],
)
def test_what_cannot_stand_there_is_refused_in_one_sentence(site, attention, sentence):
    with pytest.raises(SpaceError, match=sentence):
        build_model(RESNETS["resnet18"], Placement({site: attention}), **SHAPE)


def test_a_site_comes_back_from_its_record_with_what_it_replaces():
    from dataclasses import asdict

    sites = site_table(RESNETS["resnet18"], **SHAPE).sites
    assert [Site.from_dict(asdict(site)) for site in sites] == list(sites)
