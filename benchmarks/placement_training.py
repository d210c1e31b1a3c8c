"""The training of a table of placements: as the built-in one, and the record of what the network gets right.

It is a module of its own, so that the workers import it.
"""

from __future__ import annotations

import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from nas_attn import Run
from nas_attn.config import DataConfig, Recipe
from nas_attn.data.dataset import Data, load_data
from nas_attn.training.loop import predict, train


@lru_cache(maxsize=1)
def images(name: str) -> Data:
    """Return the images, read once per process."""
    return load_data(DataConfig(name=name), device="cpu")


def measured(model: nn.Module, run: Run, *, folder: Path, data: str, recipe: Recipe) -> float:
    """Train as the built-in training does, and store the curve and each image's correctness under the placement."""
    parts, curve = images(data), []

    def report(epoch: int, value: float) -> None:
        curve.append(value)
        run.report(epoch, value)

    facts = train(
        *(model, parts.train, parts.val, recipe),
        seed=run.seed, epochs=run.epochs, device=run.device, report=report, num_classes=10,
    )  # fmt: skip
    right = {
        name: (predict(model, part).argmax(1) == part.targets).numpy()
        for name, part in (("val", parts.val), ("test", parts.test))
    }
    if run.stage == "search":
        stored = folder / f"{run.placement.key}-{run.seed}.npz"
        seconds = run.epochs * facts["seconds_per_epoch"]
        store(stored, curve=np.array(curve, dtype=np.float32), seconds=np.float32(seconds), **right)
    return float(right["val"].mean())


def store(path: Path, **arrays: Any) -> None:
    """Write arrays as a whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        np.savez_compressed(file, **arrays)
    os.replace(file.name, path)
