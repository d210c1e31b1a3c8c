"""MS-CAM as a gate, and the merges that its gate makes."""

from __future__ import annotations

import pytest
import torch
from attention_cases import read_golden, with_weights_of
from torch import Tensor, nn

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.entry import Context
from nas_attn.attention.fusion import AFF, DAF, IAFF, MSCAM, TwoScaleGate
from nas_attn.errors import SpaceError

MERGES = {"aff_r4": AFF, "iaff_r4_fixed": IAFF}


def flat(module: nn.Module) -> nn.Module:
    """The module with every gate at one half: the last norms give 0."""
    for gate in module.modules():
        if isinstance(gate, TwoScaleGate):
            for stack in (gate.local, gate.pooled):
                nn.init.zeros_(stack.norm2.weight)
    return module


def two_maps(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@pytest.mark.parametrize("name", MERGES)
def test_the_branch_comes_first_and_the_shortcut_second(name: str) -> None:
    golden = read_golden(name)
    branch, shortcut = golden["inputs"]

    swapped = with_weights_of(golden, MERGES[name](64))(shortcut, branch)

    assert (swapped - golden["output"]).abs().mean() > 0.1


def test_ms_cam_multiplies_by_the_gate_by_which_aff_mixes() -> None:
    golden = read_golden("aff_r4")
    gate = with_weights_of(golden, MSCAM(64))
    merge = with_weights_of(golden, AFF(64))
    x, _ = golden["inputs"]

    torch.testing.assert_close(gate(x), merge(x, torch.zeros_like(x)) / 2)


@pytest.mark.parametrize("shape", [(2, 8, 5, 4), (1, 8, 1, 1)])
def test_flat_gates_make_aff_the_sum_iaff_the_mean_and_ms_cam_a_half(shape: tuple[int, ...]) -> None:
    x, y = two_maps(*shape)

    torch.testing.assert_close(flat(AFF(8))(x, y), x + y)
    torch.testing.assert_close(flat(IAFF(8))(x, y), (x + y) / 2)
    torch.testing.assert_close(flat(MSCAM(8))(x), x / 2)


def test_a_merge_of_a_map_with_itself_is_that_map_whatever_the_gates() -> None:
    x, _ = two_maps(2, 64, 6, 5)

    torch.testing.assert_close(with_weights_of(read_golden("aff_r4"), AFF(64))(x, x), 2 * x)
    torch.testing.assert_close(with_weights_of(read_golden("iaff_r4_fixed"), IAFF(64))(x, x), x)


def test_daf_is_the_sum() -> None:
    x, y = two_maps(2, 3, 4, 5)

    assert torch.equal(DAF(3)(x, y), x + y)
    assert not list(DAF(3).parameters())


def test_every_bottleneck_of_iaff_gets_a_gradient_also_the_second_global_one() -> None:
    module = IAFF(64)
    x, y = two_maps(4, 64, 3, 3)

    module(x, y).square().sum().backward()

    for name, parameter in module.gate2.pooled.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith(("reduce.bias", "expand.bias")):  # the norm behind takes their effect away
            assert parameter.grad.any(), name


def test_both_gates_of_iaff_count() -> None:
    golden = read_golden("iaff_r4_fixed")
    for gate in ("gate1", "gate2"):
        module = with_weights_of(golden, IAFF(64))
        flat(module.get_submodule(gate))
        for stack in module.get_submodule(gate).children():
            assert isinstance(stack.norm2, nn.BatchNorm2d)
            nn.init.zeros_(stack.norm2.bias)

        assert (module(*golden["inputs"]) - golden["output"]).abs().mean() > 1e-3


@pytest.mark.parametrize("second", [torch.float32, torch.float64])
def test_two_types_merge_in_the_wider_one(second: torch.dtype) -> None:
    x, y = two_maps(2, 8, 4, 4)

    assert AFF(8).double()(x.double(), y.to(second)).dtype == torch.float64


@pytest.mark.parametrize("entry", ["aff", "iaff", "ms_cam"])
def test_a_merge_of_mixed_types_works_under_autocast(entry: str) -> None:
    module = {"aff": AFF, "iaff": IAFF, "ms_cam": MSCAM}[entry](8).eval()
    inputs = two_maps(2, 8, 4, 4)[: ATTENTIONS[entry].n_inputs]
    expected = module(*inputs)

    with torch.autocast("cpu", torch.bfloat16):
        mixed = module(*inputs[:-1], inputs[-1].bfloat16())

    torch.testing.assert_close(mixed.float(), expected, rtol=0.05, atol=0.05)


def test_the_inputs_stay_as_they_are() -> None:
    x, y = two_maps(2, 8, 4, 4)
    before = x.clone(), y.clone()

    for module in (AFF(8), IAFF(8), DAF(8)):
        module(x, y)
    MSCAM(8)(x)

    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_published_counts_come_out() -> None:
    options = {"reduction": 4}
    counts = {name: ATTENTIONS[name].n_parameters for name in ("ms_cam", "aff", "iaff")}
    published = {"ms_cam": 4576, "aff": 4576, "iaff": 9152}

    for name, n_parameters in counts.items():
        assert n_parameters is not None
        assert n_parameters(64, options, Context()) == published[name]
    assert sum(p.numel() for p in MSCAM(64).parameters()) == 4576
    assert sum(p.numel() for p in AFF(64).parameters()) == read_golden("aff_r4")["num_params"]
    assert sum(p.numel() for p in IAFF(64).parameters()) == read_golden("iaff_r4_fixed")["num_params"]


@pytest.mark.parametrize("module", [MSCAM, AFF, IAFF])
def test_a_reduction_above_the_channels_is_refused(module: type[nn.Module]) -> None:
    with pytest.raises(SpaceError, match="reduction <= channels must hold, but got reduction=8, channels=4"):
        module(4, reduction=8)
