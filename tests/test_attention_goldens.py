"""The modules agree with published code, on tensors that this code computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nas_attn.attention.create import create_attention

GOLDENS = Path(__file__).parent / "goldens"
BOTTLENECK = ["reduce.weight", "reduce.bias", "expand.weight", "expand.bias"]
NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
CASES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "se_conv_bias_r16": ("se", {"reduction": 16}, [f"bottleneck.{name}" for name in BOTTLENECK]),
    "se_linear_nobias_r16": (
        "se",
        {"reduction": 16, "bias": False},
        ["bottleneck.reduce.weight", "bottleneck.expand.weight"],
    ),
    "cbam_r16": (
        "cbam",
        {"reduction": 16},
        [
            *[f"channel.bottleneck.{name}" for name in BOTTLENECK],
            "spatial.conv.weight",
            *[f"spatial.norm.{name}" for name in NORM],
        ],
    ),
    "cbam_r8_hard_sigmoid": (
        "cbam",
        {"reduction": 8, "gate": "hard_sigmoid", "spatial_norm": False},
        [*[f"channel.bottleneck.{name}" for name in BOTTLENECK], "spatial.conv.weight"],
    ),
    "gam_r4_replicate": (
        "gam",
        {"reduction": 4, "padding_mode": "replicate"},
        [
            *[f"channel.{name}" for name in BOTTLENECK],
            *[f"spatial.{layer}.{name}" for layer in ("conv1", "conv2") for name in ("weight", "bias")],
            *[f"spatial.{layer}.{name}" for layer in ("norm1", "norm2") for name in NORM],
        ],
    ),
}


def read_golden(name: str) -> dict[str, Any]:
    golden: dict[str, Any] = torch.load(GOLDENS / f"{name}.pt", weights_only=True)
    return golden


def load_weights(module: torch.nn.Module, golden: dict[str, Any], names: list[str]) -> None:
    """Load the golden's tensors under our names; a 1x1 convolution is a linear layer."""
    tensors = [tensor for _, tensor in golden["state_dict"]]
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    state = {name: tensor.reshape(shapes[name]) for name, tensor in zip(names, tensors, strict=True)}
    if golden["cls"] == "cbam_block":  # its spatial input is [mean, max], ours [max, mean]
        state["spatial.conv.weight"] = state["spatial.conv.weight"].flip(1)
    module.load_state_dict(state, strict=True)


@pytest.mark.parametrize("name", CASES)
def test_output_equals_the_published_code(name: str) -> None:
    attention, options, names = CASES[name]
    golden = read_golden(name)
    module = create_attention(attention, 64, **options).eval()
    load_weights(module, golden, names)

    assert sum(parameter.numel() for parameter in module.parameters()) == golden["num_params"]
    for inputs, output in [("inputs", "output"), ("inputs_rect", "output_rect")]:
        for x in golden[inputs]:
            torch.testing.assert_close(module(x), golden[output], rtol=1e-4, atol=1e-5)


def test_every_golden_is_used_and_named_with_its_source() -> None:
    readme = (GOLDENS / "README.md").read_text()
    tests = "".join(path.read_text() for path in GOLDENS.parent.glob("test_*.py"))
    for path in GOLDENS.glob("*.pt"):
        assert f'"{path.stem}"' in tests, path
        assert f"`{path.name}`" in readme, path
        assert read_golden(path.stem)["commit"] in readme, path


def test_cbam_sees_the_order_of_its_pooled_inputs() -> None:
    golden = read_golden("cbam_r16")
    module = create_attention("cbam", 64).eval()
    load_weights(module, golden, CASES["cbam_r16"][2])
    with torch.no_grad():
        module.spatial.conv.weight.copy_(module.spatial.conv.weight.flip(1))

    assert (module(golden["inputs"][0]) - golden["output"]).abs().mean() > 0.05
