"""Measures multiply-adds, time and memory of a network.

Time is measured here rather than by `torch.utils.benchmark.Timer`, which times one statement at a time: the latency
relative to a second network is the median over pairs of measurements, alternating between the two, so that a machine
that slows down meanwhile changes the ratio little. The clock, which synchronises with the device, is that of
`torch.utils.benchmark`.
"""

from __future__ import annotations

import logging
import math
import platform
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from nas_attn.backbones.copying import independent_copy
from nas_attn.backbones.passes import forward_macs
from nas_attn.backbones.user_network import evaluating
from nas_attn.config import Recipe
from nas_attn.cost.memory import peak_bytes
from nas_attn.records import Bench, Measured
from nas_attn.training.loop import make_optimizer, precision, take_step

TURNS = 9
"""Greatest number of turns; the median of fewer varies by some per cent if the machine is busy for a moment."""

_FEWEST_TURNS = 3
_FEWEST_PASSES, _MOST_PASSES = 10, 1000  # of one network, for its fastest pass
_SLOT = 0.002  # seconds: minimum duration of a turn, so that the cost of reading the clock is negligible
_STILL = 1e-12  # a learning rate that changes no weight: a step has the same cost, and nothing diverges


def count_macs(model: nn.Module, shape: Sequence[int]) -> int:
    """Return the multiply-adds of the convolutions and matrix products for one image in evaluation mode.

    Args:
        shape: Shape of one image, (C, H, W).
    """
    weight = next(model.parameters(), torch.zeros(()))
    image = torch.zeros(1, *shape, device=weight.device, dtype=weight.dtype)
    with evaluating(model):
        return forward_macs(model, image)


def measure(
    model: nn.Module,
    shape: tuple[int, int, int, int],
    device: str | torch.device = "cpu",
    *,
    recipe: Recipe | None = None,
    beside: nn.Module | None = None,
    seconds: float = 0.1,
) -> Measured:
    """Measure time and memory of a network as in training: channels last, on CUDA with bfloat16 autocast.

    A copy of the network is measured, on the CPU with torch's current number of threads. Time is the median over turns,
    each with a warm-up; a second network is measured alternately, one turn each.

    Args:
        shape: Shape of the batch, (N, C, H, W).
        recipe: Names the optimiser of the training step whose memory is measured; None measures no training step.
        beside: The network to compare with, e.g. the one without attention.
        seconds: Time limit of the turns; there are at least three.
    Raises: any error of the network, such as torch's if memory is exhausted.
    """
    device = torch.device(device)
    images = _images(shape, device)
    bench = bench_of(shape, device, optimizer=recipe.optimizer if recipe else None)
    own = _copied(model, device)
    forward = partial(_forward, own, images)
    with torch.inference_mode(), precision(device):
        forward()  # allocates what is made once, such as handles of libraries
    with torch.inference_mode(), precision(device):
        forward_bytes = peak_bytes(forward, lambda: [images, *_tensors(own)], device)
    rivals = [own] if beside is None else [own, _copied(beside, device)]
    batch, ratio = _time(rivals, images, seconds)
    single, _ = _time([own], images[:1], seconds / 4)
    training_bytes = _training_bytes(own, images, recipe) if recipe else None
    return Measured(
        bench, *_middle(batch), ratio if beside is not None else None, len(batch), *_middle(single), forward_bytes,
        training_bytes,
    )  # fmt: skip


def image_latency(
    model: nn.Module,
    shape: tuple[int, int, int, int],
    device: str | torch.device = "cpu",
    *,
    beside: nn.Module | None = None,
    seconds: float = 0.2,
) -> tuple[float, float]:
    """Return the time of a forward pass in evaluation mode, and its ratio to that of a second network.

    Both networks are measured in alternating turns, and the fastest pass of each counts: what else runs on the machine
    can only slow a pass down, so that it changes neither number as long as some passes are undisturbed.

    Args:
        shape: Shape of the batch, (N, C, H, W).
        beside: The network to compare with; None gives a ratio of 1.
        seconds: As for `measure`.
    Units: milliseconds.
    """
    device = torch.device(device)
    rivals = [_copied(network, device) for network in (model, beside) if network is not None]
    images = _images(shape, device)
    fastest = [math.inf] * len(rivals)
    begun, n_turns = time.perf_counter(), 0
    with torch.inference_mode(), precision(device):
        while n_turns < _FEWEST_PASSES or (time.perf_counter() - begun < seconds and n_turns < _MOST_PASSES):
            for index, network in enumerate(rivals):
                fastest[index] = min(fastest[index], _seconds_a_pass(network, images, 1))
            n_turns += 1
    return 1e3 * fastest[0], fastest[0] / fastest[-1]


def image_memory(model: nn.Module, shape: tuple[int, int, int, int], device: str | torch.device = "cpu") -> int:
    """Return the peak memory of a forward pass in evaluation mode: weights, images and maps. Units: bytes."""
    device = torch.device(device)
    own, images = _copied(model, device), _images(shape, device)
    forward = partial(_forward, own, images)
    with torch.inference_mode(), precision(device):
        forward()  # allocates what is made once, such as handles of libraries
        return peak_bytes(forward, lambda: [images, *_tensors(own)], device)


@contextmanager
def turned_to(threads: int) -> Iterator[None]:
    """Context manager: set the number of torch threads to at most the present one."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(threads, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _images(shape: tuple[int, int, int, int], device: torch.device) -> Tensor:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    return images.contiguous(memory_format=torch.channels_last)


def bench_of(shape: tuple[int, int, int, int], device: torch.device, *, optimizer: str | None) -> Bench:
    """Return the conditions under which `measure` measures on this machine, with torch's current settings."""
    words = "bfloat16 autocast" if device.type == "cuda" else "float32"
    return Bench(_device_name(device), torch.get_num_threads(), words, shape, optimizer, torch.__version__)


def _device_name(device: torch.device) -> str:
    """Return the device's model name, as far as the system provides it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{device.type} ({platform.machine()})"
    known = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", known.read_text(), re.MULTILINE) if known.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _copied(model: nn.Module, device: torch.device) -> nn.Module:
    return independent_copy(model).to(device).to(memory_format=torch.channels_last).eval()


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _forward(model: nn.Module, images: Tensor) -> None:
    model(images)
    if images.device.type == "mps":
        torch.mps.synchronize()  # older versions of torch's timer synchronise with CUDA only


def _time(models: Sequence[nn.Module], images: Tensor, seconds: float) -> tuple[list[float], float]:
    """Return the first network's seconds per pass in each turn, and their median ratio to those of the last one."""
    turns: list[list[float]] = []
    with torch.inference_mode(), precision(images.device):
        n_passes = max(1, int(_SLOT / _seconds_a_pass(models[0], images, 1)))
        begun = time.perf_counter()
        while len(turns) < _FEWEST_TURNS or (len(turns) < TURNS and time.perf_counter() - begun < seconds):
            turns.append([_seconds_a_pass(model, images, n_passes) for model in models])
    return [turn[0] for turn in turns], statistics.median(turn[0] / turn[-1] for turn in turns)


def _seconds_a_pass(model: nn.Module, images: Tensor, n_passes: int) -> float:
    """Return the mean time of `n_passes` after one warm-up, by torch's clock, which synchronises with the device."""
    # On a machine with CUDA's tools and no GPU, this import logs an irrelevant warning.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.benchmark import timer

    _forward(model, images)
    begun = timer()
    for _ in range(n_passes):
        _forward(model, images)
    return (timer() - begun) / n_passes


def _middle(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the median and the interquartile range. Units: milliseconds."""
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return 1e3 * middle, 1e3 * (high - low)


def _training_bytes(model: nn.Module, images: Tensor, recipe: Recipe) -> int:
    """Return the peak of the second step, since the optimiser has no state before the first."""
    model.train()
    targets = torch.zeros(len(images), dtype=torch.long, device=images.device)
    still = recipe.model_copy(update={"lr": _STILL, "backbone_lr": 1.0, "freeze_epochs": 0})
    optimizer = make_optimizer(model, still)
    step = partial(take_step, model, images, targets, nn.CrossEntropyLoss(), optimizer)
    step()
    optimizer.zero_grad(set_to_none=True)
    state = [value for row in optimizer.state.values() for value in row.values() if isinstance(value, Tensor)]
    return peak_bytes(step, lambda: [images, targets, *_tensors(model), *state], images.device)
