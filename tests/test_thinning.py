"""1x1 convolutions as matrix products: in channels_last they compute the same values, and nothing crashes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nas_attn.config import Recipe
from nas_attn.data.dataset import Images
from nas_attn.model.build import build_model
from nas_attn.training.loop import train
from nas_attn.training.onednn import matrix_products


def strided(channels: int = 8, **options) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, 16, **{"kernel_size": 1, "stride": 2, "bias": False} | options)


@pytest.mark.parametrize("size", [(9, 7), (8, 8), (1, 5), (96, 80)])
@pytest.mark.parametrize("options", [{}, {"stride": (1, 3)}, {"stride": 1, "bias": True}, {"channels": 24}], ids=str)
def test_a_product_has_the_output_and_the_gradients_of_the_convolution(size, options):
    conv = strided(**options)
    images = torch.randn(2, conv.in_channels, *size, requires_grad=True)
    plain = conv(images)
    expected = torch.autograd.grad(plain.square().sum(), [images, *conv.parameters()])
    with matrix_products(conv):
        got = conv(images)
        gradients = torch.autograd.grad(got.square().sum(), [images, *conv.parameters()])
    torch.testing.assert_close(got, plain)
    for gradient, one in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "size", "is_product"),
    [
        ({"stride": 1, "channels": 32}, 32, True),
        ({"stride": 1, "channels": 32}, 80, False),
        ({"stride": 2, "channels": 32}, 80, True),
        ({"stride": 2, "channels": 8}, 200, True),
    ],
    ids=str,
)
def test_large_maps_are_convolved_unless_that_may_crash(options, size, is_product, monkeypatch):
    used = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr("torch.nn.functional.linear", lambda *args: used.append(1) or linear(*args))
    conv = strided(**options)
    images = torch.randn(1, conv.in_channels, size, size)
    with matrix_products(conv):
        conv(images)
        assert bool(used) == is_product
        used.clear()
        with torch.no_grad():
            conv(images)
        assert not used, "an evaluation is left as it is"


class Doubled(nn.Conv2d):
    """A convolution with a forward of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("kind", [nn.Conv2d, Doubled])
def test_the_convolution_is_as_it_was_afterwards_also_after_an_error(kind):
    conv = kind(8, 16, 1, stride=2, bias=False)
    before = dict(conv.__dict__)
    images = torch.randn(2, 8, 9, 9)
    expected = conv(images)
    with matrix_products(conv):
        torch.testing.assert_close(conv(images), expected)
    with pytest.raises(RuntimeError, match=r"shapes|channels"), matrix_products(conv):
        conv(torch.zeros(1, 3, 8, 8))
    assert conv.__dict__ == before
    assert conv.stride == (2, 2)
    assert not conv._forward_pre_hooks


@pytest.mark.parametrize("options", [{"kernel_size": 3}, {"groups": 2}, {"padding": 1}], ids=str)
def test_other_convolutions_are_left_alone(options):
    conv = strided(**options)
    with matrix_products(conv):
        assert not conv._forward_pre_hooks
        assert "forward" not in conv.__dict__


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
