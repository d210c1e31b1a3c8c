"""What replaces a convolution or takes a map as it is: cot, split_attention, bot."""

from __future__ import annotations

import re

import pytest
import torch
from attention_cases import images
from torch import nn
from torch.nn import functional

from nas_attn import build_model
from nas_attn.attention.bot import BoT, distances
from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.cot import CoT, weighted_sum
from nas_attn.attention.entry import Context
from nas_attn.attention.options import resolve_options
from nas_attn.attention.split_attention import SplitAttention
from nas_attn.backbones.site_table import site_table
from nas_attn.errors import SpaceError
from nas_attn.placement import Attention, Convolution, Placement
from nas_attn.space.fit import placement_cost

NAMES = ("cot", "split_attention", "bot")
RESNET50 = 25_557_032
BLOCKS = {64: 3, 128: 4, 256: 6, 512: 3}  # the widths of ResNet-50's 3x3 convolutions, and how many there are


def n_parameters(name: str, channels: int, context: Context | None = None, **options: int) -> int:
    entry, context = ATTENTIONS[name], context or Context()
    assert entry.n_parameters is not None
    return entry.n_parameters(channels, resolve_options(entry, channels, options, context), context)


def test_cot_in_place_of_every_3x3_convolution_of_resnet50_is_cotnet50() -> None:
    kept = RESNET50 - sum(n * (9 * width**2 + 2 * width) for width, n in BLOCKS.items())
    assert round((kept + sum(n * n_parameters("cot", width) for width, n in BLOCKS.items())) / 1e6, 1) == 22.2


def test_bot_in_the_last_stage_of_resnet50_is_botnet50() -> None:
    """Its first block has a stride, so that the attention sees the map of the stage before."""
    sizes = (14, 7, 7)
    added = sum(n_parameters("bot", 512, Context(height=size, width=size)) for size in sizes)
    assert 20.8e6 <= RESNET50 - 3 * 9 * 512**2 + added < 20.9e6


@pytest.mark.parametrize(
    ("radix", "groups", "width", "published"),
    [(2, 1, 64, 27.5), (4, 1, 64, 31.9), (1, 2, 40, 25.9), (2, 2, 40, 26.9), (4, 2, 40, 30.4)],
)
def test_split_attention_in_every_block_is_the_published_resnest50(
    radix: int, groups: int, width: int, published: float
) -> None:
    total = 28_768 + 2048 * 1000 + 1000  # the deep stem of 32, 32 and 64 channels, and the classifier
    channels = 64
    for planes, n_blocks in BLOCKS.items():
        inner, out = planes * width // 64 * groups, 4 * planes
        total += channels * out + 2 * out  # the shortcut of the first block
        for _ in range(n_blocks):
            attended = n_parameters("split_attention", inner, radix=radix, groups=groups)
            total += channels * inner + 2 * inner + attended + inner * out + 2 * out
            channels = out
    assert round(total / 1e6, 1) == published


@pytest.mark.parametrize("size", [3, 5])
def test_a_kernel_of_its_own_weighs_the_neighbours_of_each_pixel(size: int) -> None:
    x, kernels = images(2, 12, 6, 5), images(2, 4 * size**2, 6, 5, seed=1)
    patches = functional.unfold(x, size, padding=size // 2).view(2, 12, size**2, 6, 5)
    of_each = kernels.view(2, 4, size**2, 6, 5).repeat(1, 3, 1, 1, 1)  # channel c has kernel c % 4
    torch.testing.assert_close(weighted_sum(x, kernels, 4, size), (patches * of_each).sum(2))


@pytest.mark.parametrize(("channels", "groups", "n_kernels"), [(32, 4, 4), (48, 4, 6), (6, 3, 1), (7, 1, 1), (1, 1, 1)])
def test_cot_shares_kernels_and_groups_as_the_channels_allow(channels: int, groups: int, n_kernels: int) -> None:
    module = CoT(channels)
    assert isinstance(module.key[0], nn.Conv2d)
    assert (module.key[0].groups, module.n_kernels) == (groups, n_kernels)
    assert module(images(2, channels, 7, 5)).shape == (2, channels, 7, 5)


def test_cot_is_one_context_or_the_other_where_its_bottleneck_says_so() -> None:
    module, x = CoT(8).eval(), images(2, 8, 6, 5)
    last = module.select[3]
    assert isinstance(last, nn.Conv2d)
    nn.init.zeros_(last.weight)
    dynamic, static = module.contexts(x)
    for sign, context in ((1.0, dynamic), (-1.0, static)):
        last.bias.data = torch.tensor([50.0, -50.0] * 8) * sign
        torch.testing.assert_close(module(x), context)
    last.bias.data.zero_()
    torch.testing.assert_close(module(x), (dynamic + static) / 2)


def test_a_strided_convolution_becomes_an_average_before_cot_and_behind_bot() -> None:
    strided = Convolution(8, 8, stride=2, bias=False)
    x = images(2, 8, 7, 5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cot = CoT(8, context=Context(replaced=strided)).eval()
        torch.manual_seed(0)
        plain = CoT(8).eval()
    torch.testing.assert_close(cot(x), plain(functional.avg_pool2d(x, 3, 2, 1)))
    bot = BoT(8, context=Context(height=7, width=5, replaced=strided))
    unpooled = BoT(8, context=Context(height=7, width=5))
    unpooled.load_state_dict(bot.state_dict())
    assert bot(x).shape == (2, 8, 4, 3)
    torch.testing.assert_close(bot(x)[:, :, :3, :2], functional.avg_pool2d(unpooled(x), 2))
    torch.testing.assert_close(bot(x)[:, :, 3, 2], unpooled(x)[:, :, 6, 4])


@pytest.mark.parametrize(("radix", "groups"), [(2, 1), (3, 2), (4, 3)])
def test_the_shares_of_the_splits_sum_to_one_and_mix_the_splits(radix: int, groups: int) -> None:
    module, x = SplitAttention(24, radix=radix, groups=groups).eval(), images(2, 24, 6, 5)
    splits = module.splits(x)
    shares = module.shares(splits)
    assert shares.shape == (2, radix, 24)
    assert shares.std() > 1e-3
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 24))
    mixed = (splits.view(2, radix, 24, 6, 5) * shares[..., None, None]).sum(1)
    torch.testing.assert_close(module(x), mixed)
    assert module.reduce.out_channels == {1: 32, 2: 32, 3: 33}[groups], "rounded up to a multiple of the groups"


def test_a_single_split_is_gated_by_a_sigmoid() -> None:
    module, x = SplitAttention(8, radix=1).eval(), images(2, 8, 6, 5)
    nn.init.zeros_(module.expand.weight)
    module.expand.bias.data = torch.tensor([-100.0] * 4 + [100.0] * 4)
    torch.testing.assert_close(module(x)[:, :4], torch.zeros(2, 4, 6, 5))
    torch.testing.assert_close(module(x)[:, 4:], module.splits(x)[:, 4:])


def test_the_groups_are_those_of_the_replaced_convolution() -> None:
    grouped = Context(replaced=Convolution(16, 16, groups=4))
    assert (SplitAttention(16, context=grouped).groups, SplitAttention(16).groups) == (4, 1)


def test_bot_attends_to_a_distance_when_only_one_has_a_score() -> None:
    module, x = BoT(4, heads=1, context=Context(height=5, width=4)), images(2, 4, 5, 4)
    nn.init.zeros_(module.key.weight)
    nn.init.eye_(module.value.weight)
    nn.init.zeros_(module.query.weight)
    module.query.weight.data[0, 0] = 1.0
    x[:, 0] = 1.0
    for table in (module.rows, module.columns):
        nn.init.zeros_(table)
    module.rows.data[4 + 1, 0] = 1000.0  # one row down
    module.columns.data[3 - 2, 0] = 1000.0  # two columns to the left
    torch.testing.assert_close(module(x)[:, :, :4, 2:], x[:, :, 1:, :2])


def test_the_way_from_one_position_to_another_is_the_table_in_steps() -> None:
    table = torch.arange(-3.0, 4.0)[:, None]
    steps = torch.arange(4.0)
    torch.testing.assert_close(distances(table, 4)[:, :, 0], steps - steps[:, None])


def test_bot_refuses_a_map_of_another_size() -> None:
    module = BoT(8, context=Context(height=7, width=5))
    with pytest.raises(SpaceError, match=r"'bot' needs maps of 7x5, for which .*, but got 5x7: build the network for"):
        module(images(1, 8, 5, 7))


def test_bot_starts_from_small_projections_and_positions_of_unit_length() -> None:
    module = BoT(64, context=Context(height=14, width=14))
    assert module.query.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert module.rows.std().item() == pytest.approx(16**-0.5, rel=0.15)
    assert abs(module.rows.mean().item()) < 0.05, "the deviation is not the mean"


@pytest.mark.parametrize(
    ("name", "replaced", "message"),
    [
        ("cot", Convolution(8, 16), r"it keeps the channels, but the convolution maps 8 to 16\.$"),
        ("cot", Convolution(16, 16, groups=16), r"the convolution that it would replace is depthwise\.$"),
        ("cot", Convolution(16, 16, dilation=2), r"next neighbours, but the convolution is dilated by 2\.$"),
        ("split_attention", Convolution(16, 16, relu=False), r"ends in a ReLU, but no ReLU is found after"),
        ("split_attention", Convolution(16, 16, groups=16), r"the one that it would replace is depthwise\.$"),
        ("split_attention", Convolution(12, 16, groups=4), r"radix=2, groups=4, .* that works: radix=1\.$"),
        ("bot", Convolution(16, 16, groups=16), r"the convolution that it would replace is depthwise\.$"),
    ],
)
def test_a_convolution_that_cannot_be_replaced_says_why(name: str, replaced: Convolution, message: str) -> None:
    entry = ATTENTIONS[name]
    context = Context(height=4, width=4, replaced=replaced)
    options = {option.name: option.default for option in entry.options}
    assert re.search(message, entry.fits(replaced.out_channels, options, context) or "it fits")


def test_without_the_size_of_the_map_bot_is_refused() -> None:
    with pytest.raises(
        SpaceError, match=r"'bot' does not fit 8 channels: its positions need the size of the map: pass"
    ):
        BoT(8)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_built_with_it_in_place_of_convolutions_and_behind_a_stage(name: str) -> None:
    spec, shape = {"name": "resnet50", "stem": "small"}, {"num_classes": 3, "in_channels": 1, "image_size": 9}
    table = site_table(spec, **shape)
    sites = [site for site in table.sites if site.kind == "conv" and site.stage in ("stage2", "stage3")]
    sites += [site for site in table.sites if site.kind == "output" and site.stage == "stage2"][-1:]
    placement = Placement({site.name: Attention(name, {}) for site in sites})

    model = build_model(spec, placement, **shape, seed=1)
    model(images(2, 1, 9, 9)).sum().backward()

    assert all(parameter.grad is not None for parameter in model.attention.parameters())
    plain = build_model(spec, Placement({}), **shape, seed=1)
    n_parameters = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in plain.parameters())
    assert n_parameters == placement_cost(table, placement).n_parameters - table.n_parameters


def test_the_gradients_of_the_weighted_sum_are_those_of_autograd() -> None:
    x, kernels = images(1, 4, 3, 2).double(), images(1, 18, 3, 2, seed=1).double()
    leaves = (x.requires_grad_(), kernels.requires_grad_())
    assert torch.autograd.gradcheck(lambda *maps: weighted_sum(*maps, 2, 3), leaves)
    assert torch.autograd.gradgradcheck(lambda *maps: weighted_sum(*maps, 2, 3), leaves)
