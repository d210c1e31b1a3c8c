"""Proves and measures on one CUDA GPU, in at most 8 minutes: one table, and exit code 1 if a row is not as required.

    python benchmarks/gpu.py [--parts seeds memory loops job fractions compile] [--seconds 480] [--device cpu --quick]

- `job`: the README's first command with eight trials per GPU ends with exit code 0 and a verdict.
- `fractions`: the search of `densenet_attn` with 1, 1/4 and 1/8 of the GPU per trial: trials per minute, and the peak
  of the additional memory of the GPU.
- `memory`: batches that double until one does not fit a process that is allowed a part of the memory: that training
  fails by `oom` and a small one after it in the same process ends; and a search in which one trial is too large ends,
  that trial alone as FAIL with the cause `oom`.
- `loops`: images per second of our loop (ResNet-18, 32x32, batch 256, bf16) beside PyTorch's tutorials', timm's and one
  in the manner of airbench, measured alternately. Required: at least as fast as the tutorials' and timm's.
- `seeds`: five seeds of one arm as one beside one after the other, and in a run: time, and that the losses are equal.
- `compile`: our loop as it is, compiled by torch, and replayed from CUDA graphs.

Without a GPU the script prints a message and exits with code 2, unless `--device cpu --quick` runs every part at the
smallest size to test the script itself: its numbers mean nothing. A part that the time does not allow is left out.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from gpu_loops import airbench_loop, ours, timm_loop, tutorial
from run_log import ends
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from training import Pictures

from nas_attn import Attention, Placement, build_model, search
from nas_attn.config import Recipe
from nas_attn.data.dataset import Images
from nas_attn.errors import TrialFailed, in_one_line
from nas_attn.training.loop import train
from nas_attn.training.stacked import CannotStack, train_seeds

ROOT = Path(__file__).resolve().parent.parent
GIBIBYTE = 2**30
RESNET = {"name": "resnet18", "stem": "small"}
DENSENET = {"name": "densenet", "growth_rate": 8, "block_config": [4, 4, 4], "num_init_features": 32}
K = 5


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        trial: Options of the whole job and of the searches.
    """

    n_images: int
    batch: int
    epochs: int
    rounds: int
    loaders: int
    trial: dict[str, Any]


FULL = Size(10_240, 256, 4, 3, 8, {"trials": 24})
QUICK = Size(64, 32, 2, 1, 0, {"trials": 2, "epochs": 1, "seeds": 1, "top": 1, "controls": 0, "workers": 1})


@dataclass(frozen=True)
class Row:
    """One row of the table; `is_right` is None where nothing is required."""

    part: str
    what: str
    found: str
    is_right: bool | None = None


def job(device: str, size: Size) -> Iterator[Row]:
    """Run the first command of the README."""
    more = {"epochs", "seeds", "top", "controls", "workers"} & size.trial.keys()
    options = [word for name in (*sorted(more), "trials") for word in (f"--{name}", str(size.trial[name]))]
    options += ["--gpus-per-trial", "0.125"] if device == "cuda" else ["--executor", "local"]
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, str(ROOT / "run_search.py"), "--space", "densenet_attn", "--out", "run"]
        begun = time.monotonic()
        done = subprocess.run([*words, "--device", device, *options], cwd=folder, capture_output=True, text=True)
        seconds = time.monotonic() - begun
        has_report = (Path(folder) / "run" / "report.html").is_file()
    lines = [line for line in done.stdout.splitlines() if line.strip()] or done.stderr.splitlines() or [""]
    yield Row("job", "README's first command", f"{seconds:.0f} s, code {done.returncode}", done.returncode == 0)
    yield Row("job", "its report", lines[-1].strip()[:70], has_report)


def fractions(device: str, size: Size) -> Iterator[Row]:
    """Run the search with smaller and smaller parts of the GPU."""
    first = 0.0
    for share in (1.0, 0.25, 0.125) if device == "cuda" else (1.0,):
        given = {"gpus_per_trial": share} if device == "cuda" else {"executor": "local"}
        with tempfile.TemporaryDirectory() as folder, used_memory(device) as peak:
            out = Path(folder) / "run"
            search("densenet_attn", out=out, device=device, **{**size.trial, "seeds": 1, "top": 1}, **given)
            moments = ends(out / "log.txt", "search")
        workers = min(int(1 / share), len(moments) - 1)
        rate = 60 * (len(moments) - workers) / max(1e-3, moments[-1] - moments[workers - 1])
        first = first or rate
        found = f"{rate:.0f} trials/min, {rate / first:.2f} x the whole GPU, {peak[0]:.2f} GiB"
        yield Row("fractions", f"{share:g} of a GPU per trial", found, len(moments) >= size.trial["trials"])


@contextmanager
def used_memory(device: str) -> Iterator[list[float]]:
    """Context manager: sample the memory of the first GPU; the list's only item is the peak minus the start in GiB."""
    peak, ended = [0.0], threading.Event()

    def used() -> float:
        free, total = torch.cuda.mem_get_info(0) if device == "cuda" else (0, 0)
        return (total - free) / GIBIBYTE

    before = used()

    def sample() -> None:
        while not ended.wait(0.2):
            peak[0] = max(peak[0], used() - before)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def memory(device: str, size: Size) -> Iterator[Row]:
    """Run out of memory in a training of this process, and in one trial of a search."""
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(0.02)
    causes = [_cause(device, 2**power) for power in (range(6, 15) if device == "cuda" else (5,))]
    n_fitting = causes.index("oom") if "oom" in causes else len(causes)
    ladder = f"{n_fitting} sizes fit, then {' '.join(cause or 'fits' for cause in causes[n_fitting:]) or 'nothing'}"
    is_right = device != "cuda" or ("oom" in causes and set(causes[n_fitting:]) == {"oom"})
    yield Row("memory", "batches that double, 2 % of the memory", ladder, is_right)
    yield Row("memory", "a small training after them", _cause(device, 32) or "fits", _cause(device, 32) is None)
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0)
    yield from _greedy_search(device)


def _cause(device: str, batch: int) -> str | None:
    """Return why a training of one step fails; None if it does not."""
    pixels = torch.zeros(batch, 64, 64, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    images = Images(pixels, torch.arange(batch) % 10, (0.5,) * 3, (0.29,) * 3)
    model = build_model(RESNET, Placement(), num_classes=10, in_channels=3, image_size=64, seed=0)
    recipe = Recipe(batch_size=batch)
    try:
        train(model, images, None, recipe, seed=0, epochs=1, device=device, report=lambda *_: None, num_classes=10)
    except TrialFailed as error:
        return error.cause
    return None


def greedy_training(model: Any, run: Any) -> float:
    """Return a value after one step; one of the trials has a batch whose activations fit no machine."""
    greedy = run.stage == "search" and not len(model.placement)
    images = torch.zeros(batch_that_cannot_fit(run.device) if greedy else 8, 1, 8, 8, device=run.device)
    logits: Tensor = model.to(run.device)(images)
    logits.sum().backward()
    run.report(1, 0.5)
    return 0.5


def batch_that_cannot_fit(device: str) -> int:
    """Return a batch that fits itself, and not after the first convolution; on the CPU, one that does not fit."""
    return int(torch.cuda.mem_get_info()[1] // 16 // (8 * 8 * 4)) if device == "cuda" else 2**48


def _greedy_search(device: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        record = search(
            *("densenet_attn", greedy_training, Path(folder) / "run"),
            num_classes=10, in_channels=1, image_size=8, trials=4, epochs=1, seeds=1, top=1, controls=0,
            device=device, workers=1, executor="tune" if device == "cuda" else "local",
        )  # fmt: skip
    failed = [row for row in record.search if row.state == "fail"]
    n_others = sum(row.state == "complete" for row in record.search)
    is_right = [row.cause for row in failed] == ["oom"] and n_others >= 3 and record.best is not None
    found = f"{', '.join(str(row.cause) for row in failed) or 'none failed'}; {n_others} others have a value"
    yield Row("memory", "a search with one trial that is too large", found, is_right)


def noise(size: Size) -> Images:
    """Return colour images for ResNet-18."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (size.n_images, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return Images(pixels.permute(0, 3, 1, 2), torch.arange(size.n_images) % 10, (0.5,) * 3, (0.29,) * 3)


def loops(device: str, size: Size) -> Iterator[Row]:
    """Measure our loop and the others alternately, from the same weights."""
    images = noise(size)
    ready = TensorDataset((images.pixels.float() / 255 - 0.5) / 0.29, images.targets)
    net = build_model(RESNET, Placement(), num_classes=10, in_channels=3, image_size=32, seed=0)
    on_device = images.to(device)
    short = {"batch": size.batch, "epochs": size.epochs}
    loaded = {**short, "loaders": size.loaders}
    contenders: dict[str, Callable[[nn.Module], float]] = {
        "ours, crop-flip": lambda model: ours(model, on_device, device, augment="crop-flip", **short),
        "DataLoader, crop-flip": lambda model: tutorial(model, Pictures(images), device, **loaded),
        "timm, crop-flip": lambda model: timm_loop(model, images, device, **loaded),
        "airbench's manner, crop-flip": lambda model: airbench_loop(model, images, device, **short),
        "ours, none": lambda model: ours(model, on_device, device, augment="none", **short),
        "DataLoader, none": lambda model: tutorial(model, ready, device, **loaded),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(size.rounds):
        for name, contender in contenders.items():
            rates[name].append(size.n_images / contender(copy.deepcopy(net)))
    for name, found in rates.items():
        own = rates["ours, none" if name.endswith("none") else "ours, crop-flip"]
        ratio = median(one / other for one, other in zip(own, found, strict=True))
        is_required = name.startswith(("DataLoader", "timm")) and device == "cuda"
        shown = f"{median(found):,.0f} images/s ({min(found):,.0f} to {max(found):,.0f}), ours is {ratio:.2f} x as fast"
        yield Row("loops", name, shown, ratio >= 1 if is_required else None)


def compiled(device: str, size: Size) -> Iterator[Row]:
    """Measure our loop with each kind of `--compile`; the first epoch, which compiles, does not count."""
    images = noise(size).to(device)
    net = build_model(RESNET, Placement(), num_classes=10, in_channels=3, image_size=32, seed=0)
    plain = 0.0
    for mode in ("no", "default", "cudagraphs"):
        begun = time.monotonic()
        rate = size.n_images / ours(
            copy.deepcopy(net), images, device, augment="none", batch=size.batch, epochs=size.epochs, compile=mode
        )
        plain = plain or rate
        shown = f"{rate:,.0f} images/s, {rate / plain:.2f} x, {time.monotonic() - begun:.0f} s in all"
        yield Row("compile", mode, shown, None)


def seeds(device: str, size: Size) -> Iterator[Row]:
    """Train the seeds of one arm as one, and one after the other."""
    pixels = torch.randint(0, 256, (360, 8, 8, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = Images(pixels.permute(0, 3, 1, 2), torch.arange(360) % 10, (0.5,), (0.29,)).to(device)
    placement = Placement({f"denseblock{index}": Attention("se", {"reduction": 4}) for index in (1, 2, 3)})
    shape = {"num_classes": 10, "in_channels": 1, "image_size": 8}
    networks = [build_model(DENSENET, placement, **shape, seed=seed) for seed in range(K)]
    recipe, epochs = Recipe(), 2 * size.epochs
    ratios, losses = [], []
    for _ in range(size.rounds):
        alone = [
            train(
                *(copy.deepcopy(network), images, None, recipe), seed=seed, epochs=epochs, device=device,
                report=lambda *_: None, num_classes=10,
            )
            for seed, network in enumerate(networks)
        ]  # fmt: skip
        try:
            found = train_seeds(
                *(copy.deepcopy(networks), images, recipe), seeds=range(K), epochs=epochs, device=device, num_classes=10
            )
        except CannotStack as error:
            yield Row("seeds", f"{K} seeds as one", str(error), is_right=False)
            return
        together = [facts for facts in found if isinstance(facts, dict)]
        ratios.append(sum(f["seconds_per_epoch"] for f in alone) / sum(f["seconds_per_epoch"] for f in together))
        losses.append(max(abs(a["train_loss"] - b["train_loss"]) for a, b in zip(alone, together, strict=True)))
    yield Row("seeds", f"{K} seeds as one", f"{median(ratios):.2f} x as fast", is_right=True)
    yield Row("seeds", "greatest difference of their losses", f"{max(losses):.4f}")  # float64 decides: `refuse`
    one_by_one, at_once = (retraining_seconds(device, size, number) for number in (1, K))
    yield Row("seeds", f"a run's retrainings, --seeds-at-once {K}", f"{one_by_one / at_once:.2f} x as fast")


def retraining_seconds(device: str, size: Size, seeds_at_once: int) -> float:
    """Return the time of all retrainings of a small run with one worker."""
    few = {"trials": 1, "epochs": 1, "retrain_epochs": 2 * size.epochs, "top": 1, "controls": 0, "workers": 1}
    executor = "tune" if device == "cuda" else "local"
    with tempfile.TemporaryDirectory() as folder:
        run = search(
            "densenet_attn", out=Path(folder) / "run", device=device, executor=executor, seeds=K,
            seeds_at_once=seeds_at_once, **few,
        )  # fmt: skip
    return sum(row.seconds for row in run.retrain)


PARTS: dict[str, Callable[[str, Size], Iterator[Row]]] = {
    "seeds": seeds,
    "memory": memory,
    "loops": loops,
    "job": job,
    "fractions": fractions,
    "compile": compiled,
}


def rows_of(part: str, device: str, size: Size) -> Iterator[Row]:
    """Yield the rows of a part; an error ends the part alone."""
    try:
        yield from PARTS[part](device, size)
    except Exception as error:  # of any kind: the table of a borrowed machine must not be lost
        yield Row(part, "ended early", in_one_line(error), False)


def main() -> None:
    """Run the selected parts, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=480.0, help="no part begins with less than a minute left")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, to test this script")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("This benchmark needs a CUDA GPU that torch can use, but found none.", file=sys.stderr)
        sys.exit(2)
    name = torch.cuda.get_device_name(0) if options.device == "cuda" else "CPU"
    begun, rows = time.monotonic(), list[Row]()
    for part in options.parts:
        if time.monotonic() - begun > options.seconds - 60:
            rows.append(Row(part, "left out", f"{options.seconds:.0f} s are over"))
            continue
        rows += rows_of(part, options.device, QUICK if options.quick else FULL)
    print(f"\n{name}, torch {torch.__version__}, {time.monotonic() - begun:.0f} s\n")
    print("| part | what | found | as required |\n|---|---|---|---|")
    for row in rows:
        verdict = "" if row.is_right is None else "yes" if row.is_right else "NO"
        print(f"| {row.part} | {row.what} | {row.found} | {verdict} |")
    sys.exit(any(row.is_right is False for row in rows))


if __name__ == "__main__":
    main()
