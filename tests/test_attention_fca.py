"""FcaNet's attention: its cosine transform, its frequencies, and maps of other sizes."""

from __future__ import annotations

import math

import pytest
import torch
from attention_cases import images
from torch.nn import functional

from nas_attn.attention.channel import SE
from nas_attn.attention.entry import Context
from nas_attn.attention.fca import FCA, waves
from nas_attn.attention.forms.frequency import FREQUENCIES


def test_the_frequencies_are_pairs_of_a_map_of_7_and_no_name_repeats_another() -> None:
    assert len(FREQUENCIES) == 16
    assert len(set(FREQUENCIES.values())) == 16
    for name, pairs in FREQUENCIES.items():
        assert len(set(pairs)) == len(pairs) == int(name[3:])
        assert all(0 <= row < 7 and 0 <= column < 7 for row, column in pairs)
    assert FREQUENCIES["top16"][:4] == ((0, 0), (0, 1), (6, 0), (0, 5))
    low, top = (sum(map(sum, FREQUENCIES[name])) for name in ("low32", "top32"))
    assert low < top


def test_the_waves_of_an_axis_are_orthonormal_and_frequency_0_is_its_scaled_mean() -> None:
    rows = waves(list(range(7)), 7)
    torch.testing.assert_close(rows @ rows.T, torch.eye(7, dtype=torch.float64))
    torch.testing.assert_close(rows[0], torch.full((7,), 7**-0.5, dtype=torch.float64))


def test_a_larger_map_has_its_frequencies_in_multiples() -> None:
    for size, factor in ((7, 1), (13, 1), (14, 2), (30, 4)):
        position = torch.arange(size, dtype=torch.float64) + 0.5
        expected = torch.cos(math.pi * 3 * factor * position / size) * math.sqrt(2 / size)
        torch.testing.assert_close(waves([3], size)[0], expected)


def test_consecutive_channels_share_a_frequency_of_a_rectangular_map() -> None:
    module, x = FCA(16, frequencies="top4", context=Context(height=9, width=14)), images(2, 16, 9, 14)
    rows, columns = torch.arange(9) + 0.5, torch.arange(14) + 0.5
    spectrum = []
    for channel in range(16):
        row, column = FREQUENCIES["top4"][channel // 4]
        wave = torch.cos(math.pi * row * rows / 9)[:, None] * torch.cos(math.pi * 2 * column * columns / 14)
        scale = math.sqrt((1 + (row > 0)) * (1 + (column > 0)) / (9 * 14))
        spectrum.append((x[:, channel] * wave * scale).sum((1, 2)))
    expected = torch.sigmoid(module.bottleneck(torch.stack(spectrum, 1)))
    torch.testing.assert_close(module.gate(x), expected)


def test_frequency_0_alone_is_se_over_scaled_means() -> None:
    module, x = FCA(16, reduction=4, frequencies="top1", context=Context(height=8, width=8)), images(2, 16, 8, 8)
    plain = SE(16, reduction=4, bias=False)
    plain.load_state_dict(module.state_dict())
    plain.bottleneck.reduce.weight.data *= 8  # sqrt(8 * 8)
    torch.testing.assert_close(module(x), plain(x))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 5), (6, 9)])
def test_a_map_below_7x7_is_enlarged_by_the_authors_average(size: tuple[int, int]) -> None:
    height, width = size
    module, x = FCA(16, context=Context(height=height, width=width)), images(2, 16, height, width)
    enlarged = functional.adaptive_avg_pool2d(x, (max(height, 7), max(width, 7)))
    larger = FCA(16, context=Context(height=max(height, 7), width=max(width, 7)))
    larger.load_state_dict(module.state_dict())
    torch.testing.assert_close(module.gate(x), larger.gate(enlarged))


def test_a_map_of_another_size_is_averaged_to_that_of_the_context_or_to_7x7() -> None:
    module, x = FCA(16), images(2, 16, 10, 14)
    torch.testing.assert_close(module.gate(x), module.gate(functional.adaptive_avg_pool2d(x, 7)))


def test_the_transform_is_no_entry_of_the_state_dict_but_moves_with_the_module() -> None:
    module = FCA(16).double()
    assert list(module.state_dict()) == ["bottleneck.reduce.weight", "bottleneck.expand.weight"]
    assert module.transform.dtype == torch.float64


def test_fca_behind_every_block_of_resnet50_costs_what_its_paper_says() -> None:
    blocks = {256: 3, 512: 4, 1024: 6, 2048: 3}
    added = sum(n * sum(p.numel() for p in FCA(channels).parameters()) for channels, n in blocks.items())
    assert round((25_557_032 + added) / 1e6, 2) == 28.07
