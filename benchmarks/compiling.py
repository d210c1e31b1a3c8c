"""Does torch.compile pay? Seconds per epoch with `--compile no` and `default`, the time of compiling, and from how many
epochs on a compiled training ends earlier.

    python benchmarks/compiling.py [--device cpu] [--repeats 3] [--modes default cudagraphs]

Both train the same network from the same weights on the same images, alternately, by the product's own loop; images are
noise. The compiler's cache is emptied before each compiled training, as each placement is compiled for the first time.
On the CPU an epoch's time is that of the processor, which other work on the machine does not spoil; the start is by the
wall.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from nas_attn import Placement
from nas_attn.config import Recipe
from nas_attn.data.dataset import Images
from nas_attn.model.build import build_model
from nas_attn.training.loop import train

EPOCHS = 4


@dataclass(frozen=True)
class Case:
    """One workload: a network with attention, and the size of its images."""

    title: str
    backbone: dict[str, Any]
    placement: dict[str, Any]
    channels: int
    size: int
    n_images: int


CASES = (
    Case("LeNet, se and cbam, 28x28, 500 images", {"name": "lenet"},
         {"stage1.pool": {"name": "se", "reduction": 2}, "stage2.pool": {"name": "cbam", "reduction": 2}}, 1, 28, 500),
    Case("DenseNet of densenet_attn, cbam, 8x8, 539 images",
         {"name": "densenet", "growth_rate": 8, "block_config": [4, 4, 4], "num_init_features": 32, "stem": "small"},
         {"denseblock2": {"name": "cbam", "reduction": 4}}, 1, 8, 539),
    Case("ResNet-18 for small images, se, 32x32, 128 images", {"name": "resnet18", "stem": "small"},
         {"stage4.block2.branch": {"name": "se"}}, 3, 32, 128),
)  # fmt: skip


def measured(case: Case, mode: str, device: str) -> tuple[float, float]:
    """Return the seconds per epoch, and the seconds from the call to the end of the first one beyond them."""
    shape = {"num_classes": 10, "in_channels": case.channels, "image_size": case.size}
    model = build_model(case.backbone, Placement.from_dict(case.placement), **shape)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (case.n_images, case.channels, case.size, case.size), generator=generator)
    images = Images(
        pixels.to(torch.uint8), torch.arange(case.n_images) % 10, (0.5,) * case.channels, (0.3,) * case.channels
    )
    clock = time.process_time if device == "cpu" else time.perf_counter
    moments, begun, first = [clock()], time.perf_counter(), list[float]()

    def report(epoch: int, value: float) -> None:
        moments.append(clock())
        first.append(time.perf_counter() - begun)

    recipe = Recipe(compile=mode)  # type: ignore[arg-type]  # one of its literals, or refused
    torch.compiler.reset()
    with tempfile.TemporaryDirectory() as cache, patch.dict("os.environ", TORCHINDUCTOR_CACHE_DIR=cache):
        train(
            *(model, images, None, recipe),
            seed=0, epochs=EPOCHS, device=device, num_classes=10,
            report=report,
        )  # fmt: skip
    seconds = [end - start for start, end in pairwise(moments)]
    per_epoch = median(seconds[1:])
    return per_epoch, first[0] - per_epoch


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row per workload and mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--modes", nargs="+", default=["default"])
    stated = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {stated.device}, one thread; medians of {stated.repeats}")
    for case in CASES:
        found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in ("no", *stated.modes)}
        for _ in range(stated.repeats):
            for mode, rows in found.items():
                rows.append(measured(case, mode, stated.device))
        print(case.title)
        plain = median(epoch for epoch, _ in found["no"])
        for mode, rows in found.items():
            epoch, start = (median(column) for column in zip(*rows, strict=True))
            saved = plain - epoch
            pays = f"pays from {math.ceil(start / saved):,} epochs on" if saved > 0 and mode != "no" else ""
            print(f"  {mode:<11}{epoch:8.3f} s per epoch ({plain / epoch:.2f} x), start {start:6.1f} s  {pays}")


if __name__ == "__main__":
    main()
