"""The time to read an image folder with all checks, beside the first epoch of torchvision's ImageFolder; goal: 1.1.

    python benchmarks/reading.py [--images 10000] [--rounds 3] [--image-size 64] [--folder PATH]

Ours is `describe` without its cache: it decodes, resizes, turns and checks every image (content hash, contrast,
orientation, range), looks for equal images, splits, and writes the cache. Theirs is one epoch of a DataLoader with two
workers over ImageFolder, with the same resize. Both are measured alternately, in alternating order, after one pass that
brings the files into the memory of the system, and the medians are shown. Without `--folder` photographs are imitated:
JPEGs of 500x375 and 256x256 pixels in two classes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from nas_attn.config import DataConfig
from nas_attn.data.dataset import describe

SIZES = ((500, 375), (256, 256))
CLASSES = "left", "right"


def main() -> None:
    """Measure both in turns, and print their seconds and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = given.folder or Path(place, "photographs")
        if given.folder is None:
            draw_photographs(folder, given.images)
        read_theirs(folder, given.image_size)
        ways = {"nas_attn": read_ours, "ImageFolder": read_theirs}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(given.rounds):
            for name, read in list(ways.items())[:: 1 if number % 2 else -1]:
                seconds[name].append(timed(read, folder, given.image_size))
                print(f"round {number + 1}: {name} {seconds[name][-1]:.1f} s", flush=True)
    ours, theirs = (median(seconds[name]) for name in ways)
    print(f"nas_attn {ours:.1f} s, ImageFolder with 2 workers {theirs:.1f} s: ratio {ours / theirs:.2f} (goal: 1.1)")


def draw_photographs(folder: Path, n: int) -> None:
    """Write JPEGs of smooth shapes with some noise, each unlike the others."""
    generator = np.random.default_rng(0)
    for number in range(n):
        width, height = SIZES[number % len(SIZES)]
        coarse = generator.integers(0, 256, (12, 16, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
        noise = generator.integers(-12, 13, (height, width, 1), np.int16)
        place = folder / CLASSES[number // len(SIZES) % len(CLASSES)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(place / f"{number:05}.jpg", quality=88)


def timed(read: Callable[[Path, int], int], folder: Path, size: int) -> float:
    """Return the seconds of one reading."""
    begun = time.perf_counter()
    read(folder, size)
    return time.perf_counter() - begun


def read_ours(folder: Path, size: int) -> int:
    """Read, check and split the folder without a cache, and return the number of images."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        facts = describe(DataConfig(name=f"folder:{folder}", image_size=size))
    return facts.n_train + facts.n_val + facts.n_test


def read_theirs(folder: Path, size: int) -> int:
    """Read one epoch of ImageFolder in the order of the files, and return the number of images."""
    resize = transforms.Compose([transforms.Resize((size, size)), transforms.PILToTensor()])
    loader = DataLoader(ImageFolder(str(folder), resize), batch_size=256, num_workers=2)
    return sum(len(labels) for _, labels in loader)


if __name__ == "__main__":
    main()
