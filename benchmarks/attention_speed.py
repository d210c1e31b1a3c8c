"""Time of the attention modules, forward and backward, beside timm, torchvision and their authors' formulas.

    python benchmarks/attention_speed.py [--minutes 10] [--threads 1 2] [--entries cbam se] [--maps 14 28 56]

Each row is one module on one map (batch 16, float32, train mode): the milliseconds of ours and of the rival, measured
alternately on the same weights after a check that both compute the same output and the same gradient; the rival's time
divided by ours (median over the rounds); and the memory that each stores for the backward pass (without parameters) and
allocates at its peak, in multiples of the input. Rivals:

- `plain`: cbam, gam, triplet and gct as their authors compute them: permutations, contiguous copies, views. Goals on
  maps of 28x28 and larger: the rival takes 1.3 x our time, and ours stores at most 0.8 x the memory.
- `timm`, `torchvision`: their modules, if they compute the same. Goal: ours takes at most 1.05 x their time.

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

import torch
from kept_memory import kept_bytes
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import profile
from torchvision import ops

from nas_attn import create_attention

BATCH = 16
TURNS = 7
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


class PlainPlane(nn.Module):
    """The gate of a plane: a convolution over the maximum and the mean of the channels, a norm and a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated x."""
        pooled = torch.cat([torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)], 1)
        return x * torch.sigmoid(self.norm(self.conv(pooled)))


class PlainCBAM(nn.Module):
    """CBAM: both poolings by windows of the map's size, two products."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(channels, channels // 16), nn.ReLU(), nn.Linear(channels // 16, channels))
        self.plane = PlainPlane()

    def forward(self, x: Tensor) -> Tensor:
        """Return x after both gates."""
        pools = (functional.avg_pool2d, functional.max_pool2d)
        logits = sum(self.mlp(pool(x, x.shape[2:], stride=x.shape[2:]).flatten(1)) for pool in pools)
        return self.plane(x * torch.sigmoid(logits).unsqueeze(2).unsqueeze(3).expand_as(x))


class PlainGAM(nn.Module):
    """GAM: the bottleneck over a permuted and flattened map, two convolutions, two products."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 16
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, hidden, 7, padding=3),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 7, padding=3),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return x after both gates."""
        n_images, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(n_images, -1, channels)
        x = x * self.mlp(pixels).view(n_images, height, width, channels).permute(0, 3, 1, 2)
        return x * self.convolutions(x).sigmoid()


class PlainTriplet(nn.Module):
    """Triplet attention: the map turned by contiguous copies, gated, and turned back, twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.planes = nn.ModuleList([PlainPlane(), PlainPlane(), PlainPlane()])

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean of three gated maps."""
        by_rows = self.planes[0](x.permute(0, 2, 1, 3).contiguous()).permute(0, 2, 1, 3).contiguous()
        by_columns = self.planes[1](x.permute(0, 3, 2, 1).contiguous()).permute(0, 3, 2, 1).contiguous()
        return 1 / 3 * (self.planes[2](x) + by_rows + by_columns)


class PlainGCT(nn.Module):
    """GCT: the norm by a map of squares."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated x."""
        size = (x.pow(2).sum((2, 3), keepdim=True) + 1e-5).pow(0.5) * self.alpha
        norm = self.gamma / (size.pow(2).mean(1, keepdim=True) + 1e-5).pow(0.5)
        return x * (1.0 + torch.tanh(size * norm + self.beta))


class PlainDeform(nn.Module):
    """Torchvision's deformable convolution with the convolution that makes its offsets."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.deform = ops.DeformConv2d(channels, channels, 3, padding=1)
        self.offset = nn.Conv2d(channels, 18, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved map."""
        return self.deform(x, self.offset(x))


@dataclass(frozen=True)
class Pair:
    """One entry of the catalogue, and a rival that computes the same.

    Args:
        largest: Largest map that it is measured on: some take seconds a turn.
        flips: Whether the rival's convolution over [max, mean] takes [mean, max].
    """

    entry: str
    rival: str
    build: Callable[[int], nn.Module]
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
    Pair("cbam", "plain", PlainCBAM),
    Pair("gam", "plain", PlainGAM),
    Pair("triplet", "plain", PlainTriplet),
    Pair("gct", "plain", PlainGCT),
    Pair("se", "torchvision", lambda channels: ops.SqueezeExcitation(channels, sixteenth(channels))),
    Pair("deform", "torchvision", PlainDeform, largest=14),
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
]


@dataclass(frozen=True)
class Row:
    """The measurements of one pair on one map."""

    pair: Pair
    size: int
    ratio: float
    kept: float


def build(pair: Pair, channels: int, device: str, memory_format: torch.memory_format) -> list[nn.Module]:
    """Return our module and the rival's with the same random weights, in train mode."""
    torch.manual_seed(0)
    ours = create_attention(pair.entry, channels)
    theirs = pair.build(channels)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.1)
    values, shapes = ours.state_dict(), theirs.state_dict()
    laid = {name: value.reshape(shapes[name].shape) for name, value in zip(shapes, values.values(), strict=True)}
    if pair.flips:
        laid = {name: value.flip(1) if value.shape[1:] == (2, 7, 7) else value for name, value in laid.items()}
    theirs.load_state_dict(laid)
    return [module.to(device, memory_format=memory_format).train() for module in (ours, theirs)]


def step(module: nn.Module, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Run forward and backward; return the output and the gradients of the input and of the parameters."""
    y = module(x)
    return y, *torch.autograd.grad(y, [x, *module.parameters()], grad)


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


def measure(pair: Pair, channels: int, size: int, layout: str, device: str, seconds: float) -> Row:
    """Print one row: measure ours and the rival alternately for some seconds, at least three rounds."""
    memory_format = LAYOUTS[layout]
    modules = build(pair, channels, device, memory_format)
    x = torch.randn(BATCH, channels, size, size, device=device).contiguous(memory_format=memory_format)
    x.requires_grad_()
    grad = torch.randn_like(x)
    check_same(modules, x, grad)
    ends = time.monotonic() + seconds
    turns: list[tuple[float, float]] = []
    while len(turns) < 3 or (len(turns) < TURNS and time.monotonic() < ends):
        turns.append((milliseconds(modules[0], x, grad), milliseconds(modules[1], x, grad)))
    ratio = median(theirs / ours for ours, theirs in turns)
    kept = [kept_maps(module, x) for module in modules]
    peak = [peak_maps(module, x, grad) for module in modules]
    ours, theirs = (median(column) for column in zip(*turns, strict=True))
    where = f"{pair.entry:<10} {pair.rival:<12} {channels:>4} {size:>3} {layout:<14}"
    times = f"{ours:>8.2f} {theirs:>8.2f} {ratio:>7.2f}"
    print(f"{where}{times}{kept[0]:>8.2f} {kept[1]:>6.2f}{peak[0]:>9.2f} {peak[1]:>6.2f}", flush=True)
    return Row(pair, size, ratio, kept[0] / kept[1])


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
    for pair in dict.fromkeys(row.pair for row in rows):
        goal = "1.30 and 0.80" if pair.rival == "plain" else f"{1 / 1.05:.2f}"
        found = [row for row in rows if row.pair is pair and (row.size >= 28 or pair.rival != "plain")]
        if found:
            ratios = [row.ratio for row in found]
            shown = f"{median(ratios):.2f} ({min(ratios):.2f}); {max(row.kept for row in found):.2f}"
            print(f"  {pair.entry:<10} {pair.rival:<12} {shown:<22} goal {goal}, n = {len(found)}")


def has_timm() -> bool:
    """Return whether timm is installed."""
    return importlib.util.find_spec("timm") is not None


def main() -> None:
    """Measure the grid with each number of threads, then on CUDA."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="time after which no further row begins")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--maps", type=int, nargs="+", default=[14, 28, 56], help="heights (and widths) of the maps")
    parser.add_argument("--entries", nargs="+", default=None, help="entries of the catalogue; all by default")
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
        print(f"{'':<44}{'ms':>9} {'rival':>8} {'ratio':>7}{'kept':>8} {'rival':>6}{'peak':>9} {'rival':>6}")
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
