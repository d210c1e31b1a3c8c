"""A data set with its own test part, as a reader returns it; val is split off from train."""

import numpy as np

from nas_attn import ImageDataset, LabelledImages

generator = np.random.default_rng(0)


def images(n):
    return LabelledImages(generator.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8), np.arange(n) % 2)


dataset = ImageDataset(("cat", "dog"), {"train": images(80), "test": images(20)}, notes=("Random pixels.",))
