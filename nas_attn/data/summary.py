"""What is computed from all pixels of a data set, in one pass over them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas_attn.data.arrays import PARTS, LabelledImages, PixelSums
from nas_attn.data.contrast import contrast
from nas_attn.data.mapped import blocks


@dataclass(frozen=True, eq=False)
class Summary:
    """What is known of all pixels.

    Args:
        fingerprint: SHA-256 of all pixels and labels, part by part.
        contrasts: Of each image of each part, see `contrast`.
        mean, std: Per channel of the train part, of pixels scaled to 0 to 1.
    """

    fingerprint: str
    contrasts: Mapping[str, NDArray[np.uint8]]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def summary_of(parts: Mapping[str, LabelledImages]) -> Summary:
    """Return the summary of train, val and test: each block is read once, and digested in a second thread."""
    digest, sums = hashlib.sha256(), PixelSums(parts["train"].pixels.shape[-1])
    contrasts = {}
    with ThreadPoolExecutor(1) as pool:
        for name in PARTS:
            images = parts[name]
            digest.update(f"{name}{images.pixels.shape}".encode())
            found = [np.zeros(0, np.uint8)]
            for block in blocks(images.pixels):
                digested = pool.submit(digest.update, block.data)
                found.append(contrast(block))
                if name == "train":
                    sums.add(block)
                digested.result()
            digest.update(images.labels.astype("<i8").tobytes())
            contrasts[name] = np.concatenate(found)
    return Summary(digest.hexdigest(), contrasts, *sums.mean_and_std)
