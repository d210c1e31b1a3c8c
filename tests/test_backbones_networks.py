"""Every network of the catalogue: its size, its smallest image, and that it is torchvision's where that has it."""

from __future__ import annotations

import pytest
import torch
from backbone_cases import EVERY_DAY, MORE_OF_RESNET50, quick_draws, tiny_spec
from conftest import at_night
from torch import nn
from torchvision import models

from nas_attn.backbones.build import build_backbone
from nas_attn.backbones.catalog import BACKBONES, check_backbone, image_sizes
from nas_attn.backbones.networks.xception import SamePool, XceptionModule
from nas_attn.backbones.site_table import site_table
from nas_attn.cost import count_parameters
from nas_attn.errors import SpaceError
from nas_attn.model.build import build_model
from nas_attn.placement import KINDS, Placement, Shape, SiteTable
from nas_attn.space.patterns import block_names

IMAGENET = {
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "googlenet": 6_624_904,
    "inception_v3": 23_834_568,  # 27,161,264 less the auxiliary classifier's 3,326,696
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnext50": 25_028_904,
    "wide_resnet50": 68_883_240,
    "densenet121": 7_978_856,
    "densenet169": 14_149_480,
    "squeezenet": 1_235_496,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_large": 5_483_032,
    "mobilenet_v3_small": 2_542_856,
    "efficientnet_b0": 5_288_548,
    "regnet_y_400mf": 4_344_144,
    "shufflenet_v2": 2_278_604,
}
"""Trainable parameters at 1000 classes, as published with the weights, or in the paper's code."""

OTHERS = [
    ("lenet", {}, (10, 1, 28), 61_706),
    ("lenet", {}, (10, 1, 32), 61_706),
    ("mini_xception", {}, (7, 1, 64), 56_951),
    ("cats_dogs_cnn", {}, (1, 3, 128), 8_413_217),
    ("preact_resnet", {"depth": 20}, (10, 3, 32), 272_282),
    ("preact_resnet", {"depth": 56}, (10, 3, 32), 855_578),
    ("preact_resnet", {"depth": 110}, (10, 3, 32), 1_730_522),
    ("preact_resnet", {"depth": 164}, (10, 3, 32), 1_703_258),
    ("resnet50", {"stem": "small"}, (100, 3, 32), 23_705_252),
]

PLAIN = {
    "alexnet": models.alexnet,
    "vgg11": models.vgg11,
    "vgg16_bn": models.vgg16_bn,
    "googlenet": lambda **sizes: models.googlenet(**sizes, aux_logits=False, init_weights=False),
    "inception_v3": lambda **sizes: models.inception_v3(**sizes, aux_logits=False, init_weights=False),
    "resnet18": models.resnet18,
    "resnet34": models.resnet34,
    "resnet50": models.resnet50,
    "resnet101": models.resnet101,
    "resnext50": models.resnext50_32x4d,
    "wide_resnet50": models.wide_resnet50_2,
    "densenet121": models.densenet121,
    "densenet169": models.densenet169,
    "squeezenet": models.squeezenet1_1,
    "mobilenet_v2": models.mobilenet_v2,
    "mobilenet_v3_large": models.mobilenet_v3_large,
    "mobilenet_v3_small": models.mobilenet_v3_small,
    "efficientnet_b0": models.efficientnet_b0,
    "regnet_y_400mf": models.regnet_y_400mf,
    "shufflenet_v2": models.shufflenet_v2_x1_0,
}


SHAPE = {"num_classes": 1000, "in_channels": 3}


def _meta(spec, *, num_classes: int = 4, in_channels: int = 2, image_size: int) -> nn.Module:
    """The network without values; its norms do nothing, since each would take 10 ms of Python on this device."""
    with torch.device("meta"):
        shape = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        net = build_backbone(spec, Shape(**shape), seed=0).to("meta")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = nn.Identity().forward
    return net


@pytest.mark.parametrize("name", BACKBONES)
def test_a_network_has_the_parameters_of_its_authors_and_the_sites_of_its_record(name):
    _check_sites(name)
    if name in IMAGENET:
        assert site_table(name, **SHAPE).n_parameters == IMAGENET[name]
        return
    cases = [case for case in OTHERS if case[0] == name]
    assert cases or name == "densenet"
    for _, options, (num_classes, in_channels, size), n_parameters in cases:
        net = _meta({"name": name, **options}, num_classes=num_classes, in_channels=in_channels, image_size=size)
        assert count_parameters(net) == n_parameters


def test_resnet50_has_the_multiply_adds_that_its_authors_round():
    assert site_table("resnet50", **SHAPE).n_macs == pytest.approx(4.09e9, rel=0.01)


def test_mini_xception_has_as_many_running_statistics_as_keras_counts():
    net = _meta("mini_xception", num_classes=7, in_channels=1, image_size=64)
    counted = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert sum(value.numel() for value in counted.values()) == 58_423


@pytest.mark.parametrize("name", at_night(PLAIN, but=EVERY_DAY))
def test_a_network_of_torchvision_is_that_bit_for_bit(name):
    size, _ = image_sizes(name)
    with quick_draws():
        net = build_backbone(name, Shape(num_classes=4, in_channels=3, image_size=size), seed=0).eval()
    with torch.device("cpu" if name == "regnet_y_400mf" else "meta"):
        plain = PLAIN[name](num_classes=4).eval()
    assert plain.load_state_dict(net.state_dict(), strict=True, assign=True)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(net(images), plain(images))


def _stems(name: str) -> list[dict]:
    stems = [option.choices for option in BACKBONES[name].options if option.name == "stem"]
    return [{"name": name, "stem": stem} for stem in stems[0]] if stems else [{"name": name}]


def _entered_by_strides(net: nn.Module, size: int) -> list[int]:
    """Sizes of the maps that a convolution or a pooling of stride 2 halves."""
    entered = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | SamePool):
            stride = getattr(module, "stride", 2)
            if stride in (2, (2, 2)):
                module.register_forward_pre_hook(lambda module, args: entered.append(args[0].shape[-1]))
    assert net(torch.zeros(2, 2, size, size, device="meta")).shape == (2, 4)
    return entered


@pytest.mark.parametrize("name", BACKBONES)
def test_the_smallest_image_is_the_last_that_every_stride_halves_and_larger_ones_pass(name):
    for spec in _stems(name):
        _check_image_sizes(spec)


def _check_image_sizes(spec: dict) -> None:
    smallest, default = image_sizes(spec)
    assert smallest <= default
    net = _meta(spec, image_size=smallest).train()
    larger = _meta(spec, image_size=default) if BACKBONES[spec["name"]].sized else net
    assert larger.eval()(torch.zeros(1, 2, default - 3, default + 5, device="meta")).shape == (1, 4)
    net.train()
    entered = _entered_by_strides(net, smallest)
    if spec != {"name": "googlenet", "stem": "imagenet"}:  # its last pooling takes one pixel, too
        assert min(entered) >= 2
    with pytest.raises(SpaceError, match=f"takes images of {smallest}x{smallest} pixels or more"):
        site_table(spec, num_classes=4, in_channels=2, image_size=smallest - 1)
    try:
        entered = _entered_by_strides(net, smallest - 1)
    except RuntimeError:
        return
    assert min(entered) == 1


@pytest.mark.parametrize(
    "name",
    at_night(
        [name for name, entry in BACKBONES.items() if "head" in entry.kinds and name not in MORE_OF_RESNET50],
        but=EVERY_DAY,
    ),
)
def test_the_smallest_images_are_learned_from_in_two_channels(name):
    spec = tiny_spec(name)
    size, _ = image_sizes(spec)
    with quick_draws():
        net = build_backbone(spec, Shape(num_classes=4, in_channels=2, image_size=size), seed=0).train()
    net(torch.randn(2, 2, size, size)).square().sum().backward()
    assert [key for key, parameter in net.named_parameters() if parameter.grad is None] == []


def _check_sites(name: str) -> None:
    """The default network has exactly the kinds of sites of its record, and no name twice."""
    depths = [{"depth": 20}, {"depth": 164}] if name == "preact_resnet" else [{}]
    tables = [site_table({"name": name, **options}, **SHAPE) for options in depths]
    assert {site.kind for table in tables for site in table.sites} == set(BACKBONES[name].kinds)
    for table in tables:
        names = [site.name for site in table.sites]
        assert len(set(names)) == len(names)
        assert len({(site.module, site.kind) for site in table.sites}) == len(names)
    assert set(BACKBONES[name].lacks) == {kind for table in tables for kind in _missing(table)}


def _missing(table: SiteTable) -> set[str]:
    """The kinds of site that the network, or some of its blocks, does not have."""
    blocks = block_names(table)
    found = {block: {site.kind for site in table.sites if blocks.get(site.name) == block} for block in blocks.values()}
    missing = {kind for kind in KINDS if kind != "head" and any(kind not in kinds for kinds in found.values())}
    return missing | ({"head"} - set(table.kinds))


def _sites(spec, block: str) -> list[tuple]:
    found = [site for site in site_table(spec, **SHAPE).sites if site.name.startswith(block)]
    return [(site.name.removeprefix(block), site.kind, site.module, site.channels, site.height) for site in found]


def test_the_sites_of_a_bottleneck_in_the_order_of_the_data():
    assert _sites("resnext50", "stage2.block1.") == [
        ("pre", "pre", "layer2.0", 256, 56),
        ("conv", "conv", "layer2.0.conv2", 256, 56),
        ("hidden", "hidden", "layer2.0", 256, 28),
        ("branch", "branch", "layer2.0", 512, 28),
        ("shortcut", "shortcut", "layer2.0", 512, 28),
        ("merge", "merge", "layer2.0", 512, 28),
        ("output", "output", "layer2.0", 512, 28),
    ]


def test_the_sites_of_inverted_residuals_with_and_without_an_addition():
    assert _sites("mobilenet_v2", "stage2.") == [
        ("block1.conv", "conv", "features.2.conv.1.0", 96, 112),
        ("block1.hidden", "hidden", "features.2.conv.1", 96, 56),
        ("block1.output", "output", "features.2", 24, 56),
        ("block2.pre", "pre", "features.3", 24, 56),
        ("block2.conv", "conv", "features.3.conv.1.0", 144, 56),
        ("block2.hidden", "hidden", "features.3.conv.1", 144, 56),
        ("block2.branch", "branch", "features.3", 24, 56),
        ("block2.shortcut", "shortcut", "features.3", 24, 56),
        ("block2.merge", "merge", "features.3", 24, 56),
        ("block2.output", "output", "features.3", 24, 56),
    ]
    assert _sites("mobilenet_v2", "head") == [("", "head", "features.head", 1280, 7)]


N_OPENED_AND_BLOCKS = {
    "mobilenet_v2": (10, 17),
    "mobilenet_v3_large": (10, 15),
    "mobilenet_v3_small": (6, 11),
    "efficientnet_b0": (9, 16),
    "regnet_y_400mf": (16, 16),
    "shufflenet_v2": (0, 16),
    "preact_resnet": (9, 9),
    "mini_xception": (4, 4),
    "googlenet": (0, 9),
    "inception_v3": (0, 11),
    "squeezenet": (0, 8),
    "vgg16": (0, 13),
    "mobilenet_v1": (0, 13),
}
"""Number of blocks with an addition, and of all blocks."""


def test_as_many_blocks_offer_their_addition_as_have_one():
    found = {}
    for name in N_OPENED_AND_BLOCKS:
        sites = site_table(name, **SHAPE).sites
        n_opened = sum(site.kind == "merge" for site in sites)
        found[name] = (n_opened, sum(site.name.endswith(".output") for site in sites))
    assert found == N_OPENED_AND_BLOCKS


def test_a_shuffled_block_has_the_sites_of_its_two_halves():
    assert _sites("shufflenet_v2", "stage2.block1.") == [
        ("conv", "conv", "stage3.0.branch2.3", 116, 28),
        ("hidden", "hidden", "stage3.0.branch2.4", 116, 14),
        ("branch", "branch", "stage3.0.branch2", 116, 14),
        ("shortcut", "shortcut", "stage3.0.branch1", 116, 14),
        ("output", "output", "stage3.0", 232, 14),
    ]
    assert [name for name, *_ in _sites("shufflenet_v2", "stage2.block2.")] == ["conv", "hidden", "branch", "output"]


def test_only_blocks_whose_shortcut_is_the_input_have_a_pre_in_a_preactivation_resnet():
    kinds = {number: [kind for _, kind, *_ in _sites("preact_resnet", f"stage2.block{number}.")] for number in (1, 2)}
    assert kinds[1] == ["conv", "conv", "branch", "shortcut", "merge", "output"]
    assert kinds[2] == ["pre", *kinds[1]]


def test_layers_in_a_row_have_a_site_after_each_activation_and_each_pooling():
    assert _sites("vgg11_bn", "stage3.") == [
        ("block1.conv", "conv", "features.8", 256, 56),
        ("block1.output", "output", "features.10", 256, 56),
        ("block2.conv", "conv", "features.11", 256, 56),
        ("block2.output", "output", "features.13", 256, 56),
        ("pool", "output", "features.14", 256, 28),
    ]
    table = site_table("cats_dogs_cnn", **SHAPE)
    assert [(site.channels, site.height) for site in table.sites if site.name.endswith("pool")] == [
        (16, 64),
        (32, 32),
        (64, 16),
    ]
    assert [site.name for site in site_table("lenet", **SHAPE).sites] == [
        "stage1.block1.output",
        "stage1.pool",
        "stage2.block1.output",
        "stage2.pool",
    ]


def test_only_convolutions_that_keep_the_map_are_sites_in_inception_v3():
    table = site_table("inception_v3", **SHAPE)
    assert [site.module for site in table.sites if site.kind == "conv"] == [
        "Conv2d_2b_3x3.conv",
        *(f"Mixed_5{letter}.branch3x3dbl_{k}.conv" for letter in "bcd" for k in (2, 3)),
        "Mixed_6a.branch3x3dbl_2.conv",
        *(f"Mixed_7{letter}.branch3x3dbl_2.conv" for letter in "bc"),
    ]


def test_a_depthwise_convolution_states_whether_a_relu_follows():
    for name in ("mobilenet_v2", "efficientnet_b0", "shufflenet_v2", "mini_xception"):
        sites = [site for site in site_table(name, **SHAPE).sites if site.kind == "conv"]
        assert {site.replaced.relu for site in sites} == {False}
        assert all(site.replaced.groups == site.replaced.in_channels for site in sites)
    grouped = site_table("regnet_y_400mf", **SHAPE).site("stage1.block1.conv")
    assert (grouped.replaced.relu, grouped.replaced.groups, grouped.channels) == (True, 6, 48)


@pytest.mark.parametrize(("size", "ends"), [(6, [2, 4, 5]), (5, [1, 3, 4]), (2, [1]), (1, [0])])
def test_a_map_is_pooled_as_keras_pads_it_for_same(size, ends):
    """An even map has no border before it, so that its first window is whole; an odd one has a border at both ends."""
    rising = torch.arange(size, dtype=torch.float).expand(1, 1, size, size)
    assert SamePool()(rising)[0, 0, 0].tolist() == ends
    assert SamePool()(rising.mT)[0, 0, :, 0].tolist() == ends


def test_an_xception_module_is_the_sum_that_keras_adds_up():
    module = XceptionModule(4, 6).eval()
    x = torch.randn(2, 4, 7, 8)
    first, point, norm, relu, second, mixed, last, pool = module.branch
    branch = pool(last(mixed(second(relu(norm(point(first(x))))))))
    conv, shortcut_norm = module.projection
    torch.testing.assert_close(module(x), branch + shortcut_norm(conv(x)))
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)
    assert module(x).shape == (2, 6, 4, 4)


def test_a_depth_that_the_network_does_not_have_is_refused():
    with pytest.raises(SpaceError, match=r"depth in \[20, 56, 110, 164\] must hold .* but got 18"):
        check_backbone({"name": "preact_resnet", "depth": 18})
    with pytest.raises(SpaceError, match="but got True"):
        check_backbone({"name": "preact_resnet", "depth": True})


def test_an_image_too_small_is_refused_where_there_is_no_stem_to_choose():
    with pytest.raises(SpaceError, match="Backbone 'vgg11' takes images of 32x32 pixels or more, but got"):
        build_model("vgg11", Placement(), num_classes=4, image_size=31)
