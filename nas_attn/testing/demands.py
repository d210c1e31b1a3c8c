"""Assertions of the checks of attention modules: functions that raise AssertionError with a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nas_attn.testing.cases import NUM_CLASSES, Case, Size
from nas_attn.training.auxiliary import auxiliary_loss


def demand(condition: bool, sentence: str) -> None:
    """Raise AssertionError with the sentence unless the condition is true."""
    if not condition:
        raise AssertionError(sentence)


def demand_close(got: Tensor, expected: Tensor, what: str) -> None:
    """Raise AssertionError unless both are equal within float32's rounding, which grows with the mean magnitude."""
    demand(got.shape == expected.shape, f"{what} must have shape {tuple(expected.shape)}, but has {tuple(got.shape)}")
    finite = expected.detach()[expected.isfinite()]
    size = max(1.0, float(finite.abs().mean()))
    if not torch.allclose(got, expected, rtol=1e-4, atol=1e-5 * size, equal_nan=True):
        distance = float((got - expected).abs().max().detach())
        raise AssertionError(f"{what} must be equal, but differ by up to {distance:.3g}")


def demand_equal_states(one: dict[str, Tensor], other: dict[str, Tensor], what: str) -> None:
    """Raise AssertionError unless both state dicts are equal, bit for bit."""
    demand(list(one) == list(other), f"{what} must have the same names, but has {list(one)} and {list(other)}")
    changed = [name for name in one if not torch.equal(one[name], other[name])]
    demand(not changed, f"{what} must have the same state, but {', '.join(changed)} differ")


def demand_same(one: nn.Module, other: nn.Module, case: Case, what: str) -> None:
    """Raise AssertionError unless both modules have equal state dicts and equal outputs in eval mode."""
    demand_equal_states(one.state_dict(), other.state_dict(), what)
    demand(torch.equal(one.eval()(*case.inputs()), other.eval()(*case.inputs())), f"{what} must have the same output")


def demand_gradients(module: nn.Module, maps: Sequence[Tensor]) -> set[str]:
    """Demand a finite gradient for every input and parameter; return the names of those whose gradient is not zero.

    The gradient is that of a random weighted sum of the output plus the auxiliary loss, in double precision.
    """
    maps = [x.double().requires_grad_() for x in maps]
    output = seeded_pass(module.double(), maps)
    loss = auxiliary_loss(module, torch.arange(len(output)) % NUM_CLASSES)
    total = (output * torch.randn_like(output)).sum() + loss
    leaves = leaves_of(module, maps)
    alive = set()
    for name, slope in zip(leaves, torch.autograd.grad(total, list(leaves.values()), allow_unused=True), strict=True):
        if slope is None:
            raise AssertionError(f"{name} must get a gradient, but gets none")
        demand(bool(slope.isfinite().all()), f"{name} must get a finite gradient")
        alive |= {name} if slope.abs().max().item() > 1e-12 else set()
    return alive


def demand_alive(case: Case, size: Size, *, biases: bool) -> None:
    """Demand a nonzero gradient for all biases, or all else, with any of several weights: a layer may be dead."""
    module, maps = case.build(size), case.inputs(4, size)
    due = {name for name in leaves_of(module, maps) if name.endswith("bias") == biases}
    for salt in range(4):
        due -= demand_gradients(case.build(size, salt), case.inputs(4, size)) if due else set()
    demand(not due, f"{', '.join(sorted(due))} must get a gradient that is not zero")


def leaves_of(module: nn.Module, maps: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the trainable parameters and the inputs by name."""
    learned = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    return learned | {f"input {index}": x for index, x in enumerate(maps)}


def demand_same_gradients(module: nn.Module, maps: Sequence[Tensor], others: Sequence[Tensor], what: str) -> None:
    """Raise AssertionError unless the module's gradients are the same for both inputs, in double precision."""
    module, found = module.double(), []
    for inputs in (maps, others):
        doubles = [x.double().requires_grad_() for x in inputs]
        output = seeded_pass(module, doubles)
        slope = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(output.shape)
        leaves = list(leaves_of(module, doubles).values())
        found.append(torch.autograd.grad(output, leaves, slope, allow_unused=True))
    for got, expected in zip(*found, strict=True):
        if got is not None and expected is not None:
            demand_close(got, expected, what)


def seeded_pass(module: Callable[..., Tensor], maps: Sequence[Tensor]) -> Tensor:
    """Return the module's output, with a fixed seed for its random numbers."""
    torch.manual_seed(0)
    return module(*maps)


def distance_of(got: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference, divided by the norm of what is expected."""
    difference = (got.double() - expected.double()).norm() / expected.double().norm()
    return float(difference.detach())
