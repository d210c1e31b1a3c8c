"""What the checks of attention modules demand, each as a function that raises AssertionError with a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nas_attn.attention.create import auxiliary_loss
from nas_attn.testing_cases import NUM_CLASSES, Case


def demand(condition: bool, sentence: str) -> None:
    """Raise AssertionError with the sentence unless the condition holds."""
    if not condition:
        raise AssertionError(sentence)


def demand_close(got: Tensor, expected: Tensor, what: str) -> None:
    """Raise AssertionError unless both are equal within float32's rounding."""
    demand(got.shape == expected.shape, f"{what} must have shape {tuple(expected.shape)}, but has {tuple(got.shape)}")
    if not torch.allclose(got, expected, rtol=1e-4, atol=1e-5, equal_nan=True):
        distance = float((got - expected).abs().max().detach())
        raise AssertionError(f"{what} must be equal, but differ by up to {distance:.3g}")


def demand_equal_states(one: dict[str, Tensor], other: dict[str, Tensor], what: str) -> None:
    """Raise AssertionError unless both state dicts hold the same, bit for bit."""
    demand(list(one) == list(other), f"{what} must give the same names, but gives {list(one)} and {list(other)}")
    changed = [name for name in one if not torch.equal(one[name], other[name])]
    demand(not changed, f"{what} must give the same state, but {', '.join(changed)} differ")


def demand_same(one: nn.Module, other: nn.Module, case: Case, what: str) -> None:
    """Raise AssertionError unless both modules have one state dict and compute the same in eval mode."""
    demand_equal_states(one.state_dict(), other.state_dict(), what)
    demand(torch.equal(one.eval()(*case.inputs()), other.eval()(*case.inputs())), f"{what} must compute the same")


def demand_gradients(module: nn.Module, maps: Sequence[Tensor], nonzero: Callable[[str], bool] | None = None) -> None:
    """Demand finite gradients everywhere, and more than rounding where `nonzero` says so: in double precision."""
    maps = [x.double().requires_grad_() for x in maps]
    torch.manual_seed(0)
    output = module.double()(*maps)
    loss = auxiliary_loss(module, torch.arange(len(output)) % NUM_CLASSES)
    ((output * torch.randn_like(output)).sum() + loss).backward()
    for name, leaf in [*module.named_parameters(), *((f"input {index}", x) for index, x in enumerate(maps))]:
        if leaf.grad is None:
            raise AssertionError(f"{name} must get a gradient, but gets none")
        demand(bool(leaf.grad.isfinite().all()), f"{name} must get a finite gradient")
        if nonzero is not None and nonzero(name):
            demand(leaf.grad.abs().max().item() > 1e-12, f"{name} must get a gradient that is not zero")


def demand_same_gradients(module: nn.Module, maps: Sequence[Tensor], others: Sequence[Tensor], what: str) -> None:
    """Raise AssertionError unless a module has the same gradients for both, in double precision."""
    module, found = module.double(), []
    for inputs in (maps, others):
        leaves = [x.double().requires_grad_() for x in inputs]
        output = seeded_pass(module, leaves)
        slope = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(output.shape)
        found.append(torch.autograd.grad(output, [*leaves, *module.parameters()], slope, allow_unused=True))
    for got, expected in zip(*found, strict=True):
        if got is not None and expected is not None:
            demand_close(got, expected, what)


def seeded_pass(module: Callable[..., Tensor], maps: Sequence[Tensor]) -> Tensor:
    """Return what the module makes of the maps, with one seed for what it draws."""
    torch.manual_seed(0)
    return module(*maps)


def distance_of(got: Tensor, expected: Tensor) -> float:
    """Return how far apart both are, by the length of what is expected."""
    difference = (got.double() - expected.double()).norm() / expected.double().norm()
    return float(difference.detach())


def is_bias(name: str) -> bool:
    """Tell whether a parameter is a bias, by its name."""
    return name.endswith("bias")


def is_weight(name: str) -> bool:
    """Tell whether a parameter or an input is no bias."""
    return not is_bias(name)
