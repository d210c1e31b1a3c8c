"""SE with batch norm, ECA, scSE, BAM, SimAM, LSKA, Shuffle, SGE, EMA against their formulas, written out."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.channel import ECA, SE, SEBN, means
from nas_attn.attention.create import create_attention
from nas_attn.attention.forms.grouped import LSKA_KERNELS
from nas_attn.attention.grouped import EMA, SGE, Shuffle
from nas_attn.attention.mixed import BAM, SCSE
from nas_attn.attention.spatial import LSKA, SimAM
from nas_attn.errors import SpaceError


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def randomised(module: nn.Module) -> nn.Module:
    """The module in eval mode and float64, with random parameters and buffers; those of vectors are positive."""
    generator = torch.Generator().manual_seed(1)
    for tensor in module.double().state_dict().values():
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(values.abs() + 0.1 if tensor.dim() == 1 else values / tensor[0].numel() ** 0.5)
    return module.eval()


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def in_order(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers in the order of the state dict."""
    return [tensor for tensor in module.state_dict().values() if tensor.is_floating_point()]


def normalise(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """A batch norm in eval mode over (N, C)."""
    return (x - mean) / (variance + eps).sqrt() * weight + bias


def test_a_mean_keeps_its_type_where_the_sum_would_not_fit_in_it() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        mean = means(torch.full((2, 3, 40, 41), 100.0, dtype=dtype))
        assert mean.dtype == dtype
        assert mean.tolist() == [[100.0] * 3] * 2


def test_the_gradient_of_a_mean_is_spread_over_the_map() -> None:
    x = images(2, 3, 5, 4).requires_grad_()
    gradient = images(2, 3)
    (spread,) = torch.autograd.grad(means(x), x, gradient)
    torch.testing.assert_close(spread, (gradient / 20)[:, :, None, None].expand_as(x))


@pytest.mark.parametrize(("channels", "total", "trainable"), [(16, 117, 83), (32, 298, 230), (64, 852, 716)])
def test_se_bn_has_the_published_counts(channels: int, total: int, trainable: int) -> None:
    module = SEBN(channels)
    assert n_parameters(module) == trainable
    assert sum(tensor.numel() for tensor in in_order(module)) == total


def test_se_bn_computes_the_formula_with_the_eps_of_keras() -> None:
    x = images(2, 32, 5, 3)
    module = randomised(SEBN(32))
    weight1, bias1, *norm1 = in_order(module)[:6]
    weight2, bias2, *norm2 = in_order(module)[6:]
    hidden = normalise(x.mean((2, 3)) @ weight1.T + bias1, *norm1, eps=1e-3).clamp(min=0)
    gate = normalise(hidden @ weight2.T + bias2, *norm2, eps=1e-3).sigmoid()

    torch.testing.assert_close(module(x), x * gate[:, :, None, None])


def test_se_bn_starts_and_remembers_as_keras_does() -> None:
    module = SEBN(64, reduction=4, dropout=0.0)
    for layer in (module.reduce.linear, module.expand.linear):
        bound = (6 / (64 + 16)) ** 0.5
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
    x = images(4, 64, 5, 3).float()
    reduced = module.reduce.linear(x.mean((2, 3)))
    module.train()(x)

    torch.testing.assert_close(module.reduce.norm.running_mean, 0.01 * reduced.mean(0))


def test_se_bn_trains_on_one_image_by_what_it_remembers() -> None:
    x = images(1, 32, 5, 3)
    module = randomised(SEBN(32, dropout=0.0))
    expected, before = module(x), [tensor.clone() for tensor in in_order(module)]

    torch.testing.assert_close(module.train()(x), expected)
    assert all(map(torch.equal, in_order(module), before))


def test_se_bn_drops_in_training_only() -> None:
    x = images(4, 32, 5, 3)
    module = randomised(SEBN(32, dropout=0.9))
    torch.testing.assert_close(module(x), module(x))
    module.train()
    assert not torch.allclose(module(x), module(x))


def test_eca_follows_the_rule_of_the_paper() -> None:
    widths = (1, 8, 16, 32, 64, 128, 256, 1024, 2048)
    assert [ECA(channels).conv.kernel_size for channels in widths] == [(k,) for k in (1, 3, 3, 3, 3, 5, 5, 5, 7)]
    assert ECA(64, kernel_size=9).conv.kernel_size == (9,)


def test_eca_sees_the_neighbours_of_a_channel_and_zeros_beyond_the_ends() -> None:
    x = images(2, 6, 5, 3)
    module = randomised(ECA(6, kernel_size=3))
    left, centre, right = module.conv.weight.flatten()
    mean = x.mean((2, 3))
    zeros = torch.zeros_like(mean[:, :1])
    lower, upper = torch.cat([zeros, mean[:, :-1]], 1), torch.cat([mean[:, 1:], zeros], 1)
    gate = (left * lower + centre * mean + right * upper).sigmoid()

    torch.testing.assert_close(module(x), x * gate[:, :, None, None])


@pytest.mark.parametrize("merge", ["max", "add"])
def test_scse_merges_a_map_gated_by_channel_with_one_gated_by_pixel(merge: str) -> None:
    x = images(2, 16, 5, 3)
    module = randomised(SCSE(16, merge=merge))
    weight1, bias1, weight2, bias2, weight, bias = in_order(module)
    channel = ((x.mean((2, 3)) @ weight1.T + bias1).clamp(min=0) @ weight2.T + bias2).sigmoid()
    pixel = (torch.einsum("nchw,c->nhw", x, weight.flatten()) + bias).sigmoid()
    maps = torch.stack([x * channel[:, :, None, None], x * pixel[:, None]])

    torch.testing.assert_close(module(x), maps.max(0).values if merge == "max" else maps.sum(0))
    assert weight1.shape == (8, 16)


@pytest.mark.parametrize("merge", ["product", "sum"])
def test_bam_amplifies_every_element_up_to_twice(merge: str) -> None:
    x = images(2, 32, 9, 7)
    gate = randomised(BAM(32, merge=merge))(x) / x

    assert (gate > 1).all()
    assert (gate < 2).all()
    assert gate.std() > 0.001


@pytest.mark.parametrize("merge", ["product", "sum"])
def test_bam_takes_the_mean_of_the_whole_map(merge: str) -> None:
    module = randomised(BAM(32, merge=merge))
    weight1, bias1, *norm = in_order(module)[:6]
    weight2, bias2 = in_order(module)[6:8]
    for shape in [(9, 7), (5, 12), (1, 1)]:
        x = images(2, 32, *shape)
        hidden = normalise(x.mean((2, 3)) @ weight1.T + bias1, *norm, eps=1e-5).clamp(min=0)
        channel, spatial = (hidden @ weight2.T + bias2)[:, :, None, None], module.spatial(x)
        gate = (channel * spatial if merge == "product" else channel + spatial).sigmoid()

        torch.testing.assert_close(module(x), x * (1 + gate))


def test_bam_sees_as_far_as_two_dilated_convolutions() -> None:
    module = randomised(BAM(32, dilation=3))
    impulse = torch.zeros(1, 32, 15, 15, dtype=torch.float64)
    change = module.spatial(impulse)
    impulse[..., 7, 7] = 1
    seen = (module.spatial(impulse) - change).abs()[0, 0] > 0

    assert seen.nonzero().min() == 1
    assert seen.nonzero().max() == 13


def test_bam_starts_as_the_authors_networks_have_it() -> None:
    module = BAM(256, reduction=4)
    first, *_, last = [layer for layer in module.spatial if isinstance(layer, nn.Conv2d)]

    assert not any(bias.any() for name, bias in module.named_parameters() if name.endswith("bias"))
    assert first.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert last.weight.std().item() == pytest.approx(2**0.5, rel=0.3)


@pytest.mark.parametrize("lam", [1e-4, 0.1])
def test_simam_computes_the_formula(lam: float) -> None:
    x = images(2, 8, 5, 3) + 2
    distance = (x - x.mean((2, 3), keepdim=True)) ** 2
    energy = distance / (4 * (distance.sum((2, 3), keepdim=True) / 14 + lam)) + 0.5

    torch.testing.assert_close(SimAM(8, lam=lam)(x), x * energy.sigmoid())


@pytest.mark.parametrize("shape", [(1, 1), (4, 3)])
def test_simam_gives_every_element_of_a_flat_map_one_gate(shape: tuple[int, int]) -> None:
    x = torch.full((2, 8, *shape), 3.0)
    torch.testing.assert_close(SimAM(8)(x), x * torch.tensor(0.5).sigmoid())


def test_lska_sees_a_square_of_its_kernel_size() -> None:
    for kernel_size in LSKA_KERNELS:
        module, middle = randomised(LSKA(4, kernel_size=kernel_size)), 30
        impulse = torch.zeros(1, 4, 61, 61, dtype=torch.float64)
        flat = module.kernel(impulse)
        impulse[..., middle, middle] = 1
        seen = (module.kernel(impulse) - flat).abs()[0, 0] > 0
        reach = kernel_size // 2

        assert seen.nonzero().amin(0).tolist() == [middle - reach] * 2, kernel_size
        assert seen.nonzero().amax(0).tolist() == [middle + reach] * 2, kernel_size


def test_lska_multiplies_by_what_its_convolutions_give_one_after_the_other() -> None:
    x = images(2, 8, 9, 12)
    module = randomised(LSKA(8))
    gate, tensors = x, in_order(module)
    paddings, dilations = [(0, 1), (1, 0), (0, 2), (2, 0), (0, 0)], [1, 1, 2, 2, 1]
    for weight, bias, padding, dilation in zip(tensors[::2], tensors[1::2], paddings, dilations, strict=True):
        groups = 8 // weight.shape[1]
        gate = functional.conv2d(gate, weight, bias, padding=padding, dilation=dilation, groups=groups)

    torch.testing.assert_close(module(x), x * gate)
    assert n_parameters(module) == 8**2 + 17 * 8


def test_lska_starts_as_the_authors_networks_have_it() -> None:
    for layer in LSKA(256, kernel_size=23).kernel:
        n_leaving = prod(layer.kernel_size) * 256 // layer.groups
        assert layer.weight.std().item() == pytest.approx((2 / n_leaving) ** 0.5, rel=0.1)
        assert not layer.bias.any()


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_shuffle_gates_the_halves_of_each_group_and_deals_the_channels_out(groups: int) -> None:
    x = images(2, 12, 5, 3)
    module = randomised(Shuffle(12, groups=groups))
    weight, bias, norm_weight, norm_bias, spatial_weight, spatial_bias = [t[:, None, None] for t in in_order(module)]
    gated = []
    for group in x.chunk(groups, 1):
        pooled, normed = group.chunk(2, 1)
        gated.append(pooled * (weight * pooled.mean((2, 3), keepdim=True) + bias).sigmoid())
        variance, mean = torch.var_mean(normed, (2, 3), correction=0, keepdim=True)
        standard = (normed - mean) / (variance + 1e-5).sqrt() * norm_weight + norm_bias
        gated.append(normed * (spatial_weight * standard + spatial_bias).sigmoid())
    halves = torch.cat(gated, 1).chunk(2, 1)

    torch.testing.assert_close(module(x), torch.stack(halves, 2).flatten(1, 2))
    assert n_parameters(module) == 3 * 12 // groups


def test_a_fresh_shuffle_scales_everything_alike() -> None:
    x = images(2, 256, 3, 2).float()
    module = Shuffle(256)
    order = torch.arange(256).view(2, 128).T.flatten()

    assert module.groups == 64
    torch.testing.assert_close(module(x), x[:, order] * torch.tensor(1.0).sigmoid())


@pytest.mark.parametrize("groups", [1, 3, 12])
def test_sge_gates_pixels_by_their_likeness_to_the_mean_of_their_group(groups: int) -> None:
    x = images(2, 12, 5, 3)
    module = randomised(SGE(12, groups=groups))
    gated = []
    for group, weight, bias in zip(x.chunk(groups, 1), *map(torch.flatten, in_order(module)), strict=True):
        likeness = torch.einsum("nchw,nc->nhw", group, group.mean((2, 3)))
        std, mean = torch.std_mean(likeness, (1, 2), keepdim=True)
        gated.append(group * (weight * (likeness - mean) / (std + 1e-5) + bias).sigmoid()[:, None])

    torch.testing.assert_close(module(x), torch.cat(gated, 1))
    assert n_parameters(module) == 2 * groups


def test_a_fresh_sge_scales_everything_alike_and_an_even_map_has_a_gradient() -> None:
    x = images(2, 128, 3, 2).float()
    module = SGE(128)
    torch.testing.assert_close(module(x), x * torch.tensor(1.0).sigmoid())

    randomised(module)(torch.ones(2, 128, 3, 2)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    assert module(x[:, :, :1, :1]).isfinite().all()


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_ema_lets_two_branches_weigh_each_others_pixels(factor: int) -> None:
    x = images(2, 8, 5, 3)
    module = randomised(EMA(8, factor=factor))
    weight, bias, norm_weight, norm_bias, local_weight, local_bias = in_order(module)
    width = 8 // factor

    def gate_axes(group: Tensor) -> Tensor:
        rows, columns = (
            (torch.einsum("oc,ncl->nol", weight[:, :, 0, 0], means) + bias[:, None]).sigmoid()
            for means in (group.mean(3), group.mean(2))
        )
        return functional.group_norm(
            group * rows[:, :, :, None] * columns[:, :, None, :], width, norm_weight, norm_bias
        )

    def weigh(branch: Tensor, other: Tensor) -> Tensor:
        return torch.einsum("nc,nchw->nhw", branch.mean((2, 3)).softmax(1), other)

    outputs = []
    for group in x.chunk(factor, 1):
        axes, local = gate_axes(group), functional.conv2d(group, local_weight, local_bias, padding=1)
        outputs.append(group * (weigh(axes, local) + weigh(local, axes)).sigmoid()[:, None])

    torch.testing.assert_close(module(x), torch.cat(outputs, 1))
    assert n_parameters(module) == 10 * width**2 + 4 * width


def test_groups_follow_the_authors_where_those_divide_the_channels_and_have_four() -> None:
    assert [Shuffle(channels).groups for channels in (512, 256, 128, 48, 2)] == [64, 64, 32, 12, 1]
    assert [SGE(channels).groups for channels in (512, 256, 64, 48, 1)] == [64, 64, 16, 12, 1]
    assert [EMA(channels).groups for channels in (256, 128, 48, 7, 1)] == [32, 32, 12, 1, 1]


@pytest.mark.parametrize("module", [SE(16, reduction=4), SEBN(16, reduction=4), ECA(16), SCSE(16), SimAM(16)])
def test_these_gates_never_amplify(module: nn.Module) -> None:
    x = images(2, 16, 5, 3)
    assert (randomised(module)(x).abs() <= x.abs()).all()


def test_channels_last_is_kept_without_the_kernels_of_a_cpu_too() -> None:
    for name in ("se", "se_bn", "scse", "bam", "eca", "simam", "lska", "shuffle", "sge", "ema"):
        module = create_attention(name, 32).to("meta")
        x = torch.empty(2, 32, 6, 5, device="meta").contiguous(memory_format=torch.channels_last)
        assert module(x).is_contiguous(memory_format=torch.channels_last), name


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sge", {"groups": 3}, "groups must divide the channels, but got groups=3, channels=16; .*groups=2 or 4"),
        ("ema", {"factor": 3}, "factor must divide the channels, but got factor=3, channels=16; .*factor=2 or 4"),
        ("eca", {"kernel_size": 4}, "'kernel_size' of 'eca' must be an odd number from 1 to 63 or auto, but got 4"),
        ("bam", {"reduction": 32}, "reduction <= channels must hold, but got reduction=32, channels=16"),
        ("scse", {"merge": "mean"}, "'merge' of 'scse' must be one of max, add"),
        ("se_bn", {"dropout": 1.0}, "'dropout' of 'se_bn' must be a number from 0 to 0.95, but got 1.0"),
        ("simam", {"lam": 0.0}, "'lam' of 'simam' must be a number from 1e-12 to 100, but got 0.0"),
    ],
)
def test_an_option_that_cannot_hold_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        create_attention(name, 16, **options)
