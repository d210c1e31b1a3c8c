"""Time of the attention modules, forward and backward, beside timm, torchvision and their authors' formulas.

    python benchmarks/attention_speed.py [--minutes 10] [--threads 1 2] [--entries cbam se] [--maps 14 28 56]

Each row is one module on one map (batch 16, float32, train mode): the milliseconds of ours and of the rival, measured
alternately on the same weights after a check that both compute the same output and the same gradient; the rival's time
divided by ours (median over the rounds); and the memory that each stores for the backward pass (without parameters) and
allocates at its peak, in multiples of the input. Rivals:

- `plain`: cbam, gam, triplet and gct as their authors compute them: permutations, contiguous copies, views. Goals on
  maps of 28x28 and larger: the rival takes 1.3 x our time, and ours stores at most 0.8 x the memory.
- `timm`, `torchvision`: their modules, if they compute the same. Goal: ours takes at most 1.05 x their time.
- `formula`: the formulas of benchmarks/plain_formulas.py; no goal but that ours is not slower.
- `alone`: each further entry of the catalogue has a row without a rival, so that none is left out.

The grid stops when the minutes are over; the last line of each part shows how much of it was measured. If there is a
CUDA GPU, the grid is measured there too, by the GPU's own clock.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import plain_formulas as formula
import torch
from kept_memory import kept_bytes
from torch import Tensor, nn
from torch.profiler import profile
from torchvision import ops

from nas_attn import ATTENTIONS, Context, create_attention

BATCH = 16
TURNS = 7
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


@dataclass(frozen=True)
class Pair:
    """One entry of the catalogue, and a rival that computes the same.

    Args:
        build: Makes the rival from the number of channels; None if the entry is measured alone.
        largest: Largest map that it is measured on: some take seconds a turn.
        flips: Whether the rival's convolution over [max, mean] takes [mean, max].
    """

    entry: str
    rival: str
    build: Callable[[int], nn.Module] | None
    largest: int = 56
    flips: bool = False


def timm_module(place: str, **options: Any) -> Callable[[int], nn.Module]:
    """Return a function of the channels that builds a timm module; options that are callable are called with them."""

    def build(channels: int) -> nn.Module:
        module, name = place.split(":")
        found = {key: value(channels) if callable(value) else value for key, value in options.items()}
        return getattr(importlib.import_module(f"timm.layers.{module}"), name)(channels, **found)

    return build


def sixteenth(channels: int) -> int:
    """Return the hidden width of the default reduction."""
    return channels // 16


def sk_width(channels: int) -> int:
    """Return the hidden width of selective kernels."""
    return max(32, channels // 16)


PAIRS = [
    Pair("cbam", "plain", formula.PlainCBAM),
    Pair("gam", "plain", formula.PlainGAM),
    Pair("triplet", "plain", formula.PlainTriplet),
    Pair("gct", "plain", formula.PlainGCT),
    Pair("se", "torchvision", lambda channels: ops.SqueezeExcitation(channels, sixteenth(channels))),
    Pair("deform", "torchvision", formula.PlainDeform, largest=14),
    Pair("se", "timm", timm_module("squeeze_excite:SEModule", rd_channels=sixteenth)),
    Pair("eca", "timm", timm_module("eca:EcaModule")),
    Pair("cbam", "timm", timm_module("cbam:CbamModule", rd_channels=sixteenth, mlp_bias=True), flips=True),
    Pair("coord", "timm", timm_module("coord_attn:CoordAttn", rd_channels=lambda c: max(8, c // 32), bias=True)),
    Pair(
        "gc",
        "timm",
        timm_module("global_context:GlobalContext", rd_channels=sixteenth, fuse_add=True, fuse_scale=False),
    ),
    Pair(
        "non_local",
        "timm",
        timm_module("non_local_attn:NonLocalAttn", rd_channels=lambda c: c // 2, use_scale=False),
        largest=14,
    ),
    Pair(
        "sk",
        "timm",
        timm_module("selective_kernel:SelectiveKernel", groups=32, rd_channels=sk_width, split_input=False),
    ),
    Pair("split_attention", "timm", timm_module("split_attn:SplitAttn", norm_layer=lambda _: nn.BatchNorm2d)),
    Pair("ese", "timm", timm_module("squeeze_excite:EffectiveSEModule")),
    Pair("ese", "formula", formula.PlainESE),
    Pair("double_attention", "formula", formula.PlainDoubleAttention),
    Pair("polarized", "formula", formula.PlainPolarized),
    Pair("epsa", "formula", formula.PlainEPSA, largest=28),
    Pair("nam", "formula", formula.PlainNAM),
    Pair("lka", "formula", formula.PlainLKA, largest=28),
]
PAIRS += [Pair(name, "alone", None, largest=28) for name in ATTENTIONS if name not in {pair.entry for pair in PAIRS}]


@dataclass(frozen=True)
class Row:
    """The measurements of one pair on one map."""

    pair: Pair
    size: int
    ratio: float
    kept: float


def build(pair: Pair, channels: int, size: int, device: str, memory_format: torch.memory_format) -> list[nn.Module]:
    """Return our module and the rival's, if there is one, with the same random weights, in train mode."""
    torch.manual_seed(0)
    ours = create_attention(pair.entry, channels, context=Context(num_classes=10, height=size, width=size))
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.1)
    if ATTENTIONS[pair.entry].n_inputs == 2:
        ours = Fusing(ours)
    modules = [ours] if pair.build is None else [ours, with_weights_of(ours, pair.build(channels), pair)]
    return [module.to(device, memory_format=memory_format).train() for module in modules]


def with_weights_of(ours: nn.Module, theirs: nn.Module, pair: Pair) -> nn.Module:
    """Give the rival our weights, which have the same order."""
    values, shapes = ours.state_dict(), theirs.state_dict()
    laid = {name: value.reshape(shapes[name].shape) for name, value in zip(shapes, values.values(), strict=True)}
    if pair.flips:
        laid = {name: value.flip(1) if value.shape[1:] == (2, 7, 7) else value for name, value in laid.items()}
    theirs.load_state_dict(laid)
    return theirs


class Fusing(nn.Module):
    """An entry that fuses two maps, given the same map twice."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Return the fused map."""
        fused: Tensor = self.module(x, x)
        return fused


def step(module: nn.Module, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Run forward and backward; return the output and the gradients of the input and of the parameters."""
    y = module(x)
    grad = grad if y.shape == grad.shape else torch.ones_like(y)
    return y, *torch.autograd.grad(y, [x, *module.parameters()], grad, allow_unused=True)


def check_same(modules: list[nn.Module], x: Tensor, grad: Tensor) -> None:
    """Refuse to time two modules that do not compute the same.

    They may differ by rounding, which also moves a few values to the other side of a ReLU.
    """
    ours, theirs = (step(copy.deepcopy(module), x, grad)[:2] for module in modules)
    for found, expected in zip(ours, theirs, strict=True):
        difference = float(((found - expected).norm() / expected.norm()).detach())
        assert difference < 1e-3, f"ours and the rival's must agree, but differ by {difference:.2%}"


def milliseconds(module: nn.Module, x: Tensor, grad: Tensor) -> float:
    """Return the time of forward and backward."""
    if x.is_cuda:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        step(module, x, grad)
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)
    begun = time.perf_counter()
    step(module, x, grad)
    return 1e3 * (time.perf_counter() - begun)


def kept_maps(module: nn.Module, x: Tensor) -> float:
    """Return the memory stored for the backward pass (without parameters) divided by that of the input."""
    return kept_bytes(module, x) / x.untyped_storage().nbytes()


def peak_maps(module: nn.Module, x: Tensor, grad: Tensor) -> float:
    """Return the peak of the additional memory divided by that of the input."""
    if x.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(module, x, grad)
        return (torch.cuda.max_memory_allocated() - before) / x.untyped_storage().nbytes()
    with profile(profile_memory=True) as profiler:
        step(module, x, grad)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    peak = max(itertools.accumulate(changes))
    return peak / x.untyped_storage().nbytes()


def columns(values: list[float], first: int, second: int) -> str:
    """Return ours and the rival's value in columns of these widths."""
    rival = f"{values[1]:>{second}.2f}" if len(values) == 2 else f"{'-':>{second}}"
    return f"{values[0]:>{first}.2f} {rival}"


def measure(pair: Pair, channels: int, size: int, layout: str, device: str, seconds: float) -> Row:
    """Print one row: measure ours and the rival alternately for some seconds, at least three rounds."""
    memory_format = LAYOUTS[layout]
    modules = build(pair, channels, size, device, memory_format)
    x = torch.randn(BATCH, channels, size, size, device=device).contiguous(memory_format=memory_format)
    x.requires_grad_()
    grad = torch.randn_like(x)
    if len(modules) == 2:
        check_same(modules, x, grad)
    else:
        step(modules[0], x, grad)
    ends = time.monotonic() + seconds
    turns: list[list[float]] = []
    while len(turns) < 3 or (len(turns) < TURNS and time.monotonic() < ends):
        turns.append([milliseconds(module, x, grad) for module in modules])
    times = [median(column) for column in zip(*turns, strict=True)]
    kept = [kept_maps(module, x) for module in modules]
    peak = [peak_maps(module, x, grad) for module in modules]
    ratio = median(turn[-1] / turn[0] for turn in turns)
    where = f"{pair.entry:<16} {pair.rival:<12} {channels:>4} {size:>3} {layout:<14}"
    shown = f"{ratio:>7.2f}" if len(modules) == 2 else f"{'-':>7}"
    print(f"{where}{columns(times, 8, 8)} {shown}{columns(kept, 8, 6)}{columns(peak, 9, 6)}", flush=True)
    return Row(pair, size, ratio, kept[0] / kept[1] if len(kept) == 2 else 1.0)


def cells(pairs: list[Pair], maps: list[int]) -> Iterator[tuple[Pair, int, int, str]]:
    """Yield the grid, the cheap cells first, so that a shortened grid has cells of every pair."""
    for size in sorted(maps):
        for channels in (64, 256):
            for layout in LAYOUTS:
                for pair in pairs:
                    if size <= pair.largest:
                        yield pair, channels, size, layout


def summarise(rows: list[Row]) -> None:
    """Print the figures of each pair that the goals refer to."""
    print("\nrival's time divided by ours: median (minimum); stored memory, ours divided by the rival's: maximum")
    for pair in dict.fromkeys(row.pair for row in rows if row.pair.build is not None):
        goal = {"plain": "1.30 and 0.80", "formula": "1.00"}.get(pair.rival, f"{1 / 1.05:.2f}")
        found = [row for row in rows if row.pair is pair and (row.size >= 28 or pair.rival != "plain")]
        if found:
            ratios = [row.ratio for row in found]
            shown = f"{median(ratios):.2f} ({min(ratios):.2f}); {max(row.kept for row in found):.2f}"
            print(f"  {pair.entry:<16} {pair.rival:<12} {shown:<22} goal {goal}, n = {len(found)}")


def has_timm() -> bool:
    """Return whether timm is installed."""
    return importlib.util.find_spec("timm") is not None


def main() -> None:
    """Measure the grid with each number of threads, then on CUDA."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="time after which no further row begins")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--maps", type=int, nargs="+", default=[14, 28, 56], help="heights (and widths) of the maps")
    parser.add_argument(
        "--entries", nargs="+", default=None, choices=list(ATTENTIONS), metavar="ENTRY", help="all by default"
    )
    options = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # otherwise the profiler prints
    if not has_timm():
        print("timm is not installed: only torchvision's modules and the plain formulas are rivals.")
    known = [pair for pair in PAIRS if pair.rival != "timm" or has_timm()]
    pairs = [pair for pair in known if options.entries is None or pair.entry in options.entries]
    places = [("cpu", threads) for threads in options.threads]
    if torch.cuda.is_available():
        places.append(("cuda", torch.get_num_threads()))
    ends = time.monotonic() + 60 * options.minutes
    for number, (device, threads) in enumerate(places):
        torch.set_num_threads(threads)
        share = (ends - time.monotonic()) / (len(places) - number)
        print(f"\n{device}, threads: {threads}, batch {BATCH}, torch {torch.__version__}")
        print(f"{'':<50}{'ms':>9} {'rival':>8} {'ratio':>7}{'kept':>8} {'rival':>6}{'peak':>9} {'rival':>6}")
        grid = list(cells(pairs, options.maps))
        begun = time.monotonic()
        rows: list[Row] = []
        for pair, channels, size, layout in grid:
            left = share - (time.monotonic() - begun)
            if left > 0:
                rows.append(measure(pair, channels, size, layout, device, left / (len(grid) - len(rows))))
        print(f"measured: {len(rows)} of {len(grid)} rows")
        summarise(rows)


if __name__ == "__main__":
    main()
