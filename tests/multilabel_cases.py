"""Shared by the tests of several labels per image: labels with a planted signal, and files of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nas_attn.config import DataConfig
from nas_attn.data.dataset import DataFacts, describe

LABELS = ("edema", "hernia", "mass")


def planted(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grey 8x8 images of noise with a bright corner per label; the last label is rare."""
    generator = np.random.default_rng(seed)
    labels = (generator.random((n, 3)) < (0.5, 0.4, 0.15)).astype(np.uint8)
    images = generator.integers(0, 120, (n, 8, 8))
    for label, (row, column) in enumerate(((0, 0), (0, 5), (5, 0))):
        images[:, row : row + 3, column : column + 3] += 100 * labels[:, label, None, None]
    return images.astype(np.uint8), labels


def write_npz(path: Path, **parts: tuple[np.ndarray, np.ndarray]) -> str:
    images = {f"{part}_images": pair[0] for part, pair in parts.items()}
    np.savez_compressed(path, **images, **{f"{part}_labels": pair[1] for part, pair in parts.items()})
    return f"npz:{path}"


def facts_of(name: str, **options: object) -> DataFacts:
    return describe(DataConfig(name=name, **options))


def column(labels: np.ndarray, number: int, value: int) -> np.ndarray:
    changed = labels.copy()
    changed[:, number] = value
    return changed
