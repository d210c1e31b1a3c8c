"""The rules for what torch does with an attention other than running it: recording, differentiating twice, mapping."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from nas_attn.testing.cases import Case
from nas_attn.testing.demands import demand, demand_close, leaves_of, seeded_pass

_LARGE = 300.0
"""Standard deviation of a map whose squares float16 cannot hold, nor its sum over a map of this size."""

_WIDE = (20, 24)

_HELD = 3e4
"""Size of a value that float16 can hold, with a margin."""


def float16(case: Case) -> None:
    """Under float16 autocast a map of large values has a finite output, wherever float16 can hold it.

    Its squares, and its sums over the map, are larger than float16 can hold.
    """
    size = case.map if case.entry.smallest_map > min(_WIDE) else _WIDE
    maps = [_LARGE * x for x in case.inputs(2, size)]
    for training in (True, False):
        held = seeded_pass(case.fresh(size).train(training), maps).abs() <= _HELD
        for dtype in (torch.float32, torch.float16):
            module = case.fresh(size).train(training)
            with torch.autocast("cpu", dtype=torch.float16):
                output = seeded_pass(module, [x.to(dtype) for x in maps])
            mode = "train" if training else "eval"
            finite = bool(output[held].isfinite().all())
            demand(finite, f"a value is not finite for a {dtype} map of size {_LARGE:g} in {mode} mode")


def traced(case: Case) -> None:
    """torch.jit.trace follows it in both modes, for batches of any size, and for other maps unless it warns."""
    recorder: Any = torch.jit  # has no types
    for module in (case.build(), case.build().train()):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trace = recorder.trace(module, tuple(case.inputs()), check_trace=False)
        fixed = any(issubclass(each.category, recorder.TracerWarning) and _is_ours(each.filename) for each in caught)
        _demand_same(trace, module, case, "the traced module", other_maps=not fixed)


def symbolic(case: Case) -> None:
    """torch.fx.symbolic_trace follows it in both modes, for batches and maps of any size."""
    for module in (case.build(), case.build().train()):
        _demand_same(torch.fx.symbolic_trace(module), module, case, "the module of torch.fx", other_maps=True)


def second_derivative(case: Case) -> None:
    """Second derivatives, as of a gradient penalty, agree with finite differences, in both modes and memory formats."""
    for memory_format in (torch.contiguous_format, torch.channels_last):
        for module in (case.build().double(), case.build().double().train()):
            maps = [x.double().contiguous(memory_format=memory_format).requires_grad_() for x in case.inputs()]
            _demand_second(module, maps)


def mapped(case: Case) -> None:
    """`torch.func.vmap` maps it over stacked modules, and over stacked inputs, with values and gradients of its own."""
    modules = [case.build(salt=salt) for salt in range(2)]
    maps = [torch.stack([x, 1 - x]) for x in case.inputs()]
    one = modules[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch says which of its operators are slow under vmap
        many = vmap(one, randomness="different")(*maps)
        for index in range(2):
            demand_close(many[index], one(*(x[index] for x in maps)), "the output of a mapped module")
        if any(parameter.requires_grad for parameter in one.parameters()):
            _demand_ensemble(modules, case)


def _demand_ensemble(modules: list[nn.Module], case: Case) -> None:
    """Demand that stacked modules have the outputs and the gradients of each, and that they run in train mode."""
    frame, maps = case.build().to("meta"), case.inputs()
    state = stack_module_state(modules)

    def run(*state: dict[str, Tensor]) -> Tensor:
        output: Tensor = functional_call(frame, state, tuple(maps))
        return output

    outputs = vmap(run)(*state)
    slopes = vmap(grad(lambda *state: run(*state).square().mean()))(*state)
    for index, module in enumerate(modules):
        output = module(*maps)
        demand_close(outputs[index], output, "the output of stacked modules")
        learned = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        for name, slope in zip(
            learned, torch.autograd.grad(output.square().mean(), list(learned.values())), strict=True
        ):
            _demand_near(slopes[name][index], slope, f"the gradient of {name} in stacked modules")
    frame.train()
    vmap(run, randomness="different")(*state)


def _demand_near(got: Tensor, expected: Tensor, what: str) -> None:
    """Demand two gradients that are equal but for rounding, on the scale of the largest of them, at least 1."""
    scale = expected.abs().max().clamp(min=1.0)
    demand(bool(((got - expected).abs() <= 1e-4 * scale).all()), f"{what} must be that of the module alone")


def _demand_second(module: nn.Module, maps: list[Tensor]) -> None:
    """Demand that the derivative of the squared norm of the gradient agrees with finite differences."""
    leaves = list(leaves_of(module, maps).values())

    def penalty() -> Tensor:
        total = seeded_pass(module, maps).square().mean()
        slopes = torch.autograd.grad(total, leaves, create_graph=True, allow_unused=True)
        return torch.stack([slope.square().sum() for slope in slopes if slope is not None]).sum()

    found = torch.autograd.grad(penalty(), leaves, allow_unused=True)
    directions = [torch.randn_like(leaf) for leaf in leaves]
    parts = [(slope * way).sum() for slope, way in zip(found, directions, strict=True) if slope is not None]
    ends = []
    for step in (1e-6, -2e-6):  # to one side, then across to the other
        with torch.no_grad():
            for leaf, way in zip(leaves, directions, strict=True):
                leaf.add_(way, alpha=step)
        ends.append(penalty().item())
    got, expected = torch.stack(parts).sum().item(), (ends[0] - ends[1]) / 2e-6
    scale = max(torch.stack(parts).abs().sum().item(), 1.0)
    demand(abs(got - expected) <= 1e-4 * scale, f"the second derivative must be {expected:.8g}, but is {got:.8g}")


def _demand_same(got: Callable[..., Any], module: nn.Module, case: Case, what: str, *, other_maps: bool) -> None:
    """Demand the module's output for other batches, and for other maps if the module itself takes any."""
    height, width = case.map
    least = 2 if module.training else 1  # a batch of one value per channel is a case of its own in train mode
    for n, size in ((least, case.map), (3, case.map), *([(2, (height + 2, width + 3))] if other_maps else [])):
        maps = case.inputs(n, size)
        if size == case.map or _takes(module, maps):
            demand_close(seeded_pass(got, maps), seeded_pass(module, maps), f"{what}, {n} maps of {size}")


def _takes(module: nn.Module, maps: list[Tensor]) -> bool:
    """Return whether a module takes maps of another size than the one that it was built for."""
    try:
        module(*maps)
    except Exception:  # whatever a module says
        return False
    return True


def _is_ours(file: str) -> bool:
    """Return whether a warning comes from elsewhere than torch itself."""
    return "/torch/" not in file.replace("\\", "/")
