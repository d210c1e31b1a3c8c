"""The cost of insertion, beside the same networks written by hand and beside torchvision's plain ones.

    python benchmarks/insertion.py [--parts passes building listing surveying] [--rounds 9] [--threads 1 2]
                                   [--image-size 64] [--batch 8] [--pairs SE-ResNet]

- `passes`: each network of `by_hand.py`, forward and backward in train mode and forward in eval mode, our
  time divided by that of the one written by hand. Their outputs are first checked to be equal bit for bit. Goal: at
  most 1.02. Also the memory stored for the backward pass and the number of its steps, which do not depend on other work
  of the machine.
- `building`: ResNet-50 with SE in its 16 branches, beside the one written by hand and torchvision's without attention;
  goal: at most 0.3 s. Then every network of the catalogue with SE at 16 sites (or all, if it has fewer), beside the
  plain one.
- `listing`: the sites of every network of the catalogue, measured and read from the cache, after torch and
  torchvision are imported, beside building the plain network; goal: at most 1 s.
- `surveying`: the sites of networks that are not in the catalogue: of `timm:inception_resnet_v2` at its own image size
  (goal: at most 5 s, and each tensor once), and of ResNet-50 as an own network (goal: at most 0.7 s).

All are measured alternately, in alternating order, and the medians are shown. On one thread the time is the CPU time of
the process, which depends less on other work of the machine; on more threads it is the wall time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from by_hand import (
    CLASSES,
    PAIRS,
    Pair,
    build_both,
    build_ours,
    n_backward_steps,
    outputs_of,
    placement_of,
)
from kept_memory import kept_bytes
from torch import Tensor, nn
from torchvision import models

from nas_attn import BACKBONES, Attention, Placement, build_model
from nas_attn.attention.entry import SHAPE_KEEPING
from nas_attn.backbones import site_table as table
from nas_attn.backbones.build import build_backbone
from nas_attn.backbones.catalog import image_sizes
from nas_attn.backbones.passes import dry_pass
from nas_attn.placement import Shape

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
N_SITES = 16
SMALL = 128
"""Height and width of the images with which tensors are counted."""

Clock = Callable[[], float]


def turns(functions: Sequence[Callable[[], Any]], rounds: int, clock: Clock) -> list[list[float]]:
    """Return the seconds of each function per round; every other round is reversed, and the first one is dropped."""
    times: list[list[float]] = [[] for _ in functions]
    for number in range(rounds + 1):
        order = range(len(functions)) if number % 2 else reversed(range(len(functions)))
        for index in order:
            start = clock()
            functions[index]()
            times[index].append(clock() - start)
    return [found[1:] for found in times]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median of the rounds' ratios, and the quartiles."""
    ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
    quarter = len(ratios) // 4
    return f"{median(ratios):.3f} ({ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f})"


def clock_of(threads: int) -> Clock:
    """Return the CPU time of the process with one thread, otherwise the wall time."""
    return time.process_time if threads == 1 else time.perf_counter


def step(net: nn.Module, images: Tensor) -> None:
    """Run forward and backward."""
    net(images).sum().backward()
    net.zero_grad(set_to_none=True)


def evaluate(net: nn.Module, images: Tensor) -> None:
    """Run forward without gradients."""
    with torch.no_grad():
        net(images)


def show_passes(pair: Pair, layout: str, threads: int, options: argparse.Namespace) -> None:
    """Print one row."""
    images = torch.randn(options.batch, 3, options.image_size, options.image_size)
    images = images.contiguous(memory_format=LAYOUTS[layout])
    nets = [net.to(memory_format=LAYOUTS[layout]) for net in build_both(pair)]
    outputs = outputs_of(nets, images)
    assert torch.equal(*outputs), f"{pair.title}: ours and the one written by hand must give the same"
    steps = [n_backward_steps(output) for output in outputs]
    kept = [kept_bytes(net, images) / 2**20 for net in nets]
    del outputs
    columns = []
    for run, training in ((step, True), (evaluate, False)):
        for net in nets:
            net.train(training)
        calls = [lambda net=net, run=run: run(net, images) for net in nets]
        ours, theirs = turns(calls, options.rounds, clock_of(threads))
        columns.append(f"{1e3 * median(ours):8.1f} ms {ratio(ours, theirs)}")
    facts = f"kept {kept[0]:.1f} / {kept[1]:.1f} MB, steps {steps[0]} / {steps[1]}"
    print(f"{pair.title:<24} {layout:<14} {columns[0]}  {columns[1]}  {facts}", flush=True)


def passes(options: argparse.Namespace) -> None:
    """Measure forward and backward."""
    for threads in options.threads:
        torch.set_num_threads(threads)
        print(f"\nthreads {threads}, {options.batch} images of {options.image_size} pixels, n = {options.rounds}")
        print(f"{'':<40}{'train: ours / by hand':<36} {'eval: ours / by hand':<36} ours / by hand")
        for pair in PAIRS:
            if options.pairs in pair.title:
                for layout in LAYOUTS:
                    show_passes(pair, layout, threads, options)


def building(options: argparse.Namespace) -> None:
    """Measure the time of building, on one thread."""
    torch.set_num_threads(1)
    pair = PAIRS[0]
    placement = placement_of(pair)
    calls = [lambda: build_ours(pair, placement), pair.by_hand, lambda: models.resnet50(num_classes=CLASSES)]
    ours, by_hand, plain = turns(calls, options.rounds, time.process_time)
    print(f"\nResNet-50 with {len(placement)} insertions, n = {options.rounds}")
    for label, found in (("ours", ours), ("written by hand", by_hand), ("torchvision's, no attention", plain)):
        print(f"  {label:<30} {median(found):.3f} s ({min(found):.3f} to {max(found):.3f})")
    print(f"  ours / by hand {ratio(ours, by_hand)}, ours / torchvision's {ratio(ours, plain)}")
    print(f"\nSE at {N_SITES} sites of every network, and the plain network, n = {options.few}")
    for name in BACKBONES:
        shape = {"num_classes": CLASSES, "in_channels": 3, "image_size": image_sizes(name)[1]}
        spread = spread_placement(name, shape)
        calls = [
            lambda name=name, spread=spread, shape=shape: build_model(name, spread, **shape, seed=0),
            lambda name=name, shape=shape: build_backbone(name, Shape(**shape), seed=0),
        ]
        ours, plain = turns(calls, options.few, time.process_time)
        print(f"  {name:<20} {median(ours):.3f} s, plain {median(plain):.3f} s, n sites {len(spread)}", flush=True)


def spread_placement(name: str, shape: Mapping[str, int]) -> Placement:
    """Return SE at some of the sites that it fits, evenly spread."""
    sites = [site for site in table.site_table(name, **shape).sites if site.kind in SHAPE_KEEPING]
    chosen = sites if len(sites) <= N_SITES else [sites[k * len(sites) // N_SITES] for k in range(N_SITES)]
    return Placement({site.name: Attention("se", {"reduction": min(16, site.channels)}) for site in chosen})


def listing(options: argparse.Namespace) -> None:
    """Measure the time of listing all sites, on one thread."""
    torch.set_num_threads(1)
    fresh, cached = [], []
    print("\nsites of every network: measured, read from the cache; building the plain network; n = 1")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        for name in BACKBONES:
            shape = {"num_classes": CLASSES, "in_channels": 3, "image_size": image_sizes(name)[1]}
            calls = [lambda name=name, shape=shape: table.site_table(name, **shape)] * 2
            calls.append(lambda name=name, shape=shape: build_backbone(name, Shape(**shape), seed=0))
            times = []
            for call in calls:
                table._remembered.cache_clear()
                start = time.process_time()
                call()
                times.append(time.process_time() - start)
            fresh.append(times[0])
            cached.append(times[1])
            n_sites = len(table.site_table(name, **shape).sites)
            print(
                f"  {name:<20} {times[0]:.3f} s  {times[1]:.4f} s  plain {times[2]:.3f} s  {n_sites} sites", flush=True
            )
    print(
        f"  maximum {max(fresh):.3f} s and {max(cached):.4f} s, median {median(fresh):.3f} s and {median(cached):.4f} s"
    )


def surveying(options: argparse.Namespace) -> None:
    """Measure the time of finding the sites of networks that are not in the catalogue, on one thread."""
    torch.set_num_threads(1)
    name = "timm:inception_resnet_v2"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        start = time.process_time()
        found = table.site_table(name, num_classes=CLASSES, in_channels=3)
        seconds = time.process_time() - start
    outputs = [site.name for site in found.sites if site.kind == "output"]
    print(f"\n{name}: {seconds:.2f} s, {len(found.sites)} sites, n = 1")
    print(f"  {len(outputs)} outputs, {n_tensors(name, outputs)} tensors; {len(found.doubles)} further names of them")
    net = models.resnet50(num_classes=CLASSES)
    for size in (64, 224):
        shape = {"num_classes": CLASSES, "in_channels": 3, "image_size": size}
        (times,) = turns([lambda shape=shape: table.own_table(net, **shape)], options.few, time.process_time)
        seconds = f"{median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"
        print(f"  ResNet-50 as an own network, {size} pixels: {seconds}")


def n_tensors(name: str, outputs: Sequence[str]) -> int:
    """Return the number of different tensors that these modules of a network return."""
    net = build_backbone(name, Shape(CLASSES, 3, SMALL), seed=0).eval()
    passages = dry_pass(net, torch.zeros(1, 3, SMALL, SMALL), outputs)
    return len({(id(passage.tensor), passage.version) for passage in passages.values()})


PARTS = {"passes": passes, "building": building, "listing": listing, "surveying": surveying}


def main() -> None:
    """Measure the requested parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--few", type=int, default=3, help="rounds per network of the catalogue")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pairs", default="", help="only pairs whose title contains this text")
    options = parser.parse_args()
    for part in options.parts:
        PARTS[part](options)


if __name__ == "__main__":
    main()
