"""What single modules promise beyond the contract: how they start, in which order they act, what stays bounded."""

from __future__ import annotations

import doctest

import pytest
import torch
from attention_cases import CHANNELS, build, images
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nas_attn.attention import create, options
from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.create import create_attention
from nas_attn.attention.forms import widths
from nas_attn.model.build import AttentionModel, build_model
from nas_attn.placement import Placement
from nas_attn.testing.cases import cases_of
from nas_attn.testing.transforms import second_derivative
from nas_attn.training.auxiliary import auxiliary_loss


@pytest.mark.parametrize("module", [create, options, widths])
def test_examples_in_docstrings_hold(module: object) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_se_never_amplifies() -> None:
    x = images(2, CHANNELS, 5, 5)
    assert (build("se", reduction=4)(x).abs() <= x.abs()).all()


def channel_gate(module: nn.Module, x: Tensor) -> Tensor:
    """The channel gate of a CBAM, by its formula."""
    mlp = module.channel.bottleneck
    return (mlp(x.mean((2, 3))) + mlp(x.amax((2, 3)))).sigmoid()[:, :, None, None]


def spatial_gate(module: nn.Module, x: Tensor) -> Tensor:
    """The spatial gate of a CBAM, by its formula."""
    pooled = torch.stack([x.amax(1), x.mean(1)], 1)
    return module.spatial.norm(module.spatial.conv(pooled)).sigmoid()


def test_a_fresh_cbam_starts_with_a_flat_spatial_gate() -> None:
    x = images(2, CHANNELS, 5, 5)
    module = create_attention("cbam", CHANNELS, reduction=4)
    bottleneck = module.channel.bottleneck

    assert not bottleneck.reduce.bias.any()
    assert not bottleneck.expand.bias.any()
    torch.testing.assert_close(module(x), x * channel_gate(module, x) * 0.5)
    torch.testing.assert_close(module.eval()(x), x * channel_gate(module, x) * 0.5)


def test_cbam_acts_in_the_order_that_it_is_told() -> None:
    x = images(2, CHANNELS, 5, 5)

    module = build("cbam", reduction=4)
    middle = x * channel_gate(module, x)
    torch.testing.assert_close(module(x), middle * spatial_gate(module, middle))

    module = build("cbam", reduction=4, order="spatial_first")
    middle = x * spatial_gate(module, x)
    torch.testing.assert_close(module(x), middle * channel_gate(module, middle))
    assert [name for name, _ in module.named_children()] == ["spatial", "channel"]

    module = build("cbam", reduction=4, order="parallel")
    torch.testing.assert_close(module(x), x * channel_gate(module, x) * spatial_gate(module, x))


@pytest.mark.parametrize("name", ["cbam", "gam"])
def test_one_branch_is_the_other_half_of_both(name: str) -> None:
    x = images(2, CHANNELS, 5, 5)
    channel, spatial, both = (build(name, reduction=4, branches=b) for b in ("channel", "spatial", "both"))
    torch.testing.assert_close(both(x), spatial(channel(x)))


def test_grouped_gam_is_two_small_gams_whose_gate_is_shuffled() -> None:
    x = images(2, CHANNELS, 5, 5)
    module = build("gam", reduction=4, groups=2, branches="spatial")
    spatial = module.spatial
    hidden = []
    for half, channels in enumerate(x.chunk(2, 1)):
        weight, bias = spatial.conv1.weight.chunk(2)[half], spatial.conv1.bias.chunk(2)[half]
        hidden.append(nn.functional.conv2d(channels, weight, bias, padding=3))
    middle = spatial.norm1(torch.cat(hidden, 1)).clamp(min=0)
    gate = spatial.norm2(spatial.conv2(middle)).sigmoid()
    dealt = torch.stack(gate.chunk(2, 1), 2).flatten(1, 2)

    torch.testing.assert_close(module(x), x * dealt)


def test_replication_differs_from_zeros_at_the_border_only() -> None:
    x = images(1, CHANNELS, 16, 16)
    zeros, replicate = (build("gam", reduction=4, padding_mode=mode)(x) for mode in ("zeros", "replicate"))
    inside = slice(6, 10)
    torch.testing.assert_close(zeros[:, :, inside, inside], replicate[:, :, inside, inside], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(zeros, replicate)


def test_triple_leaves_its_logits_from_a_compiled_graph_too() -> None:
    module, x = build("triple", reduction=4).train(), images(2, CHANNELS, 5, 5)
    module(x)
    expected = auxiliary_loss(module, torch.tensor([0, 2]))
    torch.compile(module, backend="eager", fullgraph=True)(x)

    torch.testing.assert_close(auxiliary_loss(module, torch.tensor([0, 2])), expected)
    torch.compiler.reset()


@pytest.fixture(scope="module")
def network() -> AttentionModel:
    """A network with attentions of several kinds."""
    placement = Placement.from_dict(
        {
            "stage1.block1.branch": {"name": "cbam", "reduction": 4},
            "stage1.block1.merge": {"name": "aff"},
            "stage2.block1.branch": {"name": "gam", "reduction": 4},
            "stage2.block2.branch": {"name": "gct"},
            "stage3.block3.branch": {"name": "gc", "reduction": 4},
        }
    )
    return build_model({"name": "preact_resnet", "width": 8}, placement, num_classes=5, in_channels=1, image_size=16)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
def test_a_network_with_attention_is_recorded_by_torch_fx_and_by_the_tracer(network: AttentionModel) -> None:
    for mode in (False, True):
        network.train(mode)
        recorded = torch.fx.symbolic_trace(network)
        expected = network(images(3, 1, 16, 16))
        torch.testing.assert_close(recorded(images(3, 1, 16, 16)), expected, rtol=1e-4, atol=1e-4)
    network.eval()
    traced = torch.jit.trace(network, images(2, 1, 16, 16))
    torch.testing.assert_close(traced(images(5, 1, 16, 16)), network(images(5, 1, 16, 16)), rtol=1e-4, atol=1e-4)


def test_a_gradient_penalty_trains_a_network_with_attention(network: AttentionModel) -> None:
    x = images(3, 1, 16, 16).requires_grad_()
    (slope,) = torch.autograd.grad(network.train()(x).square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    for name, parameter in network.attention.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("name", ["non_local", "self_attention", "attention_pool"])
def test_fused_attention_has_a_second_derivative_where_its_record_says(name: str) -> None:
    assert "SDPBackend.MATH" in ATTENTIONS[name].exceptions["second_derivative"]
    with sdpa_kernel(SDPBackend.MATH):
        second_derivative(cases_of(ATTENTIONS[name])[0])


@pytest.mark.parametrize("scale", [300, 600])
def test_gam_under_float16_autocast_computes_what_float32_does(scale: int) -> None:
    module, x = create_attention("gam", 64), scale * images(2, 64, 8, 8)
    with torch.autocast("cpu", dtype=torch.float16):
        y = module(x)
    assert float(y.detach().abs().max()) > 65_504, "float16 cannot hold this output"
    torch.testing.assert_close(y, module.train()(x), rtol=1e-3, atol=1e-3 * scale)
