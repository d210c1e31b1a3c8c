"""Benchmarks and checks on a CUDA GPU; without one the script prints a message and exits with code 2.

    python benchmarks/gpu.py [--parts job loop packing memory] [--repeats 5] [--trials 32]

- `job`: the README's first command with one trial per GPU: seconds, exit code, the verdict.
- `loop`: images per second of the training loop (ResNet-18 with a small stem, 32x32 colour, batch 256, bf16) beside the
  loop that PyTorch's tutorials teach, with bf16 autocast, channels_last, worker processes and pinned memory. With crop
  and flip its DataLoader reads PIL images through torchvision's transforms; without, normalised
  tensors. All are measured alternately. Goal: not slower than the peers.
- `packing`: the default space with 1, 1/2, 1/4 and 1/8 of a GPU per trial: trials per minute, and the peak of the
  additional memory of the first GPU. The peer is one trial per GPU, the first row.
- `memory`: a search in which one trial has a batch that is too large. That trial must end as FAIL with the cause `oom`,
  all others with a value, and the run must finish.
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
from pathlib import Path
from statistics import median
from typing import Any

import torch
from run_log import ends
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from training import Pictures

from nas_attn import Placement, build_model, search
from nas_attn.config import Recipe
from nas_attn.data.dataset import Images
from nas_attn.training.loop import MOMENTUM, train

ROOT = Path(__file__).resolve().parent.parent
N_IMAGES, BATCH, EPOCHS = 10_240, 256, 3
LOADERS = 8
PACKED = (1.0, 0.5, 0.25, 0.125)
GIBIBYTE = 2**30


def job() -> None:
    """Run the first command of the README on CUDA."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, str(ROOT / "run_search.py"), "--space", "densenet_attn", "--out", "run"]
        begun = time.monotonic()
        done = subprocess.run(
            [*words, "--device", "cuda", "--gpus-per-trial", "1"], cwd=folder, capture_output=True, text=True
        )
        seconds = time.monotonic() - begun
    print(
        f"Main job, 1 trial per GPU: {seconds:.1f} s, exit code {done.returncode}\n{done.stdout[-1200:]}{done.stderr}"
    )


def loop(device: str, repeats: int) -> None:
    """Measure our loop and the plain ones alternately, from the same weights."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (N_IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    images = Images(pixels, torch.arange(N_IMAGES) % 10, (0.5,) * 3, (0.29,) * 3)
    ready = TensorDataset((pixels.float() / 255 - 0.5) / 0.29, images.targets)
    spec = {"name": "resnet18", "stem": "small"}
    net = build_model(spec, Placement(), num_classes=10, in_channels=3, image_size=32, seed=0)
    on_device = images.to(torch.device(device))
    contenders: dict[str, Callable[[nn.Module], float]] = {
        "ours, crop-flip": lambda model: ours(model, on_device, device, "crop-flip"),
        "DataLoader, crop-flip": lambda model: plain(model, Pictures(images), device),
        "ours, none": lambda model: ours(model, on_device, device, "none"),
        "DataLoader, none": lambda model: plain(model, ready, device),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            rates[name].append(len(images) / contender(copy.deepcopy(net)))
    print(f"\nTraining loop, ResNet-18 at 32x32, batch {BATCH}, bf16, median (range) of {repeats} rounds")
    for name, found in rates.items():
        rival = median(rates[name.replace("DataLoader", "ours")])
        shown = f"{median(found):9,.0f} images/s ({min(found):,.0f} to {max(found):,.0f})"
        print(f"  {name:<22} {shown}, ours is {rival / median(found):.2f} x as fast")


def ours(model: nn.Module, images: Images, device: str, augment: str) -> float:
    """Return the median seconds per epoch of our loop, without the first epoch, which warms up."""
    recipe = Recipe(batch_size=BATCH, augment=augment)  # type: ignore[arg-type]  # one of two literals
    facts = train(
        model, images, None, recipe, seed=0, epochs=EPOCHS, device=device, report=lambda *_: None, num_classes=10
    )
    return facts["seconds_per_epoch"]


def plain(model: nn.Module, dataset: Dataset[Any], device: str) -> float:
    """Return the seconds per epoch of a plain loop with bf16 autocast."""
    loader = DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=True,
        num_workers=LOADERS,
        persistent_workers=True,
        pin_memory=device == "cuda",
        drop_last=True,
    )
    model = model.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=MOMENTUM, nesterov=True, weight_decay=5e-4)
    criterion = nn.CrossEntropyLoss()
    seconds = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        loss = torch.zeros(())
        for inputs, targets in loader:
            inputs = inputs.to(device, non_blocking=True, memory_format=torch.channels_last)
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = criterion(model(inputs), targets.to(device, non_blocking=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        float(loss.detach())  # waits for the device
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def packing(n_trials: int) -> None:
    """Run the search with smaller and smaller shares of a GPU."""
    print("\nPacking, the search stage of densenet_attn on digits")
    first = 0.0
    for share in PACKED:
        workers = int(torch.cuda.device_count() / share)
        with tempfile.TemporaryDirectory() as folder, used_memory() as peak:
            out = Path(folder) / "run"
            search("densenet_attn", out=out, device="cuda", gpus_per_trial=share, trials=n_trials, seeds=1, top=1)
            moments = ends(out / "log.txt", "search")
        rate = 60 * (len(moments) - workers) / (moments[-1] - moments[workers - 1])
        first = first or rate
        print(f"  {share:5} of a GPU: {rate:7.1f} trials/min, {rate / first:.2f} x the first, {peak[0]:.2f} GiB")


@contextmanager
def used_memory() -> Iterator[list[float]]:
    """Context manager: sample the memory of the first GPU; the list's only item is the peak minus the start."""
    peak, ended = [0.0], threading.Event()
    before = torch.cuda.mem_get_info(0)[0]

    def sample() -> None:
        while not ended.wait(0.2):
            peak[0] = max(peak[0], (before - torch.cuda.mem_get_info(0)[0]) / GIBIBYTE)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def greedy_training(model: Any, run: Any) -> float:
    """Return a value after one step; one of the trials has a batch whose activations fit no GPU."""
    greedy = run.stage == "search" and not len(model.placement)
    images = torch.zeros(batch_that_cannot_fit() if greedy else 8, 1, 8, 8, device=run.device)
    logits: Tensor = model.to(run.device)(images)
    logits.sum().backward()
    run.report(1, 0.5)
    return 0.5


def batch_that_cannot_fit() -> int:
    """Return a batch that takes a sixteenth of the memory itself, and twice the memory after the first convolution."""
    return int(torch.cuda.mem_get_info()[1] // 16 // (8 * 8 * 4))


def memory(device: str, executor: str) -> None:
    """Run a search in which one trial runs out of memory, and print the states of its trials."""
    with tempfile.TemporaryDirectory() as folder:
        record = search(
            "densenet_attn",
            train=greedy_training,
            out=Path(folder) / "run",
            num_classes=10,
            in_channels=1,
            image_size=8,
            trials=6,
            epochs=1,
            seeds=1,
            top=1,
            device=device,
            executor=executor,
        )
    failed = [row for row in record.search if row.state == "fail"]
    n_others = sum(row.state == "complete" for row in record.search)
    print("\nOut of memory in one trial")
    for row in failed:
        print(f"  trial {row.number} ({row.placement}): {row.state}, cause {row.cause}: {row.reason}")
    right = [row.cause for row in failed] == ["oom"] and n_others >= 5 and record.best is not None
    print(f"  {n_others} other trials of the search have a value; {'as required' if right else 'WRONG'}")


def main() -> None:
    """Measure the selected parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("job", "loop", "packing", "memory"), default=None)
    parser.add_argument("--repeats", type=int, default=5, help="rounds of the loops")
    parser.add_argument("--trials", type=int, default=32, help="trials of each row of the packing")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("This benchmark needs a CUDA GPU that torch can use, but found none.", file=sys.stderr)
        sys.exit(2)
    parts = options.parts or ["job", "loop", "packing", "memory"]
    print(f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, torch {torch.__version__}")
    if "job" in parts:
        job()
    if "loop" in parts:
        loop("cuda", options.repeats)
    if "packing" in parts:
        packing(options.trials)
    if "memory" in parts:
        memory("cuda", "tune")


if __name__ == "__main__":
    main()
