"""Two classes that a network learns in seconds, in memory and as a folder of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from multilabel_cases import planted
from PIL import Image

from nas_attn import Placement, build_model
from nas_attn.data.dataset import Images

TWO_CLASSES = {"num_classes": 2, "in_channels": 1, "image_size": 8}


def two_classes(n: int, seed: int = 0, share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Grey 8x8 images in noise; those of the second class have a bright corner."""
    images, _ = planted(n, seed)
    labels = (np.random.default_rng(seed).random(n) < share).astype(np.int64)
    images[:, 2:6, 2:6] = np.where(labels[:, None, None] == 1, 230, 20)
    return images, labels


def images_of(n: int, seed: int = 0, share: float = 0.5) -> Images:
    pixels, labels = two_classes(n, seed, share)
    return Images(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels), (0.3,), (0.2,))


def write_folder(root: Path, n: int = 120, names: tuple[str, ...] = ("cat", "dog")) -> Path:
    pixels, labels = two_classes(n, 3)
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = root / names[int(label)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    return root


def build_lenet(n_logits: int):
    return build_model("lenet", Placement(), num_classes=n_logits, in_channels=1, image_size=32, seed=0)
