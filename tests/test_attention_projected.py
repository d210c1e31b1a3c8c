"""Double attention, eSE, polarized, EPSA, NAM and LKA: starts, variants, widths that their authors do not have."""

from __future__ import annotations

import pytest
import torch
from attention_cases import build, images
from timm.layers import create_attn
from torch import Tensor, nn
from torch.nn import functional

from nas_attn import build_model
from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.create import create_attention
from nas_attn.attention.double_attention import DoubleAttention
from nas_attn.attention.effective_se import ESE
from nas_attn.attention.entry import Context
from nas_attn.attention.forms.projected import epsa_splits
from nas_attn.attention.large_kernel import LKA
from nas_attn.attention.norm_weights import NAM
from nas_attn.attention.options import resolve_options
from nas_attn.attention.polarized import Polarized
from nas_attn.attention.pyramid import EPSA
from nas_attn.attention.weighing.record import weigh
from nas_attn.backbones.site_table import site_table
from nas_attn.errors import SpaceError
from nas_attn.placement import Convolution, Placement
from nas_attn.space.fit import placement_cost


def spread(tensor: Tensor) -> float:
    return tensor.std().item()


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_ese_equals_the_module_of_timm() -> None:
    ours, timms, x = build("ese"), create_attn("ese", 16).eval(), images(2, 16, 7, 5)
    assert isinstance(ours, ESE)
    timms.fc.weight.data = ours.layer.weight.data[:, :, None, None]
    timms.fc.bias.data = ours.layer.bias.data
    torch.testing.assert_close(ours(x), timms(x))


def test_ese_starts_by_kaimings_rule_and_its_gate_is_an_option() -> None:
    torch.manual_seed(0)
    assert spread(ESE(256).layer.weight) == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    x = images(2, 8, 3, 4)
    hard, soft = build("ese", 8), build("ese", 8, gate="sigmoid")
    logits = hard.layer(x.mean((2, 3)))[:, :, None, None]
    torch.testing.assert_close(hard(x), x * functional.relu6(logits + 3) / 6)
    torch.testing.assert_close(soft(x), x * logits.sigmoid())


def test_double_attention_is_a_mixture_of_weighted_means_for_each_pixel() -> None:
    module, x = build("double_attention", residual=False, descriptors=3), images(2, 16, 3, 4)
    assert isinstance(module, DoubleAttention)
    gathering, distributing = module.weights(x)
    torch.testing.assert_close(gathering.sum(2), torch.ones(2, 3))
    torch.testing.assert_close(distributing.sum(1), torch.ones(2, 12))

    embedded = module.embed(x.flatten(2).transpose(1, 2))  # (N, pixels, h)
    mixed = torch.einsum("nkp,npc,nkq->nqc", gathering, embedded, distributing)
    expected = module.out(mixed).transpose(1, 2).view(2, 16, 3, 4)
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)
    added = build("double_attention", descriptors=3)(x) - x
    torch.testing.assert_close(added, expected, rtol=1e-4, atol=1e-5)


def test_double_attention_normalises_over_the_pixels_like_its_port() -> None:
    module, x = build("double_attention", softmax="pixels", descriptors=3), images(2, 16, 3, 4)
    torch.testing.assert_close(module.weights(x)[1].sum(2), torch.ones(2, 3))
    embedded = functional.conv2d(x, module.embed.weight[:, :, None, None], module.embed.bias).flatten(2)
    means = embedded @ module.gather(x).flatten(2).softmax(2).transpose(1, 2)
    mixed = (means @ module.distribute(x).flatten(2).softmax(2)).view(2, -1, 3, 4)
    expected = x + functional.conv2d(mixed, module.out.weight[:, :, None, None], module.out.bias)
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


def test_double_attention_without_the_sum_does_not_start_at_zero() -> None:
    x = images(1, 16, 4, 4)
    assert torch.equal(create_attention("double_attention", 16)(x), x)
    assert create_attention("double_attention", 16, residual=False)(x).abs().mean() > 0.01


def test_pixels_that_double_attention_gathers_receive_everything() -> None:
    module, x = build("double_attention", 8), torch.zeros(1, 8, 4, 4)
    nn.init.constant_(module.gather.weight, 300.0)
    x[0, :, 1, 2] = 1.0
    received = weigh(ATTENTIONS["double_attention"], module, (x,), module(x)).pixels
    assert received is not None
    assert received[0, 1, 2] == pytest.approx(16)


@pytest.mark.parametrize(("channels", "hidden"), [(1, 4), (6, 4), (32, 4), (48, 6), (64, 8), (256, 32)])
def test_the_sequential_bottleneck_is_an_eighth_of_the_channels_and_at_least_4(channels: int, hidden: int) -> None:
    module = Polarized(channels, layout="sequential", reduction=min(2, channels))
    assert isinstance(module.channel.expand, nn.Sequential)
    assert [layer.out_features for layer in module.channel.expand if isinstance(layer, nn.Linear)] == [hidden, channels]


def test_polarized_gates_pixels_a_little_in_parallel_and_in_sequence() -> None:
    x = images(2, 16, 5, 4)
    sums = {}
    for layout in ("parallel", "sequential"):
        module = build("polarized", layout=layout)
        weights = weigh(ATTENTIONS["polarized"], module, (x,), module(x))
        assert weights.channels is not None
        assert weights.pixels is not None
        sums[layout] = torch.logit(weights.pixels).sum((1, 2))
        factor = weights.channels[:, :, None, None], weights.pixels[:, None]
        expected = x * sum(factor) if layout == "parallel" else x * factor[0] * factor[1]
        torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(sums["parallel"], torch.ones(2))  # a softmax
    assert (sums["sequential"] - 1).abs().min() > 0.01


def test_polarized_starts_by_kaimings_rule() -> None:
    torch.manual_seed(0)
    module = Polarized(512)
    for weight in (module.channel.score.weight, module.channel.value.weight, module.pixel.key.weight):
        assert spread(weight) == pytest.approx((2 / 512) ** 0.5, rel=0.1)
    assert module.channel.expand.weight.abs().max() <= 256**-0.5


@pytest.mark.parametrize(
    ("channels", "groups", "spread_", "expected"),
    [
        (64, 16, "rising", (1, 4, 8, 16)),
        (256, 16, "rising", (1, 4, 8, 16)),
        (48, 12, "rising", (1, 3, 6, 12)),
        (52, 13, "rising", (1, 1, 1, 13)),
        (128, 32, "equal", (32, 32, 32, 32)),
        (4, 1, "rising", (1, 1, 1, 1)),
    ],
)
def test_the_groups_of_the_kernels_divide_the_channels(
    channels: int, groups: int, spread_: str, expected: tuple[int, ...]
) -> None:
    assert epsa_splits(channels // 4, channels, groups, spread_) == expected
    convs = EPSA(channels, groups=groups, spread=spread_).convs
    assert tuple(conv.groups for conv in convs if isinstance(conv, nn.Conv2d)) == expected


def test_epsanet_50_has_its_published_number_of_parameters() -> None:
    table = site_table("resnet50", num_classes=1000, in_channels=3, image_size=224)
    convs = [site.name for site in table.sites if site.kind == "conv"]
    placement = Placement.from_dict({name: {"name": "epsa"} for name in convs})
    assert round(placement_cost(table, placement).n_parameters / 1e6, 2) == 22.56


def test_epsa_takes_the_place_of_a_convolution_and_leaves_its_norm() -> None:
    placement = Placement.from_dict({"stage2.block1.conv1": {"name": "epsa"}, "stage1.block1.conv2": {"name": "epsa"}})
    shape = {"num_classes": 5, "in_channels": 3, "image_size": 32}
    model = build_model("resnet18", placement, **shape, seed=0)
    assert isinstance(model.backbone.get_submodule("layer2.0.bn1"), nn.BatchNorm2d)
    cost = placement_cost(site_table("resnet18", **shape), placement)
    assert n_parameters(model) == cost.n_parameters
    strided = model.insert_at("stage2.block1.conv1").attention
    assert isinstance(strided, EPSA)
    assert strided(images(1, 64, 7, 5)).shape == (1, 128, 4, 3)


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (Convolution(64, 64, groups=64), "the convolution that it would replace is depthwise"),
        (Convolution(64, 64, dilation=2), "the convolution is dilated by 2"),
    ],
)
def test_epsa_says_which_convolutions_it_cannot_replace(conv: Convolution, reason: str) -> None:
    with pytest.raises(SpaceError, match=reason):
        EPSA(64, context=Context(replaced=conv))


def test_epsa_starts_as_its_authors_start_it_and_weighs_four_maps_against_each_other() -> None:
    torch.manual_seed(0)
    module = EPSA(256)
    for conv, size in zip(module.convs, (3, 5, 7, 9), strict=True):
        assert isinstance(conv, nn.Conv2d)
        assert spread(conv.weight) == pytest.approx((2 / (size * size * 64)) ** 0.5, rel=0.03)
    assert spread(module.bottleneck.expand.weight) == pytest.approx((2 / 64) ** 0.5, rel=0.1)
    x = images(2, 256, 5, 4)
    weights = weigh(ATTENTIONS["epsa"], module, (x,), module(x)).channels
    assert weights is not None
    torch.testing.assert_close(weights.view(2, 4, 64).sum(1), torch.ones(2, 64))
    torch.testing.assert_close(module(x)[:, :64], module.convs[3](x) * weights[:, :64, None, None])


def test_epsa_on_one_pixel_has_one_choice_of_kernels() -> None:
    pixel, pixels = Context(height=1, width=1), Context(height=1, width=2)
    sizes = [resolve_options(ATTENTIONS["epsa"], 64, {}, at)["kernel_sizes"] for at in (pixel, pixels)]
    assert sizes == ["1+3+5+7", "3+5+7+9"]


def test_epsa_says_what_does_not_divide() -> None:
    with pytest.raises(SpaceError, match=r"does not fit 6 channels: 4 must divide the channels, but got channels=6\.$"):
        EPSA(6)
    with pytest.raises(SpaceError, match=r"got groups=16, channels=48 in and 48 out; .*: groups=12\.$"):
        EPSA(48, groups=16)


def test_nam_starts_near_one_half_and_its_shares_are_constants_of_the_backward_pass() -> None:
    module, x = NAM(8).double(), images(4, 8, 3, 5).double()
    assert module.channel is not None
    norm = module.channel.norm
    nn.init.uniform_(norm.weight, -1.0, 1.0)
    normed = functional.batch_norm(x, None, None, training=True)
    scales = norm.weight.detach().clone().requires_grad_()
    shares = scales.detach().abs() / scales.detach().abs().sum()
    expected = x * torch.sigmoid(shares[:, None, None] * (normed * scales[:, None, None]))

    output = module(x)

    torch.testing.assert_close(output, expected)
    gradients = [torch.autograd.grad(y.square().sum(), w)[0] for y, w in ((output, norm.weight), (expected, scales))]
    torch.testing.assert_close(*gradients)
    gate = weigh(ATTENTIONS["nam"], NAM(64).eval(), (x.float()[:, :1].expand(4, 64, 3, 5),), x).elements
    assert gate is not None
    assert (gate - 0.5).abs().max() < 0.02


def test_nam_without_any_scale_is_one_half_of_the_map() -> None:
    module, x = NAM(8, branches="both", context=Context(height=3, width=5)), images(2, 8, 3, 5)
    assert module.channel is not None
    assert module.spatial is not None
    for part in (module.channel, module.spatial):
        nn.init.zeros_(part.norm.weight)
    torch.testing.assert_close(module(x), x / 4)


def test_nam_has_a_scale_for_each_pixel_of_a_known_map() -> None:
    with pytest.raises(SpaceError, match=r"branches=both has a scale for each pixel, .*pass context=Context\(height"):
        create_attention("nam", 8, branches="both")
    module = create_attention("nam", 8, branches="spatial", context=Context(height=2, width=3)).eval()
    assert isinstance(module, NAM)
    assert module.channel is None
    assert module.spatial is not None
    norm = module.spatial.norm
    norm.weight.data, norm.bias.data = torch.tensor([1.0, 2.0, 0.0, 0.0, 0.0, -1.0]), torch.arange(6.0)
    x = images(1, 8, 2, 3)
    normed = x * norm.weight.view(2, 3) / (1 + norm.eps) ** 0.5 + norm.bias.view(2, 3)
    shares = torch.tensor([[0.25, 0.5, 0.0], [0.0, 0.0, 0.25]])
    torch.testing.assert_close(module(x), x * torch.sigmoid(shares * normed))
    with pytest.raises(SpaceError, match=r"'nam' needs maps of 2x3, .* got 3x2: build the network for images of this"):
        module(images(1, 8, 3, 2))


def test_the_forms_of_lka_contain_each_other() -> None:
    block, attention = build("lka", form="block"), create_attention("lka", 16, form="attention").eval()
    gate, x = create_attention("lka", 16, form="gate").eval(), images(2, 16, 7, 5)
    weights = block.state_dict()
    attention.load_state_dict({name: weights[name] for name in attention.state_dict()})
    gate.load_state_dict({name: weights[name] for name in gate.state_dict()})

    expected = x + attention.out(gate(functional.gelu(attention.project(x))))

    torch.testing.assert_close(attention(x), expected)
    torch.testing.assert_close(block(x), x + block.scale.view(-1, 1, 1) * attention(block.norm(x)))


@pytest.mark.parametrize(("kernel_size", "reach"), [(7, 3), (11, 5), (21, 11), (35, 17)])
def test_lka_reaches_as_far_as_its_kernel(kernel_size: int, reach: int) -> None:
    module, x = LKA(2, kernel_size=kernel_size), torch.zeros(1, 2, 41, 41)
    nn.init.constant_(module.kernel[2].weight, 1.0)
    x[0, :, 20, 20] = 1.0
    rows = module.kernel(x)[0, 0].abs().sum(1).gt(1e-9).nonzero()
    assert (rows.min().item(), rows.max().item()) == (20 - reach, 20 + reach)


def test_lka_starts_as_in_its_authors_networks() -> None:
    torch.manual_seed(0)
    module = LKA(256, form="block")
    assert module.project is not None
    assert module.scale is not None
    assert module.scale.eq(0.01).all()
    local, dilated, dense = (layer for layer in module.kernel if isinstance(layer, nn.Conv2d))
    for layer, n_outputs in ((local, 25), (dilated, 49), (dense, 256), (module.project, 256)):
        assert spread(layer.weight) == pytest.approx((2 / n_outputs) ** 0.5, rel=0.03)
        assert layer.bias is not None
        assert not layer.bias.any()
