"""Pixels that look at each other: gc, non_local, self_attention over the map and in windows, attention_pool."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from attention_cases import images, kept_bytes
from conftest import at_night
from torch import Tensor, nn

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.entry import Context
from nas_attn.attention.forms.pairwise import window_blocks
from nas_attn.attention.pairwise import GC, NonLocal
from nas_attn.attention.self_attention import AttentionPool, SelfAttention
from nas_attn.errors import SpaceError
from nas_attn.macs import counted_macs
from nas_attn.testing.cases import randomised

SCORES = ("dot", "general", "concat")
MAPS = [(1, 1), (1, 9), (2, 3), (5, 7), (14, 14), (23, 12), (31, 1), (17, 25)]


def heads_of(pixels: Tensor, heads: int) -> Tensor:
    return pixels.unflatten(-1, (heads, -1)).transpose(1, 2)  # (N, P, C) -> (N, heads, P, d)


def scores_of(module: Any, query: Tensor, key: Tensor) -> Tensor:
    """The formula of each score, written out."""
    kind, d = type(module.score).__name__, query.shape[-1]
    if kind == "Dot":
        return torch.einsum("nhqd,nhkd->nhqk", query, key) / d**0.5
    if kind == "General":
        return torch.einsum("nhqd,hde,nhke->nhqk", query, module.score.weight, key) / d**0.5
    pairs = torch.tanh(query[:, :, :, None] + key[:, :, None])
    return torch.einsum("nhqkd,hd->nhqk", pairs, module.score.weight)


def plain_self_attention(module: Any, x: Tensor, window: int | None = None) -> Tensor:
    """Attention of every pixel to every pixel, with a mask of all pairs for a window."""
    (height, width), heads = x.shape[2:], module.heads
    pixels = x.flatten(2).transpose(1, 2)
    query, key, value = (heads_of(part(pixels), heads) for part in (module.query, module.key, module.value))
    scores = scores_of(module, query, key)
    if window is not None:
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        far = [(axis.flatten()[:, None] - axis.flatten()).abs() > window // 2 for axis in (rows, columns)]
        scores = scores.masked_fill(far[0] | far[1], -torch.inf)
    mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    y: Tensor = module.out(mixed).transpose(1, 2).reshape(x.shape)
    return x + y if module.residual else y


def test_the_state_dict_follows_the_data() -> None:
    def parts(module: nn.Module) -> list[str]:
        return list(dict.fromkeys(key.split(".")[0] for key in module.state_dict()))

    assert parts(GC(16)) == ["score", "reduce", "norm", "expand"]
    assert parts(NonLocal(16)) == ["theta", "phi", "g", "out", "norm"]
    assert parts(SelfAttention(16)) == ["query", "key", "value", "out"]
    for module in (SelfAttention(16, score="general"), AttentionPool(16, score="concat")):
        assert parts(module) == ["query", "key", "score", "value", "out"]


def test_a_projection_takes_the_weights_of_a_1x1_convolution() -> None:
    module, x = randomised(NonLocal(16)).eval(), images(2, 16, 5, 3)
    conv = nn.Conv2d(16, 8, 1)
    conv.weight.data.copy_(module.theta.weight.reshape(8, 16, 1, 1))
    conv.bias.data.copy_(module.theta.bias)
    torch.testing.assert_close(module.theta(x.movedim(1, 3)), conv(x).movedim(1, 3))


def test_they_start_as_the_identity_and_do_not_stay_so() -> None:
    x = images(2, 16, 9, 4)
    for module in (
        GC(16, reduction=4),
        NonLocal(16),
        NonLocal(16, scale=True, subsample=True),
        *[SelfAttention(16, score=score, window=window) for score in SCORES for window in (None, 3)],
    ):
        assert torch.equal(module.train()(x), x)
        assert torch.equal(module.eval()(x), x)
        assert not torch.allclose(randomised(module)(x), x)


@pytest.mark.parametrize("score", SCORES)
def test_attention_pool_starts_as_global_average_pooling(score: str) -> None:
    x, module = images(2, 16, 5, 7), AttentionPool(16, score=score)
    assert torch.equal(module(x), x.mean((2, 3), keepdim=True))
    assert not torch.allclose(randomised(module)(x), x.mean((2, 3), keepdim=True))


def test_self_attention_without_the_residual_starts_as_torch_has_it() -> None:
    torch.manual_seed(0)
    module = SelfAttention(16, residual=False)
    torch.manual_seed(0)
    expected = [nn.Linear(16, 16) for _ in range(4)][3]
    assert torch.equal(module.out.weight, expected.weight)
    assert torch.equal(module.out.bias, expected.bias)


def test_gc_starts_its_scores_as_the_authors_do() -> None:
    torch.manual_seed(0)
    module = GC(512)
    assert not module.score.get_parameter("bias").any()
    assert abs(float(module.score.weight.detach().std()) - (2 / 512) ** 0.5) < 0.01


def test_general_starts_as_dot_and_learns_to_differ() -> None:
    x = images(2, 16, 5, 4)
    dot, general = SelfAttention(16, residual=False), SelfAttention(16, score="general", residual=False)
    general.load_state_dict(dot.state_dict(), strict=False)
    torch.testing.assert_close(general(x), dot(x))
    assert not torch.allclose(randomised(general)(x), dot(x))


@pytest.mark.parametrize("score", SCORES)
def test_self_attention_computes_its_formula(score: str) -> None:
    for residual, size in product([True, False], MAPS[:5]):
        module = randomised(SelfAttention(16, score=score, residual=residual))
        x = images(2, 16, *size)
        torch.testing.assert_close(module(x), plain_self_attention(module, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("score", SCORES)
def test_a_window_is_full_attention_with_a_mask(score: str) -> None:
    for window, size in product([3, 5, 7, 21], MAPS):
        module = randomised(SelfAttention(8, heads=2, score=score, window=window)).double()
        x = images(2, 8, *size).double().requires_grad_()
        got, expected = module(x), plain_self_attention(module, x, window)
        torch.testing.assert_close(got, expected)
        weights = torch.randn_like(got)
        leaves = [x, *module.parameters()]
        grads = [torch.autograd.grad((y * weights).sum(), leaves) for y in (got, expected)]
        torch.testing.assert_close(*grads)


def test_a_window_over_the_whole_map_is_full_attention() -> None:
    full, windowed = randomised(SelfAttention(16)), randomised(SelfAttention(16, window=13))
    for size in [(7, 7), (3, 7), (1, 2), (1, 1)]:
        x = images(2, 16, *size)
        assert torch.equal(windowed(x), full(x))


@pytest.mark.parametrize("score", SCORES)
def test_a_pixel_outside_the_window_has_no_influence_and_each_one_inside_has(score: str) -> None:
    module = randomised(SelfAttention(8, heads=2, score=score, window=5))
    for row, column in [(0, 0), (7, 8), (8, 15), (19, 24)]:  # corners, and both sides of a block's border
        x = images(1, 8, 20, 25).requires_grad_()
        module(x)[0, :, row, column].sum().backward()
        assert x.grad is not None
        seen = x.grad[0].abs().sum(0) > 0
        expected = torch.zeros(20, 25, dtype=torch.bool)
        expected[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = True
        assert torch.equal(seen, expected)


def test_memory_is_linear_in_the_map_for_a_window() -> None:
    module = SelfAttention(8, heads=2, window=3)
    small, middle, large = (kept_bytes(module, images(1, 8, size, size)) for size in (16, 32, 64))
    assert middle == 4 * small
    assert large == 16 * small


def test_memory_of_the_full_map_is_linear_but_for_concat() -> None:
    for score, power in [("dot", 1), ("general", 1), ("concat", 2)]:
        module = SelfAttention(8, heads=2, score=score)
        small, large = (kept_bytes(module, images(1, 8, size, size)) for size in (8, 16))
        assert large <= 4.2**power * small
        assert large >= 3.5**power * small


@pytest.mark.parametrize("score", SCORES)
def test_heads_act_on_their_own_channels(score: str) -> None:
    module = randomised(SelfAttention(8, heads=2, score=score, residual=False))
    module.out = nn.Identity()
    x = images(2, 8, 4, 5)
    before = module(x)
    for layer in (module.query, module.key, module.value):
        layer.weight.data[:4] += 1.0
    after = module(x)
    assert not torch.allclose(after[:, :4], before[:, :4])
    torch.testing.assert_close(after[:, 4:], before[:, 4:])


@pytest.mark.parametrize("score", SCORES)
def test_attention_pool_computes_its_formula(score: str) -> None:
    module, x = randomised(AttentionPool(16, heads=2, score=score)), images(2, 16, 5, 7)
    pixels, mean = x.flatten(2).transpose(1, 2), x.mean((2, 3))[:, None]
    query, key, value = (
        heads_of(layer(part), 2) for layer, part in [(module.query, mean), (module.key, pixels), (module.value, pixels)]
    )
    mixed = (scores_of(module, query, key).softmax(-1) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module(x), (mean + module.out(mixed)).transpose(1, 2)[..., None])


def test_pooling_does_not_depend_on_where_pixels_are() -> None:
    module, x = randomised(AttentionPool(16)), images(2, 16, 5, 7)
    shuffled = x.flatten(2)[:, :, torch.randperm(35)].view_as(x)
    torch.testing.assert_close(module(shuffled), module(x))


@pytest.mark.parametrize("make", [SelfAttention, AttentionPool])
def test_scores_differ(make: type[nn.Module]) -> None:
    x = images(2, 16, 5, 4)
    dot, general, concat = (randomised(make(16, score=score))(x) for score in SCORES)
    assert not torch.allclose(dot, general)
    assert not torch.allclose(dot, concat)
    assert not torch.allclose(general, concat)


def test_subsampling_ignores_what_the_pooling_cuts_off() -> None:
    module = randomised(NonLocal(8, subsample=True)).eval()
    x = images(1, 8, 5, 4)
    changed = x.clone()
    changed[:, :, 4] += 1.0  # the odd last row asks, and is no key
    torch.testing.assert_close(module(changed)[:, :, :4], module(x)[:, :, :4])


def test_scaled_likeness_is_divided_by_the_root_of_the_hidden_width() -> None:
    plain, scaled = randomised(NonLocal(8)).eval(), randomised(NonLocal(8, scale=True)).eval()
    plain.theta.weight.data /= 4**0.5
    plain.theta.bias.data /= 4**0.5
    x = images(2, 8, 5, 4)
    torch.testing.assert_close(scaled(x), plain(x))


@pytest.mark.parametrize("score", SCORES)
def test_multiply_adds_are_those_that_are_counted(score: str) -> None:
    n_macs = ATTENTIONS["self_attention"].n_macs
    assert n_macs is not None
    for device, window in [("cpu", None), ("cpu", 3), ("meta", None), ("meta", 3), ("meta", 9), ("meta", 21)]:
        options = {"heads": 2, "score": score, "window": window, "residual": True}
        with torch.device(device):
            module = SelfAttention(8, **options)
        for height, width in MAPS:
            x = torch.empty(1, 8, height, width, device=device)
            counted = counted_macs(lambda module=module, x=x: module(x))
            assert counted == n_macs(8, height, width, options, Context()), (device, window, height, width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_masked_attention_is_counted_in_every_type(dtype: torch.dtype) -> None:
    for name, module in [("self_attention", SelfAttention(8, window=3)), ("attention_pool", AttentionPool(8))]:
        entry = ATTENTIONS[name]
        assert entry.n_macs is not None
        options = {option.name: option.default for option in entry.options} | {"window": 3}
        x, module = images(1, 8, 20, 18).to(dtype), module.to(dtype)
        assert counted_macs(lambda x=x, module=module: module(x)) == entry.n_macs(8, 20, 18, options, Context())


def test_a_window_costs_a_like_number_of_multiply_adds_a_pixel_on_every_large_map() -> None:
    n_macs = ATTENTIONS["self_attention"].n_macs
    assert n_macs is not None
    options = {"heads": 2, "score": "dot", "window": 7, "residual": True}
    per_pixel = [n_macs(8, size, size, options, Context()) / size**2 for size in (32, 64, 128)]
    assert per_pixel[0] == per_pixel[1] == per_pixel[2]


@pytest.mark.parametrize("window", [3, 7, 15, 63])
def test_blocks_cover_every_axis_and_every_window(window: int) -> None:
    for size in range(1, 150):
        n_blocks, block, region = window_blocks(size, window)
        assert n_blocks * block >= size > (n_blocks - 1) * block
        assert region <= size
        assert region == size or region == block + window - 1


def test_published_counts_come_out() -> None:
    channels, hidden = 64, 32

    def n_parameters(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert n_parameters(NonLocal(channels)) == 4 * channels * hidden + 3 * hidden + 3 * channels == 8480
    assert n_parameters(GC(channels)) == 2 * channels * 4 + 3 * 4 + 2 * channels + 1 == 653
    assert n_parameters(SelfAttention(channels)) == n_parameters(nn.MultiheadAttention(channels, 4)) == 16640
    assert n_parameters(AttentionPool(channels)) == 16640


def test_self_attention_is_torch_s_own_on_the_same_weights() -> None:
    module, theirs = randomised(SelfAttention(16, residual=False)), nn.MultiheadAttention(16, 4, batch_first=True)
    parts = (module.query, module.key, module.value)
    theirs.in_proj_weight.data.copy_(torch.cat([part.weight for part in parts]))
    theirs.in_proj_bias.data.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(module.out.state_dict())
    x = images(2, 16, 5, 4)
    pixels = x.flatten(2).transpose(1, 2)
    torch.testing.assert_close(module(x).flatten(2).transpose(1, 2), theirs(pixels, pixels, pixels)[0])


@pytest.mark.parametrize("score", at_night(SCORES, but=("dot",)))
def test_a_window_compiles_whole_and_exports_for_any_batch(score: str) -> None:
    module, x = randomised(SelfAttention(8, heads=2, score=score, window=3)), images(3, 8, 13, 17)
    program = torch.export.export(module, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    torch.testing.assert_close(program.module()(x), module(x))
    try:
        torch.testing.assert_close(torch.compile(module, backend="eager", fullgraph=True)(x), module(x))
    finally:
        torch.compiler.reset()


def test_heads_that_do_not_divide_the_channels_are_refused() -> None:
    for make in (SelfAttention, AttentionPool):
        with pytest.raises(SpaceError, match="heads must divide the channels, but got heads=4, channels=6"):
            make(6)
    with pytest.raises(SpaceError, match="Option 'window' of 'self_attention' must be an odd number"):
        SelfAttention(8, window=4)
