"""Options for study: structures that the sources reject or only mention, each by its formula; old keys stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_cases import CHANNELS, build, images
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.create import create_attention
from nas_attn.attention.options import resolve_options
from nas_attn.attention.self_attention import places
from nas_attn.cost import count_parameters

X = images(2, CHANNELS, 4, 5)


def attended(module: nn.Module, scores: Tensor, x: Tensor) -> Tensor:
    """Self-attention by its formula, from the scores (N, heads, pixels, pixels)."""
    pixels = x.flatten(2).transpose(1, 2)
    values = module.value(pixels).unflatten(2, (module.heads, -1)).transpose(1, 2)
    collected = (scores.softmax(3) @ values).transpose(1, 2).flatten(2)
    return x + module.out(collected).transpose(1, 2).unflatten(2, x.shape[2:])


def split(pixels: Tensor, heads: int) -> Tensor:
    return pixels.unflatten(-1, (heads, -1)).transpose(-3, -2)


def test_se_without_layers_gates_by_the_means_and_learns_nothing() -> None:
    module = create_attention("se", CHANNELS, layers=0)
    torch.testing.assert_close(module(X), X * X.mean((2, 3), keepdim=True))
    assert count_parameters(module) == 0
    assert resolve_options(ATTENTIONS["se"], CHANNELS, {"layers": 0, "reduction": 4}) == {"layers": 0}


def test_se_in_parallel_gates_the_branch_by_the_input_of_the_block() -> None:
    module, branch = build("se_parallel", reduction=4), images(2, CHANNELS, 4, 5, seed=1)
    mlp = module.bottleneck
    gate = mlp.expand(mlp.reduce(X.mean((2, 3))).relu()).sigmoid()
    torch.testing.assert_close(module(branch, X), branch * gate[:, :, None, None] + X)


@pytest.mark.parametrize("heads", [1, 4])
def test_the_scores_of_self_attention_follow_their_formulas(heads: int) -> None:
    pixels = X.flatten(2).transpose(1, 2)
    for score, scale in (("scaled_dot", (CHANNELS // heads) ** -0.5), ("dot", (CHANNELS // heads) ** -0.5),
                         ("unscaled_dot", 1.0)):  # fmt: skip
        module = build("self_attention", heads=heads, score=score)
        query, key = split(module.query(pixels), heads), split(module.key(pixels), heads)
        torch.testing.assert_close(module(X), attended(module, query @ key.mT * scale, X), rtol=1e-4, atol=1e-4)


def test_the_location_score_sees_the_place_of_a_key_and_not_the_key() -> None:
    module = build("self_attention", heads=2, score="location")
    width = CHANNELS // 2
    query = split(module.query(X.flatten(2).transpose(1, 2)), 2)
    scores = query @ places(4, 5, width, X).T / width**0.5
    torch.testing.assert_close(module(X), attended(module, scores, X), rtol=1e-4, atol=1e-4)
    assert module.key is None


def test_places_are_sines_of_the_row_and_of_the_column() -> None:
    found = places(3, 4, 8, X).view(3, 4, 8)
    for channel, wave in enumerate([torch.sin, torch.cos, torch.sin, torch.cos]):
        slowness = 10_000 ** (channel // 2 * 2 / 4)
        torch.testing.assert_close(found[:, 1, channel], wave(torch.arange(3) / slowness))
        torch.testing.assert_close(found[2, :, 4 + channel], wave(torch.arange(4) / slowness))


def test_a_position_encoding_tells_pixels_apart_and_only_then() -> None:
    turned = X.flatten(2)[:, :, torch.randperm(20)].view(X.shape)
    without, with_places = build("self_attention"), build("self_attention", position="sine")
    sums = [module(x).sum((2, 3)) for module in (without, with_places) for x in (X, turned)]
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-4, atol=1e-3)
    assert not torch.allclose(sums[2], sums[3], rtol=1e-3, atol=1e-2)


def test_gct_behind_a_relu_sums_the_map_as_it_is() -> None:
    plain, promised = build("gct", mode="l1"), build("gct", mode="l1", after_relu=True)
    torch.testing.assert_close(plain(X.relu()), promised(X.relu()))
    assert not torch.allclose(plain(X), promised(X))


def test_gam_with_pooled_channels_sees_their_maximum_and_mean() -> None:
    module = build("gam", reduction=4, branches="spatial", pooling="channels")
    spatial = module.spatial
    planes = torch.stack([X.amax(1), X.mean(1)], 1)
    gate = spatial.norm2(spatial.conv2(spatial.norm1(spatial.conv1(planes)).relu())).sigmoid()
    torch.testing.assert_close(module(X), X * gate)


def test_each_hard_sigmoid_is_that_of_its_library() -> None:
    logits = torch.linspace(-4, 4, 33)
    by_name = {gate: build("cbam", branches="channel", reduction=4, gate=gate) for gate in
               ("hard_sigmoid", "hard_sigmoid_keras2")}  # fmt: skip
    pooled = by_name["hard_sigmoid"].channel(X.amax((2, 3), keepdim=True), X.mean((2, 3), keepdim=True))
    torch.testing.assert_close(by_name["hard_sigmoid"](X), X * functional.hardsigmoid(pooled))
    torch.testing.assert_close(by_name["hard_sigmoid_keras2"](X), X * (0.2 * pooled + 0.5).clamp(0, 1))
    assert float((functional.hardsigmoid(logits) - (0.2 * logits + 0.5).clamp(0, 1)).abs().max()) > 0.05


@pytest.mark.parametrize(
    ("name", "options", "resolved"),
    [
        ("se", {}, {"reduction": 16, "bias": True}),
        ("gct", {"mode": "l1"}, {"mode": "l1", "eps": 1e-5}),
        ("self_attention", {"heads": 2}, {"heads": 2, "score": "dot", "window": None, "residual": True}),
        (
            "gam",
            {"reduction": 4},
            {
                **{"reduction": 4, "kernel_size": 7, "groups": 1, "branches": "both"},
                **{"padding_mode": "zeros", "channel_gate": False},
            },
        ),
    ],
)
def test_a_new_option_at_its_default_leaves_the_key_of_a_placement_as_it_was(
    name: str, options: dict[str, Any], resolved: dict[str, Any]
) -> None:
    assert resolve_options(ATTENTIONS[name], CHANNELS, options) == resolved
