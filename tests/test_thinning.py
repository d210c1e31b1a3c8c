"""Strided 1x1 convolutions with few channels: in channels_last they compute the same values, and nothing crashes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nas_attn.config import Recipe
from nas_attn.data.dataset import Images
from nas_attn.model.build import build_model
from nas_attn.training.loop import train
from nas_attn.training.onednn import subsampled_inputs


def strided(channels: int = 8, **options) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, 16, **{"kernel_size": 1, "stride": 2, "bias": False} | options)


@pytest.mark.parametrize("size", [(9, 7), (8, 8), (1, 5)])
@pytest.mark.parametrize("stride", [2, (1, 3)])
def test_a_convolution_with_subsampled_inputs_has_the_same_output_and_gradient(size, stride):
    conv = strided(stride=stride)
    images = torch.randn(2, 8, *size)
    plain = conv(images)
    expected = torch.autograd.grad(plain.square().sum(), conv.weight)[0]
    with subsampled_inputs(conv):
        got = conv(images)
        gradient = torch.autograd.grad(got.square().sum(), conv.weight)[0]
    torch.testing.assert_close(got, plain)
    torch.testing.assert_close(gradient, expected)


def test_the_convolution_is_as_it_was_afterwards_also_after_an_error():
    conv = strided()
    with pytest.raises(RuntimeError, match="channels"), subsampled_inputs(conv):
        conv(torch.zeros(1, 3, 8, 8))
    assert conv.stride == (2, 2)
    assert not conv._forward_pre_hooks


@pytest.mark.parametrize(
    "options", [{"kernel_size": 3}, {"stride": 1}, {"groups": 2}, {"padding": 1}, {"channels": 16}], ids=str
)
def test_other_convolutions_are_left_alone(options):
    conv = strided(**options)
    with subsampled_inputs(conv):
        assert not conv._forward_pre_hooks


def narrow_net() -> nn.Module:
    """Return a network that ends the process where its gradient is computed in channels_last at stride 2."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), strided(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)
    )


@pytest.mark.parametrize("own", [True, False], ids=["own network", "mini_xception"])
def test_a_narrow_network_trains_in_channels_last_on_the_cpu(own: bool):
    model = narrow_net() if own else build_model("mini_xception", {}, num_classes=2, in_channels=1, image_size=64)
    before = [weight.clone() for weight in model.parameters()]
    pixels = torch.randint(0, 256, (8, 1, 64, 64), dtype=torch.uint8)
    images = Images(pixels, torch.arange(8) % 2, (0.5,), (0.3,))
    facts = train(model, images, None, Recipe(), seed=0, epochs=1, device="cpu", report=lambda *_: None, num_classes=2)
    assert facts["train_loss"] > 0
    assert all(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_mini_xception_trains_in_channels_last_in_anybodys_loop():
    net = build_model("mini_xception", {}, num_classes=2, in_channels=1, image_size=64).to(
        memory_format=torch.channels_last
    )
    images = torch.randn(4, 1, 64, 64).to(memory_format=torch.channels_last)
    net(images).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())
