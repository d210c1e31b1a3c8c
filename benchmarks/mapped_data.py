"""Trains on decoded images that are larger than a limit of memory, and prints time and resident memory of each step.

    python benchmarks/mapped_data.py --images 60000 --size 168

The images are links to a few files, so that only the decoded set takes room: in the folder of the cache, which
XDG_CACHE_HOME names. `--free-gb` states how much memory the images may believe to be free, so that they are mapped on
any machine; run it in a container with a limit to see that no more is needed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from nas_attn.config import DataConfig, Recipe
from nas_attn.data import mapped
from nas_attn.data.dataset import Data, describe, load_data
from nas_attn.training.loop import train

N_DISTINCT = 500


def make_folder(root: Path, n_images: int, size: int) -> None:
    """Write `N_DISTINCT` images of two classes, striped across or down, and links to them up to `n_images`."""
    generator = np.random.default_rng(0)
    stripes = 128 + 90 * np.sin(np.arange(size) / 5)
    for number in range(n_images):
        label, original = number % 2, root / "ab"[number % 2] / f"{number % N_DISTINCT}.jpg"
        if number < N_DISTINCT:
            original.parent.mkdir(parents=True, exist_ok=True)
            plane = np.broadcast_to(stripes[:, None] if label else stripes, (size, size))
            noisy = plane[..., None] + generator.normal(0, 30, (size, size, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(original)
        else:
            os.link(original, original.with_name(f"{number}.jpg"))


def memory() -> str:
    """Return the resident memory of this process: its own, and pages of files, which the system may drop."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split()[:2] for line in lines if line.startswith(("Rss", "VmHWM")))
    values = {name.rstrip(":"): int(kilobytes) * 1024 / 1e9 for name, kilobytes in pairs}
    return f"{values['RssAnon']:.2f} GB own, {values['RssFile']:.2f} GB of files, peak {values['VmHWM']:.2f} GB"


def network() -> nn.Module:
    """Return a network that is quick, so that reading the images is what takes time."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


def run(root: Path, n_images: int, size: int, epochs: int) -> None:
    """Decode, describe, load and train; print time and memory after each."""
    config = DataConfig(name=f"folder:{root}", image_size=size)
    steps = {
        "decoded": lambda: describe(config),
        "described from the cache": lambda: describe(config),
        "loaded": lambda: load_data(config),
    }
    print(f"{n_images:,} images of {size}x{size}, {n_images * size**2 * 3 / 1e9:.2f} GB decoded")
    data: Data | None = None
    for name, step in steps.items():
        start = time.perf_counter()
        found = step()
        print(f"{name}: {time.perf_counter() - start:.1f} s, {memory()}")
        data = found if isinstance(found, Data) else None
    assert data is not None, "the last step loads the images"
    print(f"the images are {data.train.in_words}")

    def report(epoch: int, value: float) -> None:
        print(f"epoch {epoch}: {value:.4f} of the validation images right, {memory()}")

    facts = train(
        network(), data.train, data.val, Recipe(), seed=0, epochs=epochs, device="cpu", report=report, num_classes=2
    )
    print(f"{facts['seconds_per_epoch']:.1f} s per epoch, {facts['images_per_second']:,.0f} images/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--size", type=int, default=168)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--free-gb", type=float, default=1.0)
    words = parser.parse_args()
    mapped.free_memory = lambda: int(words.free_gb * 1e9)
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder), words.images, words.size)
        run(Path(folder), words.images, words.size, words.epochs)
