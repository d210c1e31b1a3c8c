"""The shared steps: their gradients, and the memory that they keep; GCT, triplet and coord, which use them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_cases import kept_bytes
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from nas_attn.attention import fused
from nas_attn.attention.create import create_attention

LAYOUTS = [torch.contiguous_format, torch.channels_last]
N, C, H, W = 2, 3, 4, 5
BY_CHANNEL, BY_PIXEL, BY_ROW, BY_COLUMN = (N, C, 1, 1), (N, 1, H, W), (N, C, H, 1), (N, C, 1, W)
BOTTLENECK = [(2, C), (2,), (C, 2), (C,)]
STEPS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "pool": (lambda x: fused.pool(x, fused.CHANNELS, fused.ROWS, fused.COLUMNS, fused.PIXELS), []),
    "scale by one gate": (fused.scale, [BY_PIXEL]),
    "scale by three gates": (fused.scale, [BY_CHANNEL, BY_ROW, BY_COLUMN]),
    "scale again": (lambda x, a, b: fused.scale_again(fused.scale(x, a), b, x, a), [BY_CHANNEL, BY_PIXEL]),
    "scale by sum": (fused.scale_by_sum, [BY_COLUMN, BY_ROW, BY_PIXEL]),
    "scale by bottleneck": (lambda x, *layers: fused.scale_by_bottleneck(x, layers, sigmoid=False), BOTTLENECK),
    "scale by gated bottleneck": (lambda x, *layers: fused.scale_by_bottleneck(x, layers, sigmoid=True), BOTTLENECK),
    "norm over pixels": (lambda x: fused.norm_over_pixels(x, 1e-5), []),
    "sum over": (lambda x: fused.sum_over(x, fused.ROWS), []),
    "sum over what does not lie together": (lambda x: fused.sum_over(x, (0, 2, 3)), []),
}


def make_map(memory_format: torch.memory_format, *shape: int) -> Tensor:
    return torch.randn(*(shape or (N, C, H, W)), dtype=torch.double).contiguous(memory_format=memory_format)


@pytest.mark.parametrize("name", STEPS)
def test_gradients_of_a_step_are_those_of_what_it_computes(name: str) -> None:
    torch.manual_seed(0)
    step, shapes = STEPS[name]
    for memory_format in LAYOUTS:
        x = make_map(memory_format).requires_grad_()
        others = [torch.randn(shape, dtype=torch.double).requires_grad_() for shape in shapes]
        assert gradcheck(step, (x, *others)), memory_format


@pytest.mark.parametrize("dims", [fused.CHANNELS, fused.ROWS, fused.COLUMNS, fused.PIXELS])
def test_pools_are_maxima_and_means_in_either_order_in_memory(dims: fused.Dims) -> None:
    for memory_format in LAYOUTS:
        x = make_map(memory_format)
        same, maximum, mean = fused.pool(x, dims)
        assert torch.equal(same, x)
        assert torch.equal(maximum, x.amax(dims, keepdim=True))
        torch.testing.assert_close(mean, x.mean(dims, keepdim=True))
        torch.testing.assert_close(fused.sum_over(x, dims), x.sum(dims, keepdim=True))


def test_the_first_of_equal_maxima_gets_the_gradient() -> None:
    x = torch.zeros(1, 2, 2, 2, requires_grad=True)
    _, maximum, _ = fused.pool(x, fused.PIXELS)
    maximum.sum().backward()
    assert x.grad is not None
    assert x.grad.flatten(1).tolist() == [[1, 0, 0, 0, 1, 0, 0, 0]]


def test_a_step_gives_the_same_without_gradients_and_on_a_transposed_map() -> None:
    torch.manual_seed(0)
    for step, shapes in STEPS.values():
        x, others = make_map(torch.contiguous_format), [torch.randn(shape, dtype=torch.double) for shape in shapes]
        expected = step(x.clone().requires_grad_(), *others)
        with torch.no_grad():
            torch.testing.assert_close(step(x, *others), expected)
        turned = x.transpose(2, 3).contiguous().transpose(2, 3)
        torch.testing.assert_close(step(turned, *others), expected)


@pytest.mark.parametrize("name", STEPS)
def test_second_derivatives_of_a_step_are_those_of_what_it_computes(name: str) -> None:
    torch.manual_seed(0)
    step, shapes = STEPS[name]
    for memory_format in LAYOUTS:
        x = make_map(memory_format).requires_grad_()
        others = [torch.randn(shape, dtype=torch.double).requires_grad_() for shape in shapes]
        assert gradgradcheck(step, (x, *others)), memory_format


def test_a_gate_made_from_the_map_is_not_counted_twice_in_a_second_derivative() -> None:
    torch.manual_seed(0)
    x = make_map(torch.contiguous_format).requires_grad_()
    layers = [torch.randn(shape, dtype=torch.double) for shape in BOTTLENECK]

    def step(x: Tensor) -> Tensor:
        return fused.scale_by_bottleneck(fused.scale(x, x.mean((2, 3), keepdim=True)), layers, sigmoid=True)

    assert gradgradcheck(step, (x,))


@pytest.mark.parametrize(
    ("name", "options", "most"),
    [
        ("cbam", {}, 1.2),
        ("cbam", {"order": "spatial_first"}, 1.2),
        ("cbam", {"order": "parallel"}, 1.2),
        ("triplet", {}, 1.8),
        ("gct", {}, 1.05),
        ("coord", {}, 1.4),
        ("gam", {}, 4.2),
    ],
)
def test_an_attention_keeps_few_maps_for_the_backward_pass(name: str, options: dict[str, Any], most: float) -> None:
    for memory_format in LAYOUTS:
        x = torch.randn(2, 64, 28, 28).contiguous(memory_format=memory_format).requires_grad_()
        kept = kept_bytes(create_attention(name, 64, **options), x)
        assert kept <= most * x.untyped_storage().nbytes(), memory_format


@pytest.mark.parametrize("name", ["cbam", "gam", "triplet", "gct", "coord"])
def test_an_attention_trains_under_autocast_on_maps_of_either_type(name: str) -> None:
    torch.manual_seed(0)
    module = create_attention(name, 16)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.randn(2, 16, 6, 7, dtype=dtype)
        exact, rounded = x.float().clone().requires_grad_(), x.clone().requires_grad_()
        expected = module(exact)
        with torch.autocast("cpu", torch.bfloat16):
            found = module(rounded)
        torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)
        expected.sum().backward()
        found.float().sum().backward()
        assert exact.grad is not None
        assert rounded.grad is not None
        assert rounded.grad.dtype == dtype
        torch.testing.assert_close(rounded.grad.float(), exact.grad, rtol=0.2, atol=0.2)


def test_gct_starts_as_the_identity_and_shields_gamma_and_beta_from_weight_decay() -> None:
    x = torch.randn(2, 8, 3, 5)
    for mode in ("l2", "l1"):
        module = create_attention("gct", 8, mode=mode)
        assert torch.equal(module(x), x)
        assert [name for name, parameter in module.named_parameters() if parameter.ndim > 1] == ["alpha"]


def test_gct_by_magnitudes_follows_the_authors_formula() -> None:
    torch.manual_seed(0)
    module = create_attention("gct", 8, mode="l1", eps=0.1)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 8, 3, 5)
    alpha, gamma, beta = (parameter.view(1, 8, 1, 1) for parameter in module.parameters())
    size = x.abs().sum((2, 3), keepdim=True) * alpha
    expected = x * (1 + torch.tanh(size * gamma / (size.abs().mean(1, keepdim=True) + 0.1) + beta))
    torch.testing.assert_close(module(x), expected)


def test_triplet_without_the_spatial_plane_is_the_mean_of_two() -> None:
    torch.manual_seed(0)
    module = create_attention("triplet", 6, spatial=False, kernel_size=3).eval()
    x = torch.randn(2, 6, 4, 5)
    turned = []
    for gate, turn in zip(module.children(), [(0, 2, 1, 3), (0, 3, 2, 1)], strict=True):
        y = x.permute(turn)
        turned.append((y * gate(y.amax(1, keepdim=True), y.mean(1, keepdim=True))).permute(turn))
    torch.testing.assert_close(module(x), (turned[0] + turned[1]) / 2)


def test_the_size_of_triplet_does_not_depend_on_the_channels() -> None:
    sizes = {sum(p.numel() for p in create_attention("triplet", channels).parameters()) for channels in (1, 16, 64)}
    assert sizes == {300}


def test_coord_follows_the_authors_formula() -> None:
    torch.manual_seed(0)
    module = create_attention("coord", 16).eval()
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1)
    x = torch.randn(2, 16, 3, 5)
    reduce, norm, by_row, by_column = module.children()
    pooled = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)], 2)
    hidden = norm(reduce(pooled))
    hidden = hidden * functional.relu6(hidden + 3) / 6
    rows, columns = torch.split(hidden, [3, 5], 2)
    gates = torch.sigmoid(by_row(rows)) * torch.sigmoid(by_column(columns.permute(0, 1, 3, 2)))
    torch.testing.assert_close(module(x), x * gates)
