"""Where the pixels of a run lie: on the device whole, or in memory or a mapped file from which batches are copied."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.data.arrays import LabelledImages
from nas_attn.data.mapped import MEMORY_SHARE, Announce, AnyPixels, MappedPixels, fits_in_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DEVICE_SHARE = 0.25
"""Largest share of a GPU's free memory that the images may take; larger sets are copied batch by batch."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where the images of a part lie.

    Args:
        rows: Row of each image in `pixels`; None if `pixels` are the images, on the device.
        announce: Called with the rows that are about to be read; None where that is of no use.

    Shape: pixels (M, C, H, W) uint8, channels last in memory; rows (N,) int64, on the CPU.
    """

    pixels: Tensor
    rows: Tensor | None = None
    announce: Announce | None = None


def placed(parts: Mapping[str, LabelledImages], device: torch.device) -> dict[str, Place]:
    """Return where the images of each part lie for a training on a device.

    Parts of one mapped file share one tensor. On a CPU, images in memory are on the device already.
    """
    import torch

    whole = fits_on_device(sum(part.pixels.nbytes for part in parts.values()), device)
    bases: dict[int, Tensor] = {}

    def place(pixels: AnyPixels) -> Place:
        if isinstance(pixels, MappedPixels) and not (whole and device.type != "cpu"):
            assert pixels.channels in (None, pixels.base.shape[-1]), "a cache file has the run's channels"
            base = bases.setdefault(id(pixels.base), tensor_of(pixels.base).permute(0, 3, 1, 2))
            return Place(base, tensor_of(pixels.rows), pixels.announce)
        tensor = tensor_of(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
        return Place(tensor.to(device)) if whole else Place(tensor, torch.arange(len(tensor)))

    return {name: place(part.pixels) for name, part in parts.items()}


def tensor_of(array: NDArray[Any]) -> Tensor:
    """Return an array as a tensor over the same memory, which nobody writes to; an object store's is read-only."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def mapped_notes(parts: Mapping[str, LabelledImages]) -> list[str]:
    """Return a note on images that are not in memory."""
    n_bytes = sum(part.pixels.nbytes for part in parts.values() if isinstance(part.pixels, MappedPixels))
    note = (
        f"The images, {n_bytes / 1e9:.1f} GB, are memory-mapped: a copy of them for each core would take more than "
        f"{100 * MEMORY_SHARE:g} % of the free memory."
    )
    return [note] if n_bytes else []


def fits_on_device(n_bytes: int, device: torch.device) -> bool:
    """Return whether images of so many bytes are to lie on the device whole; always true on a CPU."""
    import torch

    if device.type == "cpu":
        return True
    if device.type == "cuda":
        return n_bytes <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    return fits_in_memory(n_bytes)  # a device that shares the machine's memory
