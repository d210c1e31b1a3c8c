"""What takes the place of a 3x3 convolution: selective kernels and deformable convolutions."""

from __future__ import annotations

import copy
import importlib.util
import pickle
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from attention_cases import images
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from nas_attn.attention import kernel
from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.entry import Context, Options
from nas_attn.attention.kernel import SK, Deform, resample
from nas_attn.errors import SpaceError
from nas_attn.placement import Convolution

PLAIN = Convolution(8, 8)
REPLACED = [
    PLAIN,
    Convolution(8, 16, stride=2, bias=False),
    Convolution(8, 8, groups=8, stride=2),
    Convolution(8, 16, groups=2, dilation=2, bias=False),
    Convolution(16, 8, groups=4, dilation=3, stride=2),
]
DEFORMS: list[dict[str, Any]] = [
    {},
    {"groups": 2},
    {"modulated": True},
    {"modulated": True, "groups": 4},
    {"offsets": "channel"},
]
each_deform = pytest.mark.parametrize("options", DEFORMS, ids=str)


def conv_like(record: Convolution) -> nn.Conv2d:
    padding = record.dilation
    geometry = (record.kernel_size, record.stride, padding, record.dilation, record.groups)
    return nn.Conv2d(record.in_channels, record.out_channels, *geometry, bias=record.bias)


def deform_in_place_of(conv: nn.Conv2d, record: Convolution, options: dict[str, Any]) -> Deform:
    module = Deform(record.out_channels, context=Context(replaced=record), **options)
    module.take_over(conv)
    return module


def moved(module: Deform) -> Deform:
    """The module with offsets, and masks, that are not 0."""
    for parameter in module.offset.parameters():
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    return module


@pytest.mark.parametrize("n_branches", [2, 3])
def test_the_weights_of_sk_sum_to_one_over_its_branches(n_branches: int) -> None:
    module = SK(8, groups=4, n_branches=n_branches).eval()
    nn.init.normal_(module.selector.expand.weight)

    weights = module.selector(images(5, 8))

    assert weights.shape == (n_branches, 5, 8, 1, 1)
    assert weights.std() > 0.01
    torch.testing.assert_close(weights.sum(0), torch.ones(5, 8, 1, 1))


def test_sk_of_equal_branches_is_that_branch() -> None:
    module = SK(8, groups=None).eval()
    first, second = module.branches
    assert isinstance(first, kernel.Dilated)
    assert isinstance(second, kernel.Dilated)
    second.conv.dilation, second.conv.padding = first.conv.dilation, first.conv.padding
    second.load_state_dict(first.state_dict())
    nn.init.normal_(module.selector.expand.weight)
    x = images(2, 8, 6, 5)

    torch.testing.assert_close(module(x), first(x))


@pytest.mark.parametrize("replaced", REPLACED, ids=str)
def test_sk_gives_the_shape_of_the_convolution_that_it_replaces(replaced: Convolution) -> None:
    replaced = replace(replaced, groups=min(replaced.groups, 4))  # a depthwise one is refused
    module = SK(replaced.out_channels, groups=None, context=Context(replaced=replaced))
    for size in [(1, 1), (6, 5)]:
        x = images(1, replaced.in_channels, *size)

        output = module(x)

        assert output.shape == conv_like(replaced)(x).shape
        assert (output >= 0).all()
    convs = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    assert [conv.groups for conv in convs] == [replaced.groups] * 2
    assert [conv.dilation[0] for conv in convs] == [replaced.dilation, 2 * replaced.dilation]


def test_sk_takes_no_depthwise_convolution_and_says_so() -> None:
    context = Context(replaced=Convolution(8, 8, groups=8))
    with pytest.raises(SpaceError, match="the one that it would replace is depthwise"):
        SK(8, groups=None, context=context)


def test_sk_starts_as_the_authors_start_it() -> None:
    torch.manual_seed(0)
    module = SK(256, bias=True)
    deviations = {name: parameter.std().item() for name, parameter in module.named_parameters()}

    assert deviations["branches.0.conv.weight"] == pytest.approx((2 / (9 * 8)) ** 0.5, rel=0.02)
    assert deviations["selector.reduce.weight"] == pytest.approx(0.01, rel=0.05)
    assert deviations["selector.expand.weight"] == pytest.approx(0.01, rel=0.05)
    assert not any(value for name, value in deviations.items() if name.endswith("bias"))


def test_sknet_50_has_its_published_number_of_parameters() -> None:
    resnext_50 = 25_028_904  # 32x4d
    options: Options = {"groups": 32, "reduction": 16, "min_hidden": 32, "n_branches": 2, "bias": False}
    count = ATTENTIONS["sk"].n_parameters
    assert count is not None

    added = [
        n_blocks * (count(width, options, Context()) - (9 * width * width // 32 + 2 * width))
        for width, n_blocks in [(128, 3), (256, 4), (512, 6), (1024, 3)]
    ]

    assert round((resnext_50 + sum(added)) / 1e6, 1) == 27.5


@each_deform
def test_a_deformable_convolution_starts_as_the_convolution_that_it_replaces(options: dict[str, Any]) -> None:
    for replaced, size in product(REPLACED, [(1, 1), (2, 3), (7, 6)]):
        conv = conv_like(replaced)
        module = deform_in_place_of(conv, replaced, options)
        x = images(2, replaced.in_channels, *size)

        torch.testing.assert_close(module(x), conv(x), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(moved(module)(x), conv(x), atol=1e-3) or size == (1, 1)


@each_deform
def test_what_is_taken_over_stays_where_it_is_and_is_trained_there(options: dict[str, Any]) -> None:
    conv = conv_like(PLAIN)
    weight = conv.weight
    module = deform_in_place_of(conv, PLAIN, options)

    module(images(2, 8, 5, 5)).sum().backward()

    assert conv.weight is weight
    assert weight.grad is not None
    assert weight.grad.any()
    assert conv.bias is not None
    assert conv.bias.grad is not None
    assert {name.partition(".")[0] for name in module.state_dict()} == {"offset"}


def test_weights_can_be_copied_instead_of_taken_over() -> None:
    conv, module, x = conv_like(PLAIN), Deform(8), images(2, 8, 5, 4)

    module.load_state_dict(conv.state_dict(), strict=False)

    assert list(module.state_dict()) == ["weight", "bias", "offset.weight", "offset.bias"]
    torch.testing.assert_close(module(x), conv(x), rtol=1e-4, atol=1e-5)


def test_copies_take_what_was_taken_over_along() -> None:
    conv = conv_like(PLAIN)
    net = nn.ModuleList([conv, moved(deform_in_place_of(conv, PLAIN, {}))])
    x = images(1, 8, 4, 4)
    expected = net[1](x)

    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(copied[1](x), expected)
        nn.init.zeros_(next(copied[0].parameters()))
        assert not torch.equal(copied[1](x), expected)
    assert torch.equal(net[1](x), expected)


@pytest.mark.parametrize("other", [Convolution(8, 8, bias=False), Convolution(8, 8, groups=2), Convolution(4, 8)])
def test_another_convolution_is_not_taken_over(other: Convolution) -> None:
    with pytest.raises(
        SpaceError, match=r"like the one that it was built for, with weight and bias of shape \(\(8, 8, 3, 3\)"
    ):
        Deform(8).take_over(conv_like(other))


def test_offsets_move_every_tap_by_rows_then_columns() -> None:
    x = images(1, 8, 9, 9)
    module = Deform(8)
    assert module.offset.bias is not None
    with torch.no_grad():
        module.offset.bias.copy_(torch.tensor([1.0, -2.0]).repeat(9))

    shifted = functional.conv2d(x.roll((-1, 2), (2, 3)), module.weight, module.bias, padding=1)

    torch.testing.assert_close(module(x)[..., 1:-2, 3:-1], shifted[..., 1:-2, 3:-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_masks_weigh_the_taps_from_none_to_twice(groups: int) -> None:
    module = Deform(8, modulated=True, groups=groups)
    conv = nn.Conv2d(8, 8, 3, padding=1)
    module.take_over(conv)
    assert module.offset.bias is not None
    masks = module.offset.bias[18 * groups :]
    x = images(2, 8, 4, 5)
    assert conv.bias is not None
    bare = conv(x) - conv.bias[:, None, None]

    for logit, factor in [(-100.0, 0.0), (0.0, 1.0), (100.0, 2.0)]:
        with torch.no_grad():
            masks.fill_(logit)
        torch.testing.assert_close(module(x), factor * bare + conv.bias[:, None, None], rtol=1e-4, atol=1e-5)


def test_channels_are_resampled_each_by_its_own_rows_and_columns() -> None:
    x = images(2, 2, 5, 7)
    offsets = torch.zeros(2, 4, 5, 7)
    offsets[:, 1] = 1.0  # channel 0: one column on
    offsets[:, 2] = -0.5  # channel 1: half a row back

    output = resample(x, offsets)

    torch.testing.assert_close(output[:, 0], torch.cat([x[:, 0, :, 1:], x[:, 0, :, -1:]], 2))
    before = torch.cat([x[:, 1, :1], x[:, 1, :-1]], 1)
    torch.testing.assert_close(output[:, 1], (x[:, 1] + before) / 2)


def test_resampling_is_the_bilinear_formula_clamped_to_the_border_of_a_rectangular_map() -> None:
    height, width = 4, 9
    x, offsets = images(2, 3, height, width), 3 * images(2, 6, height, width, seed=1)
    expected = torch.empty_like(x)
    for n, c, i, j in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        row = (i + offsets[n, 2 * c, i, j]).clamp(0, height - 1)
        column = (j + offsets[n, 2 * c + 1, i, j]).clamp(0, width - 1)
        top, left = int(row), int(column)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        down, along = row - top, column - left
        above = x[n, c, top, left] * (1 - along) + x[n, c, top, right] * along
        below = x[n, c, bottom, left] * (1 - along) + x[n, c, bottom, right] * along
        expected[n, c, i, j] = above * (1 - down) + below * down

    torch.testing.assert_close(resample(x, offsets), expected, rtol=1e-4, atol=1e-5)


@each_deform
def test_a_fresh_deformable_convolution_learns_its_offsets(options: dict[str, Any]) -> None:
    module = Deform(8, **options)

    module(images(2, 8, 5, 5)).square().sum().backward()

    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


@each_deform
def test_positions_are_exact_in_half_precision_and_under_autocast(options: dict[str, Any]) -> None:
    module = moved(Deform(8, **options))
    x = images(2, 8, 9, 9)
    expected = module(x)

    with torch.autocast("cpu", torch.bfloat16):
        cast = module(x)
    half = module.bfloat16()(x.bfloat16())

    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(cast.float(), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.05)


@each_deform
def test_counting_gives_the_closed_forms(options: dict[str, Any]) -> None:
    entry = ATTENTIONS["deform"]
    assert entry.n_macs is not None
    assert entry.n_parameters is not None
    complete = {option.name: option.default for option in entry.options} | options
    for replaced in REPLACED:
        context = Context(replaced=replaced)
        with torch.device("meta"):
            module = Deform(replaced.out_channels, context=context, **options)
            x = torch.empty(1, replaced.in_channels, 5, 8)

        with FlopCounterMode(display=False) as counter:
            module(x)

        assert counter.get_total_flops() == 2 * entry.n_macs(replaced.out_channels, 5, 8, complete, context), replaced
        n_parameters = sum(parameter.numel() for parameter in module.parameters())
        assert n_parameters == entry.n_parameters(replaced.out_channels, complete, context), replaced


@pytest.mark.parametrize(("modulated", "added"), [(False, 162 * 64 + 18), (True, 243 * 64 + 27)])
def test_offsets_add_the_published_number_of_parameters(modulated: bool, added: int) -> None:
    module = Deform(64, modulated=modulated)

    assert sum(parameter.numel() for parameter in module.parameters()) == 9 * 64 * 64 + 64 + added


def test_the_formula_for_counting_may_be_registered_again() -> None:
    spec = importlib.util.spec_from_file_location("again", kernel.__file__)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))

    with FlopCounterMode(display=False) as counter:
        Deform(8)(images(1, 8, 4, 4))
    assert counter.get_total_flops() == 2 * (72 * 8 + 72 * 18) * 16


@pytest.mark.parametrize(
    "options", [DEFORMS[0], DEFORMS[-1], *[pytest.param(o, marks=pytest.mark.nightly) for o in DEFORMS[1:-1]]], ids=str
)
def test_it_compiles_and_exports_with_its_operator(options: dict[str, Any]) -> None:
    module, x = moved(Deform(8, **options)).eval(), images(2, 8, 6, 5)

    compiled = torch.compile(module, fullgraph=True, backend="eager")
    exported = torch.export.export(module, (x,)).module()

    torch.testing.assert_close(compiled(x), module(x))
    torch.testing.assert_close(exported(x), module(x))


@each_deform
def test_channels_last_stays_channels_last(options: dict[str, Any]) -> None:
    module, x = moved(Deform(8, **options)), images(2, 8, 6, 5)

    output = module(x.to(memory_format=torch.channels_last))

    assert output.is_contiguous(memory_format=torch.channels_last)
    assert module(x).is_contiguous()
    torch.testing.assert_close(output, module(x), rtol=1e-4, atol=1e-5)


def test_groups_that_do_not_divide_are_refused_with_the_nearest() -> None:
    with pytest.raises(SpaceError, match=r"groups must divide the input channels, .* groups=2 or 4"):
        Deform(8, groups=3)
    with pytest.raises(SpaceError, match="groups must divide the channels, but got groups=32, channels=48 in and 48"):
        SK(48)


@pytest.mark.parametrize("modulated", [False, True])
def test_offsets_that_are_no_numbers_give_no_number_there_and_end_nothing(modulated: bool) -> None:
    module = Deform(4, modulated=modulated).eval()
    x = images(2, 4, 6, 6)
    expected = module(x)
    x[0, 0, 0, 0] = torch.nan  # which the offsets of the four pixels around it read
    given = module(x)
    assert given[0, :, :2, :2].isnan().all()
    assert torch.equal(given[1], expected[1])
    assert torch.equal(given[0, :, 3:, 3:], expected[0, :, 3:, 3:])
