"""DANet's attentions, and the products that half precision cannot hold."""

from __future__ import annotations

import pytest
import torch
from attention_cases import images
from torch import Tensor, nn

from nas_attn.attention.danet import CAM, PAM
from nas_attn.attention.precision import wide_product
from nas_attn.placement import Attention, Site
from nas_attn.space.fit import misfit


def trained(module: PAM | CAM) -> PAM | CAM:
    """The module with a factor that is not 0."""
    nn.init.constant_(module.gamma, 0.7)
    return module.eval()


def test_pam_adds_a_mean_of_all_pixels_for_every_pixel() -> None:
    module, x = trained(PAM(16, reduction=4)), images(2, 16, 3, 2)
    query, key, value = (layer(x.permute(0, 2, 3, 1)) for layer in (module.query, module.key, module.value))
    expected = x.clone()
    for row in range(3):
        for column in range(2):
            scores = (key * query[:, row, column, None, None]).sum(3)
            weights = scores.flatten(1).softmax(1).view(2, 3, 2, 1)
            expected[:, :, row, column] += 0.7 * (weights * value).sum((1, 2))
    torch.testing.assert_close(module(x), expected)


def test_cam_weighs_unlike_channels_by_the_largest_energy_minus_each() -> None:
    module, x = trained(CAM(6)), images(2, 6, 5, 4)
    maps = x.flatten(2)
    energy = maps @ maps.transpose(1, 2)
    weights = (energy.amax(2, keepdim=True) - energy).softmax(2)
    torch.testing.assert_close(module.weights(maps), weights)
    torch.testing.assert_close(module(x), x + 0.7 * (weights @ maps).view(x.shape))
    assert (weights.diagonal(0, 1, 2) < 1e-3).all(), "a channel is most like itself"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("module", [PAM(16, reduction=2), CAM(16)], ids=["pam", "cam"])
def test_scores_beyond_the_range_of_half_precision_are_those_of_float32(module: PAM | CAM, dtype: torch.dtype) -> None:
    trained(module)
    x = (100 * images(1, 16, 14, 14)).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        found = module(x)
    found.float().mean().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    energy = x.flatten(2).square().sum(2).max()
    assert energy > torch.finfo(torch.float16).max, "the sums overflow float16"
    assert found.isfinite().all()
    if isinstance(module, CAM):
        torch.testing.assert_close(found.float(), module(x), rtol=0.02, atol=2.0)


def test_a_wide_product_is_in_float32_where_its_factors_are_narrower() -> None:
    a, b = images(2, 3, 4), images(2, 4, 5)

    def products() -> list[Tensor]:
        return [wide_product(a.to(kind), b.to(kind)) for kind in (torch.float16, torch.float32, torch.float64)]

    assert [found.dtype for found in products()] == [torch.float32, torch.float32, torch.float64]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ b).dtype == torch.bfloat16
        assert products()[1].dtype == torch.float32
    torch.testing.assert_close(products()[1], a @ b)
    assert wide_product(a.to("meta"), b.to("meta")).shape == (2, 3, 5)


def test_a_single_pixel_has_no_other_to_attend_to_but_passes() -> None:
    site = Site("here", "output", "here", 16, 1, 1, "stage1")
    assert "the map must be at least 2x2, but is 1x1" in str(misfit(site, Attention("pam", {})))
    assert misfit(site, Attention("cam", {})) is None
    x = images(2, 16, 1, 1)
    module = trained(PAM(16))
    torch.testing.assert_close(module(x), x + 0.7 * module.value(x[:, :, 0, 0])[:, :, None, None])
