"""Three correct attention modules of plug-ins, and one for each way to break the contract."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nas_attn.attention.entry import Entry, Option

REDUCTION = Option("reduction", 4, "int", "Channels over the hidden width.", low=1)
POWER = Option("power", 1.0, "float", "Exponent of the gate.", low=0.1, high=4.0)
AUTO = Option("groups", None, "int", "Groups; auto: half of the channels.", low=1, optional=True)
MODE = Option("mode", "plain", "str", "How it scales.", choices=("plain", "shifted"))


class Scaled(nn.Module):
    """One weight per channel: passes every check."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 1), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Squeezed(nn.Module):
    """A bottleneck over the channels' means, with options: passes every check."""

    def __init__(self, channels: int, *, reduction: int = 4, power: float = 1.0) -> None:
        super().__init__()
        self.power = power
        self.reduce = nn.Linear(channels, channels // reduction)
        self.expand = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(self.reduce(x.mean((2, 3))).relu()).sigmoid() ** self.power
        return x * gate[:, :, None, None]


class Frozen(Scaled):
    """A frozen parameter and a statistic: passes every check."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.share = nn.Parameter(torch.ones(channels, 1, 1), requires_grad=False)
        self.register_buffer("mean", torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean((0, 2, 3))[:, None, None].to(self.mean.dtype), 0.1)
            return super().forward(x)
        return super().forward(x) * self.share + self.mean


def squeezed_parameters(channels: int, options: Any, context: Any) -> int:
    hidden = channels // options["reduction"]
    return 2 * channels * hidden + hidden + channels


def squeezed_macs(channels: int, height: int, width: int, options: Any, context: Any) -> int:
    return 2 * channels * (channels // options["reduction"])


def entry_of(cls: type[nn.Module] | str, *options: Option, **facts: Any) -> Entry:
    return Entry("my_gate", cls, "Gates.", "y = x * g", "Me, 2026", options=options, **facts)


SQUEEZED = entry_of(Squeezed, REDUCTION, POWER)
FROZEN = entry_of(Frozen)
WITH_FORMS = replace(SQUEEZED, n_parameters=squeezed_parameters, n_macs=squeezed_macs)


class OtherDefault(Squeezed):
    def __init__(self, channels: int, *, reduction: int = 4, power: float = 2.0) -> None:
        super().__init__(channels, reduction=reduction, power=power)


class Pooled(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean((2, 3), keepdim=True)


class DividedByNothing(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / x.square().sum((2, 3), keepdim=True).sqrt()


class Dead(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + 0 * self.weight)


class HiddenBias(Scaled):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.score = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.score(x).flatten(2).softmax(2).unflatten(2, x.shape[2:])


class InfiniteAtFirst(Scaled):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.abs().sqrt()


class WrongSlope(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + 0.1 * (y - y.detach())


class NeedsPixels(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return x + (x - x.mean((2, 3), keepdim=True)) * self.weight


class NeedsImages(Scaled):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.norm(x.mean((2, 3), keepdim=True))


class WidensHalves(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y.float() if x.dtype == torch.bfloat16 else y


class LosesAutocast(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return 2 * y if torch.is_autocast_enabled("cpu") else y


class LosesLayout(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).contiguous()


class Views(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        means = x.view(x.shape[0], x.shape[1], -1).mean(2)
        return super().forward(x) * means[:, :, None, None]


class InPlace(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.clamp(max=1) if x.requires_grad else x.clamp_(max=1))


class SeesTheBatch(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * x.mean(0).sigmoid()


class Counts(Scaled):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return super().forward(x)


class Unseeded(Scaled):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        nn.init.constant_(self.weight, random.random())


class CopiesAfresh(Scaled):
    def __deepcopy__(self, memo: Any) -> CopiesAfresh:
        return type(self)(len(self.weight))


class HoldsALambda(Scaled):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.squash: Callable[[Tensor], Tensor] = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        return self.squash(super().forward(x))


class Remembers(Scaled):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("seen", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x) * self.seen
        self.seen.copy_(x.detach().mean())
        return super().forward(x)


class BreaksTheGraph(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return super().forward(x)


class FixesTheBatch(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).reshape(len(x), *x.shape[1:])


class SquaresInHalf(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        energy = x.square().mean((2, 3), keepdim=True)
        return super().forward(x) * (energy / (energy + 1))


class _OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grad


class SquaresOnce(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        return _OnceOnly.apply(super().forward(x))


class AsksForTheLayout(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if y.is_contiguous(memory_format=torch.channels_last) else y.contiguous()


class ForgetsPower(Squeezed):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.expand(self.reduce(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]


class Shifted(Scaled):
    def __init__(self, channels: int, *, power: float = 1.0, mode: str = "plain") -> None:
        super().__init__(channels)
        self.power, self.shift = power, float(mode == "shifted")

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.power + self.shift


class RoundsUp(Squeezed):
    def __init__(self, channels: int, *, reduction: int = 4, power: float = 1.0) -> None:
        super().__init__(channels, reduction=reduction, power=power)
        hidden = -(-channels // reduction)
        self.reduce, self.expand = nn.Linear(channels, hidden), nn.Linear(hidden, channels)


class OtherAuto(Scaled):
    def __init__(self, channels: int, *, groups: int | None = None) -> None:
        super().__init__(channels)
        self.groups = channels if groups is None else groups

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.groups


class MergesLast(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 1), 2.0))

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        return torch.sigmoid(branch * self.weight + shortcut)


BROKEN: dict[str, tuple[Entry, set[str]]] = {  # what is wrong -> the entry, and the checks that fail
    "a default that is not the record's": (entry_of(OtherDefault, REDUCTION, POWER), {"record"}),
    "a kind of site that there is not": (entry_of(Scaled, kinds=("output", "outputs")), {"record"}),
    "a map that shrinks": (entry_of(Pooled), {"shape"}),
    "a division by zero": (entry_of(DividedByNothing, smallest_map=2), {"finite"}),
    "a parameter without effect": (entry_of(Dead), {"gradient", "smallest_map"}),
    "a bias that a softmax hides": (entry_of(HiddenBias, smallest_map=2), {"bias_gradient"}),
    "a gradient that is infinite at first": (entry_of(InfiniteAtFirst), {"training"}),
    "a wrong backward pass": (entry_of(WrongSlope), {"derivative", "second_derivative"}),
    "a smallest map that is too small": (entry_of(NeedsPixels), {"smallest_map"}),
    "a norm over one image": (entry_of(NeedsImages), {"one_image"}),
    "a wrong dtype": (entry_of(WidensHalves), {"dtype", "fx"}),
    "another result under autocast": (entry_of(LosesAutocast), {"autocast"}),
    "a lost layout": (entry_of(LosesLayout), {"channels_last"}),
    "a view of what may be transposed": (entry_of(Views), {"views"}),
    "an input that is changed in place": (entry_of(InPlace), {"input_untouched", "fx", "vmap"}),
    "an output that its gradient needs": (entry_of(MergesLast, kinds=("merge",), n_inputs=2), {"overwritable"}),
    "images that see each other": (entry_of(SeesTheBatch), {"independent"}),
    "a state that changes in eval mode": (entry_of(Counts), {"repeatable"}),
    "weights from another generator": (entry_of(Unseeded), {"seeded"}),
    "a copy that starts afresh": (entry_of(CopiesAfresh), {"deepcopy"}),
    "what cannot be pickled": (entry_of(HoldsALambda), {"pickle"}),
    "a statistic outside of the state dict": (entry_of(Remembers), {"state_dict"}),
    "a break in the graph": (entry_of(BreaksTheGraph), {"compile"}),
    "a batch of one size": (entry_of(FixesTheBatch), {"export", "trace", "fx"}),
    "squares that overflow float16": (entry_of(SquaresInHalf), {"float16"}),
    "a step without a second derivative": (entry_of(SquaresOnce), {"second_derivative", "vmap"}),
    "a question that nothing that follows can answer": (entry_of(AsksForTheLayout), {"fx", "vmap"}),
    "an option without effect": (entry_of(ForgetsPower, REDUCTION, POWER), {"option"}),
    "an option that is idle by the record only": (
        entry_of(
            Shifted,
            POWER,
            MODE,
            idle=lambda channels, options: frozenset({"power"} if options["mode"] == "shifted" else ()),
        ),
        {"idle"},
    ),
    "another hidden width than the record's": (entry_of(RoundsUp, REDUCTION, POWER), {"resolve"}),
    "another meaning of auto": (
        entry_of(OtherAuto, AUTO, auto={"groups": lambda channels, context: channels // 2}),
        {"auto", "resolve"},
    ),
    "a wrong count of parameters": (
        replace(WITH_FORMS, n_parameters=lambda *facts: squeezed_parameters(*facts) + 1),
        {"cost"},
    ),
    "a wrong count of multiply-adds": (replace(WITH_FORMS, n_macs=lambda *facts: squeezed_macs(*facts) + 1), {"cost"}),
    "logits that are announced and not stored": (entry_of(Scaled, auxiliary=True), {"auxiliary"}),
    "a start that is no identity": (entry_of(Scaled, identity_start=True), {"identity_start"}),
}
