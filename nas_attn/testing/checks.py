"""The rules for every attention, one short function each, which takes a case and raises AssertionError."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.entry import load_class
from nas_attn.attention.measure import measured_cost
from nas_attn.attention.options import check_options, resolve_options, why_not
from nas_attn.macs import counted_macs
from nas_attn.placement import KINDS
from nas_attn.testing.cases import NUM_CLASSES, Case, Size, candidates, randomised
from nas_attn.testing.demands import (
    demand,
    demand_alive,
    demand_close,
    demand_equal_states,
    demand_gradients,
    demand_same,
    demand_same_gradients,
    distance_of,
    leaves_of,
    seeded_pass,
)
from nas_attn.training.auxiliary import auxiliary_loss


def record(case: Case) -> None:
    """The record is correct: known kinds, unique options with valid defaults, and a class with the same options."""
    entry = case.entry
    demand(set(entry.kinds) <= set(KINDS), f"kinds must be among {KINDS}, but got {entry.kinds}")
    names = [option.name for option in entry.options]
    demand(len(set(names)) == len(names), f"names of options must be unique, but got {names}")
    check_options(entry, {option.name: option.default for option in entry.options}, "")
    taken = dict(inspect.signature(load_class(entry.cls)).parameters)
    taken.pop(next(iter(taken)))
    defaults = {name: parameter.default for name, parameter in taken.items() if name != "context"}
    stated = {option.name: option.default for option in entry.options}
    demand(defaults == stated, f"the class's options must have the record's defaults {stated}, but got {defaults}")
    demand(("context" in taken) == entry.needs_context, "needs_context must say whether the class takes a context")


def shape(case: Case) -> None:
    """The output has the shape that the kind of site requires, on odd and rectangular maps too."""
    for size in case.sizes():
        for module in (case.build(size), case.build(size).train()):
            got, expected = module(*case.inputs(3, size)).shape, case.shape_out(3, size)
            demand(tuple(got) == expected, f"the shape must be {expected}, but is {tuple(got)} for a map of {size}")


def finite(case: Case) -> None:
    """The output is finite, in both modes, on small maps too, and on constant maps of zeros and of a large value."""
    for size in (case.sizes()[0], case.map):
        for module in (case.build(size), case.fresh(size)):
            for maps in (
                case.inputs(3, size),
                *[[torch.full_like(x, c) for x in case.inputs(2, size)] for c in (0, 50)],
            ):
                demand(bool(module(*maps).isfinite().all()), f"a value is not finite on a map of {size}")


def gradient(case: Case) -> None:
    """Every input and every parameter except biases gets a finite, nonzero gradient in eval mode."""
    demand_alive(case, case.map, biases=False)


def bias_gradient(case: Case) -> None:
    """Every bias gets a nonzero gradient in eval mode; a bias that only adds a constant before a softmax gets none."""
    demand_alive(case, case.map, biases=True)


def training(case: Case) -> None:
    """Every parameter and every input gets a finite gradient in train mode, also with the initial weights."""
    for module in (case.build().train(), case.fresh()):
        demand_gradients(module, case.inputs(4))


def derivative(case: Case) -> None:
    """Gradients agree with finite differences along a random direction, in both modes and double precision."""
    for module in (case.build().double(), case.build().double().train()):
        maps = [x.double().requires_grad_() for x in case.inputs()]
        leaves = list(leaves_of(module, maps).values())
        directions = [torch.randn_like(leaf) for leaf in leaves]
        gradients = torch.autograd.grad(seeded_pass(module, maps).square().sum(), leaves, allow_unused=True)
        parts = [(g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None]
        ends = []
        with torch.no_grad():
            for step in (1e-6, -2e-6):  # to one side, then across to the other
                for leaf, direction in zip(leaves, directions, strict=True):
                    leaf.add_(direction, alpha=step)
                ends.append(seeded_pass(module, maps).square().sum())
        got, expected = torch.stack(parts).sum().item(), ((ends[0] - ends[1]) / 2e-6).item()
        scale = max(torch.stack(parts).abs().sum().item(), 1.0)
        demand(
            abs(got - expected) <= 1e-5 * scale,
            f"the derivative must be {expected:.8g}, but the gradient has {got:.8g}",
        )


def smallest_map(case: Case) -> None:
    """On the smallest map every parameter has an effect, with the base options; smaller maps are refused."""
    least = case.entry.smallest_map
    for size in ((least, least), (least, least + 1)):
        demand(case.fits(size), f"a map of {size} must fit: {why_not(case.entry, case.site(size), case.options)}")
        demand_alive(case, size, biases=False)
    demand(not case.fits((least - 1, least + 4)), f"a map lower than smallest_map={least} must be refused")


def one_image(case: Case) -> None:
    """A batch of one image trains, on the smallest map too."""
    for size in case.sizes():
        demand_gradients(case.build(size).train(), case.inputs(1, size))


def dtype(case: Case) -> None:
    """The dtype is kept, and the output is close to that of float32."""
    expected = case.build()(*case.inputs()).detach()
    demand(expected.dtype == torch.float32, f"float32 must be kept, but became {expected.dtype}")
    for kind, tolerance in ((torch.float64, 1e-4), (torch.bfloat16, 0.05)):
        got = case.build().to(kind)(*(x.to(kind) for x in case.inputs())).detach()
        demand(got.dtype == kind, f"{kind} must be kept, but became {got.dtype}")
        distance = distance_of(got, expected)
        demand(distance <= tolerance, f"{kind} must be within {tolerance} of float32, but is {distance:.3g} away")


def autocast(case: Case) -> None:
    """Under bfloat16 autocast, output and training are those of float32, except for rounding."""
    for module in (case.build(), case.build().train()):
        expected = seeded_pass(case.build().train(module.training), case.inputs(4))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = seeded_pass(module, [x.requires_grad_() for x in case.inputs(4)])
        distance = distance_of(got, expected)
        demand(distance <= 0.05, f"bfloat16 must be close to float32, but is {distance:.3g} away")
        leaves = list(leaves_of(module, ()).values())
        for gradient in torch.autograd.grad(got.float().sum(), leaves, allow_unused=True) if leaves else ():
            demand(gradient is not None and bool(gradient.isfinite().all()), "gradients must be finite under autocast")


def channels_last(case: Case) -> None:
    """A channels_last input has a channels_last output with the same values and gradients, also with such weights."""
    last = torch.channels_last
    maps = [x.contiguous(memory_format=last) for x in case.inputs()]
    for module in (case.build(), case.build().to(memory_format=last)):
        got = module(*maps)
        demand(got.is_contiguous(memory_format=last), "the output must be channels_last like the input")
        demand_close(got, case.build()(*case.inputs()), "the values on a channels_last map")
    for module in (case.build(), case.build().train()):
        demand_same_gradients(module, maps, case.inputs(), "gradients on a channels_last map")


def views(case: Case) -> None:
    """A map that is transposed in memory, or a crop of another, has the same values and gradients."""
    turned = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in case.inputs()]
    parts = [functional.pad(x, (1, 1, 1, 1))[:, :, 1:-1, 1:-1] for x in case.inputs()]
    for maps in (turned, parts):
        demand_close(case.build()(*maps), case.build()(*case.inputs()), "the values on a view")
        demand_same_gradients(case.build(), maps, case.inputs(), "gradients on a view")


def input_untouched(case: Case) -> None:
    """The input is not modified in place."""
    for module in (case.build(), case.build().train()):
        maps = case.inputs()
        module(*maps)
        for x, before in zip(maps, case.inputs(), strict=True):
            demand(torch.equal(x, before), "the input must not be changed in place")


def overwritable(case: Case) -> None:
    """At a merge or in place of a convolution, the output may be changed in place, by the ReLU that follows there."""
    if {"merge", "conv"} & set(case.entry.kinds):
        maps = [x.requires_grad_() for x in case.inputs()]
        case.build().train()(*maps).relu_().sum().backward()


def independent(case: Case) -> None:
    """In eval mode the output for an image depends on no other image of the batch."""
    module, maps = case.build(), case.inputs(3)
    demand_close(module(*(x[1:2] for x in maps)), module(*maps)[1:2], "an image alone")


def repeatable(case: Case) -> None:
    """In eval mode a second pass, without gradients, has the same output, and parameters and buffers do not change."""
    module, maps = case.build(), case.inputs()
    before = copy.deepcopy(module.state_dict())
    first, second = module(*maps), module(*maps)
    demand(torch.equal(first, second), "a second pass in eval mode must have the same output")
    with torch.no_grad():
        demand_close(module(*maps), first, "a pass without gradients")
    demand_equal_states(before, module.state_dict(), "a pass in eval mode")


def seeded(case: Case) -> None:
    """Initialisation is determined by torch's seed."""
    demand_equal_states(case.fresh().state_dict(), case.fresh().state_dict(), "the same seed")


def copied(case: Case) -> None:
    """A deepcopy has the same output, also after a pass in train mode."""
    module = case.build()
    _train_once(module, case)
    demand_same(copy.deepcopy(module), module, case, "a deepcopy")


def pickled(case: Case) -> None:
    """A pickled module has the same output, also after a pass in train mode."""
    module = case.build()
    _train_once(module, case)
    demand_same(pickle.loads(pickle.dumps(module)), module, case, "the pickled module")


def state_dict(case: Case) -> None:
    """Every trained parameter and every statistic is in the state dict."""
    module, file = case.build(), io.BytesIO()
    _train_once(module, case)
    torch.save(module.state_dict(), file)
    file.seek(0)
    loaded = case.fresh()
    loaded.load_state_dict(torch.load(file, weights_only=True), strict=True)
    demand_same(loaded, module, case, "a module with the same state dict")


def compiled(case: Case) -> None:
    """It compiles into one graph, in both modes, with the same output."""
    for module in (case.build(), case.build().train()):
        expected = seeded_pass(case.build().train(module.training), case.inputs())
        try:
            got = seeded_pass(torch.compile(module, backend="eager", fullgraph=True), case.inputs())
        finally:
            torch.compiler.reset()
        demand_close(got, expected, "the compiled module")


def exported(case: Case) -> None:
    """It can be exported, with a batch of any size."""
    module, maps = case.build(), case.inputs()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, tuple(maps), dynamic_shapes=tuple({0: batch} for _ in maps))
    for n in (1, 3):
        demand_close(program.module()(*case.inputs(n)), module(*case.inputs(n)), "the exported module")


def changed_option(case: Case) -> None:
    """The option under test changes the output in train mode, or the auxiliary loss."""
    one, other = _outcome(case), _outcome(replace(case, options=case.reference))
    same = all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in zip(one, other, strict=True)
    )
    demand(not same, f"option '{case.changed}' must change the output or the loss, but {_shown(case)} does not")


def idle_options(case: Case) -> None:
    """An option that is idle by the record, given the others, changes nothing."""
    complete = {option.name: option.default for option in case.entry.options} | dict(case.options)
    for option in case.entry.options:
        if option.name not in case.entry.idle(case.channels, complete):
            continue
        for value in candidates(option):
            other = replace(case, options={**case.options, option.name: value})
            if other.fits():
                what = f"option '{option.name}', idle with {_shown(case)},"
                demand_same(_raw(other, other.options), _raw(case, case.options), case, what)


def resolved_options(case: Case) -> None:
    """Resolving again changes nothing, and resolved options build the same module as the written ones."""
    again = resolve_options(case.entry, case.channels, case.resolved, case.context())
    demand(again == case.resolved, f"resolving {case.resolved} again must change nothing, but returns {again}")
    written, built = _raw(case, case.options), case.build()
    shapes = [[tuple(tensor.shape) for tensor in module.state_dict().values()] for module in (written, built)]
    if shapes[0] == shapes[1]:
        demand_same(written, built, case, "the module with options as written")
    else:
        _demand_same_on_core(written, built, case)


def auto_values(case: Case) -> None:
    """None, "auto" and the value that they stand for are the same model with the same key."""
    for option in case.entry.options:
        if option.name not in case.entry.auto:
            continue
        value = case.entry.auto[option.name](case.channels, case.context())
        check_options(case.entry, {option.name: value}, "")
        written = [{**case.options, option.name: word} for word in (value, None, "auto")]
        keys = [resolve_options(case.entry, case.channels, options, case.context()) for options in written]
        demand(keys[0] == keys[1] == keys[2], f"'{option.name}' auto must resolve like {value!r}, but {keys} differ")
        if replace(case, options=written[0]).fits():
            demand_same(_raw(case, written[1]), _raw(case, written[0]), case, f"'{option.name}' left to the module")


def cost(case: Case) -> None:
    """The record's cost, in closed form or counted, equals that of the built module, on several maps."""
    for channels, size in ((case.channels, case.map), (case.channels, case.sizes()[-1]), (2 * case.channels, (8, 9))):
        conv = case.replaced and replace(case.replaced, out_channels=channels)
        wider = replace(case, channels=channels, replaced=conv)
        if wider.fits(size):
            stated = _stated_cost(wider, size)
            built = _built_cost(wider, size, "meta" if channels == case.channels and size == case.map else "cpu")
            where = f"at {channels} channels on a map of {size}"
            demand(stated == built, f"parameters and MACs must be {built} {where}, but by the record they are {stated}")


def auxiliary(case: Case) -> None:
    """Auxiliary logits are stored in train mode if the record says so, and never in eval mode."""
    target = torch.tensor([0, NUM_CLASSES - 1])
    for module, due in ((case.build().train(), case.entry.auxiliary), (case.build(), False)):
        module(*case.inputs())
        stored = bool(auxiliary_loss(module, target) != 0)
        mode = "train" if module.training else "eval"
        demand(stored == due, f"auxiliary logits must {'' if due else 'not '}be stored in {mode} mode")


def identity_start(case: Case) -> None:
    """A module that starts as the identity has, before training, the output of the network without it."""
    start = replace(case, options={})
    if not case.entry.identity_start:
        return
    if not start.fits():
        start = case
    for module in (start.fresh(), start.fresh().eval()):
        maps = start.inputs()
        expected = _without(module, start, maps)
        demand_close(module(*maps), expected, "a fresh module and the network without it")


def _demand_same_on_core(written: nn.Module, built: nn.Module, case: Case) -> None:
    """Demand that a module with smaller kernels, filled with the larger ones' cores, has the same output."""
    own, theirs = built.state_dict(), written.state_dict()
    for name, tensor in theirs.items():
        for axis, size in enumerate(own[name].shape):
            tensor = tensor.narrow(axis, (tensor.shape[axis] - size) // 2, size)
        own[name].copy_(tensor)
    demand_close(built(*case.inputs()), written(*case.inputs()), "the module with kernels that the map can fill")


def _outcome(case: Case) -> tuple[Tensor, Tensor]:
    """Return the output in train mode and the auxiliary loss, in double precision to show small differences."""
    module = case.build().double().train()
    output = seeded_pass(module, [x.double() for x in case.inputs(4)])
    return output, auxiliary_loss(module, torch.arange(len(output)) % NUM_CLASSES)


def _raw(case: Case, options: Any) -> nn.Module:
    return randomised(case.construct(options)).eval()


def _shown(case: Case) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in case.options.items())


def _stated_cost(case: Case, size: Size) -> tuple[int, int]:
    entry, options, context = case.entry, case.resolved, case.context(size)
    if entry.n_parameters is None or entry.n_macs is None:
        counted = measured_cost(entry, case.channels, options, context)
    else:
        counted = (0, 0)
    return (
        counted[0] if entry.n_parameters is None else entry.n_parameters(case.channels, options, context),
        counted[1] if entry.n_macs is None else entry.n_macs(case.channels, *size, options, context),
    )


def _built_cost(case: Case, size: Size, device: str) -> tuple[int, int]:
    maps = [x.to(device) for x in case.inputs(1, size)]
    with torch.device(device):
        module = case.construct(case.resolved, size).eval()
    n_parameters = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return n_parameters, counted_macs(lambda: module(*maps))


def _train_once(module: nn.Module, case: Case) -> None:
    """Run one pass in train mode, in which the module may update its statistics."""
    module.train()(*case.inputs(4))


def _without(module: nn.Module, case: Case, maps: Sequence[Tensor]) -> Tensor:
    """Return the output of the network without the attention."""
    if "head" in case.entry.kinds:
        return maps[0].mean((2, 3), keepdim=True)
    if case.replaced is None:
        return torch.stack(list(maps)).sum(0)
    conv = case.replaced
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, 3, conv.stride, conv.dilation, conv.dilation, conv.groups, conv.bias
    )
    take_over: Any = module.take_over
    take_over(plain)
    result: Tensor = plain(*maps)
    return result
