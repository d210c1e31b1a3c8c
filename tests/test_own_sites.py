"""Networks as people bring them take attention at every site that is one, and say of the others why they are none."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import NamedTuple

import cloudpickle
import pytest
import torch
from backbone_cases import everywhere
from own_realistic import REALISTIC, BottleneckNet, ChannelsLast, FunctionalBottleneck
from torch import nn
from torch.nn import functional

from nas_attn.backbones.site_table import site_table
from nas_attn.backbones.survey.survey import Survey, survey
from nas_attn.backbones.user_network import initialise
from nas_attn.cost import count_macs, count_parameters
from nas_attn.errors import SpaceError
from nas_attn.model.build import AttentionModel, build_model
from nas_attn.model.file import load_model, save_model
from nas_attn.placement import Placement, Shape
from nas_attn.space.fit import placement_cost

SIZE = 8
SHAPE = {"num_classes": 5, "in_channels": 3, "image_size": SIZE}
IMAGES = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
RECORD = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "class_names": list("abcde")}


class Case(NamedTuple):
    make: object
    plain: nn.Module
    found: Survey
    model: AttentionModel


@pytest.fixture(scope="module", params=REALISTIC)
def case(request) -> Case:
    make = REALISTIC[request.param]
    torch.manual_seed(0)
    plain = make()
    initialise(plain, Shape(**SHAPE))
    found = survey(plain, Shape(**SHAPE))
    return Case(make, plain, found, build_model(plain, _everywhere(found), **SHAPE, seed=1))


def _everywhere(found: Survey) -> Placement:
    """Something at each place, under one of its names."""
    placement = everywhere(found.table)
    places = {(site.module, site.kind): site.name for site in found.table.sites if site.name in placement}
    return Placement({name: placement[name] for name in places.values()})


def _at(site: str, name: str = "se", **options) -> Placement:
    return Placement.from_dict({site: {"name": name, **options}})


def _outputs(model: nn.Module) -> list[torch.Tensor]:
    """What it gives in both modes, with the same random numbers."""
    outputs = []
    for training in (True, False):
        torch.manual_seed(0)
        outputs.append(model.train(training)(IMAGES).detach())
    return outputs


def _same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_with_nothing_placed_it_is_the_plain_network_bit_for_bit_and_loads_strictly(case):
    empty = build_model(case.plain, Placement(), **SHAPE)
    assert _same(_outputs(empty), _outputs(copy.deepcopy(case.plain)))
    assert empty.backbone.load_state_dict(case.plain.state_dict(), strict=True)


def test_with_attention_everywhere_it_keeps_its_names_learns_and_costs_what_is_said(case):
    assert len(case.model.placement) >= 1
    model = copy.deepcopy(case.model).train()
    assert set(model.backbone.state_dict()) <= set(case.plain.state_dict())
    model(IMAGES).square().sum().backward()
    lost = [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert lost == []
    cost = placement_cost(case.found.table, case.model.placement)
    assert (cost.n_parameters, cost.n_macs) == (count_parameters(model), count_macs(model, (3, SIZE, SIZE)))


def test_copies_pickles_and_files_of_it_compute_the_same(case, tmp_path):
    model = copy.deepcopy(case.model).eval()
    expected = model(IMAGES)
    save_model(model, tmp_path / "best.json", record=RECORD)
    copies = {
        "deepcopy": copy.deepcopy(model),
        "cloudpickle": pickle.loads(cloudpickle.dumps(model)),
        "file": load_model(tmp_path / "best.json", backbone=case.make),
    }
    assert {name: torch.equal(found(IMAGES), expected) for name, found in copies.items()} == dict.fromkeys(copies, True)


@pytest.mark.parametrize("case", ["functional bottleneck", "convnext", "nested"], indirect=True)
def test_it_exports(case):
    model = copy.deepcopy(case.model).eval()
    exported = torch.export.export(model, (IMAGES,)).module()
    torch.testing.assert_close(exported(IMAGES), model(IMAGES))


def test_building_changes_neither_the_network_nor_the_random_numbers(case):
    before = copy.deepcopy(case.plain.state_dict())
    case.plain.train()
    next(case.plain.children()).eval()
    modes = [module.training for module in case.plain.modules()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_model(case.plain, case.model.placement, **SHAPE, seed=0)
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in case.plain.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in case.plain.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in case.plain.modules())


@pytest.mark.parametrize("block", ["bottleneck", "functional bottleneck"])
def test_a_bottleneck_of_ones_own_offers_what_the_catalogues_does(block):
    found = survey(REALISTIC[block](), Shape(**SHAPE))
    kinds = {site.kind for site in found.table.sites if site.module == "layer2.0"}
    assert kinds >= {"pre", "hidden", "branch", "shortcut", "merge"}
    conv = found.table.site("layer2.0.conv2.conv").replaced
    assert (conv.norm, conv.relu, conv.stride) == ("layer2.0.bn2", True, 2)
    assert (found.table.site("layer2.0.hidden").channels, found.table.site("layer2.0.hidden").height) == (4, 4)
    assert found.table.site("conv1.conv").replaced.norm == "bn1"


def test_hidden_attention_works_before_the_last_convolution_of_the_branch():
    net = BottleneckNet(FunctionalBottleneck).eval()
    model = build_model(net, _at("layer2.0.hidden", reduction=2), **SHAPE).eval()
    block, x = net.layer2[0], net.layer1(torch.relu(net.bn1(net.conv1(IMAGES))))
    hidden = torch.relu(block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x))))))
    branch = block.bn3(block.conv3(model.insert_at("layer2.0.hidden").attention(hidden)))
    expected = net.fc(torch.relu(branch + block.downsample(x)).mean((2, 3)))
    torch.testing.assert_close(model(IMAGES), expected)


def test_sk_takes_the_place_of_convolution_norm_and_relu():
    net = BottleneckNet().eval()
    model = build_model(net, _at("layer2.0.conv2.conv", "sk", groups=1), **SHAPE).eval()
    block, x = net.layer2[0], net.layer1(torch.relu(net.bn1(net.conv1(IMAGES))))
    selected = model.insert_at("layer2.0.conv2.conv").attention(torch.relu(block.bn1(block.conv1(x))))
    expected = net.fc(torch.relu(block.bn3(block.conv3(selected)) + block.downsample(x)).mean((2, 3)))
    torch.testing.assert_close(model(IMAGES), expected)


class Behind(nn.Module):
    """A convolution and a norm, and what the test puts behind them."""

    def __init__(self, behind) -> None:
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)
        self.behind = behind

    def forward(self, x):
        return self.fc(self.behind(self, self.conv(x)).mean((2, 3)))


def _read_elsewhere(net, x):
    y = net.norm(x)
    return functional.relu(y) + y


def _read_before_its_norm(net, x):
    return functional.relu(net.norm(x)) + x


def _read_in_training(net, x):
    y = net.norm(x)
    return functional.relu(y) + (y if net.training else 0)


@pytest.mark.parametrize(
    ("behind", "norm", "relu"),
    [
        (lambda net, x: functional.relu(net.norm(x)), "norm", True),
        (lambda net, x: functional.relu_(net.norm(x)), "norm", True),
        (lambda net, x: net.norm(x).relu(), "norm", True),
        (lambda net, x: functional.relu(net.norm(x), inplace=True) + 1, "norm", True),
        (lambda net, x: functional.relu(x), None, True),
        (lambda net, x: functional.leaky_relu(net.norm(x)), "norm", False),
        (lambda net, x: functional.relu6(net.norm(x)), "norm", False),
        (lambda net, x: functional.relu(net.norm(x) + 1), "norm", False),
        (lambda net, x: functional.relu(functional.dropout(net.norm(x), 0.1, net.training)), "norm", False),
        (lambda net, x: functional.relu(net.norm(x)) + net.other(x), None, False),
        (_read_elsewhere, "norm", False),
        (_read_before_its_norm, None, False),
        (_read_in_training, "norm", False),
    ],
)
def test_norm_and_relu_count_only_where_nothing_else_reads_what_they_read(behind, norm, relu):
    conv = survey(Behind(behind), Shape(**SHAPE)).table.site("conv.conv").replaced
    assert (conv.norm, conv.relu) == (norm, relu)


def test_a_norm_without_weights_of_its_own_stays():
    net = Behind(lambda net, x: functional.relu(net.norm(x)))
    net.norm = nn.BatchNorm2d(8, affine=False)
    assert survey(net, Shape(**SHAPE)).table.site("conv.conv").replaced.norm is None


def test_maps_with_channels_last_are_no_sites_even_where_the_sizes_agree():
    found = survey(ChannelsLast(), Shape(**SHAPE))
    assert [site.name for site in found.table.sites] == ["stem.conv", "stem"]
    with pytest.raises(
        SpaceError, match=r"'mix' .* returns a tensor of shape \(2, 8, 8, 8\), which is not known to be a"
    ):
        build_model(ChannelsLast(), _at("mix", reduction=2), **SHAPE)


class OneSize(ChannelsLast):
    """Takes images of one size only."""

    def forward(self, x):
        assert x.shape[2:] == (SIZE, SIZE), "of one size"
        x = torch.relu(self.stem(x))
        return self.fc(self.act(self.mix(x.flatten(2)).unflatten(1, (2, 4))).flatten(1).unflatten(1, (8, 64)).mean(2))


def test_a_network_of_one_image_size_offers_the_maps_that_its_convolutions_handle():
    net = OneSize()
    net.mix = nn.Linear(64, 64)
    found = survey(net, Shape(**SHAPE))
    assert [site.name for site in found.table.sites] == ["stem.conv", "stem"]
    assert (
        found.table.refusals["act"]
        == "it returns a tensor of shape (2, 2, 4, 64), which is not known to be a map (N, C, H, W)"
    )


def _gated() -> nn.Module:
    """Squeeze-and-excitation by hand, before the pooling that is the head."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.squeeze, self.pool = nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(8, 5)

        def forward(self, x):
            x = self.conv(x)
            return self.fc(self.pool(x * torch.sigmoid(self.squeeze(x))).flatten(1))

    return Gated()


def test_the_head_is_the_pooling_that_ends_the_maps():
    found = survey(_gated(), Shape(**SHAPE))
    assert [site.name for site in found.table.sites if site.kind == "head"] == ["pool.head"]
    assert "it must be the last pooling, but maps follow it" in found.table.refusals["squeeze.head"]
    net = nn.Sequential(_gated().conv, nn.AdaptiveAvgPool2d([1, 1]), nn.Flatten(), nn.Linear(8, 5))
    assert [site.name for site in survey(net, Shape(**SHAPE)).table.sites if site.kind == "head"] == ["1.head"]


def test_attention_on_both_sides_of_a_swap_is_kept():
    net = BottleneckNet()
    placement = Placement.from_dict(
        {
            "layer2.0.conv2": {"name": "cbam", "reduction": 2, "kernel_size": 3},
            "layer2.0.conv2.conv": {"name": "sk", "groups": 1},
            "layer2.0.bn2": {"name": "se", "reduction": 2},
        }
    )
    model = build_model(net, placement, **SHAPE)
    model(IMAGES).square().sum().backward()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []


def test_a_pooling_within_a_block_is_of_the_blocks_stage_and_the_last_one_of_its_own():
    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.squeeze = nn.AdaptiveAvgPool2d(1)
            self.excite = nn.Conv2d(4, 4, 1)
            self.down = nn.Conv2d(4, 4, 3, 2, 1)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Linear(4, 5)

        def forward(self, x):
            x = self.conv(x)
            x = x * self.excite(self.squeeze(x)).sigmoid()
            return self.classifier(self.pool(self.down(x)).flatten(1))

    stages = {site.name: site.stage for site in survey(Squeezed(), Shape(**SHAPE)).table.sites}
    assert (stages["conv"], stages["squeeze"], stages["excite"]) == ("stage1", "stage1", "stage1")
    assert (stages["down"], stages["pool"]) == ("stage2", "stage3")


STRIDE = 1


def strided_net(num_classes: int, in_channels: int) -> nn.Module:
    """A network whose code is edited in a notebook: only the stride of a convolution changes."""
    conv = nn.Conv2d(in_channels, 4, 3, stride=STRIDE, padding=1)
    return nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


def test_an_imported_network_that_has_changed_is_surveyed_again(monkeypatch):
    spec, heights = {"import": f"{__name__}:strided_net"}, []
    for stride in (1, 2):
        monkeypatch.setattr(sys.modules[__name__], "STRIDE", stride)
        heights.append(site_table(spec, **SHAPE).site("0").height)
    assert heights == [SIZE, SIZE // 2]
