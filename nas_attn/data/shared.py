"""The images of a run on their way from the driver to its workers: read once, in one array of all parts.

An object store hands such an array to all processes of a machine without a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas_attn.config import DataConfig
from nas_attn.data.arrays import PARTS, LabelledImages, Labels, Pixels
from nas_attn.data.dataset import Data, DataFacts, as_tensors, take_prepared
from nas_attn.data.mapped import Announcing, AnyPixels, MappedPixels, blocks, map_file
from nas_attn.data.placing import tensor_of
from nas_attn.errors import DataError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class SharedImages:
    """The images of a run as the driver read them.

    Args:
        pixels: Of all parts, in the order of `PARTS`.
        labels: Of each part.

    Shape: pixels (M, H, W, C) uint8; labels (N,) or (N, K), where the lengths of all parts add up to M.
    """

    pixels: Pixels | MappedPixels
    labels: Mapping[str, Labels]
    facts: DataFacts

    @property
    def parts(self) -> dict[str, LabelledImages]:
        """The parts, whose pixels are slices of the one array."""
        found, start = {}, 0
        for name in PARTS:
            end = start + len(self.labels[name])
            found[name] = LabelledImages(_rows(self.pixels, start, end), self.labels[name])
            start = end
        return found

    def load(self, device: str | torch.device) -> Data:
        """Return the images as tensors; those on a CPU are not copied, also not for all parts together."""
        import torch

        data = as_tensors(self.parts, self.facts, device)
        if isinstance(self.pixels, MappedPixels) or data.train.device.type != "cpu":
            return data
        whole = tensor_of(self.pixels).permute(0, 3, 1, 2)
        pieces = torch.split(whole, [len(self.labels[name]) for name in PARTS])
        slices = {name: replace(getattr(data, name), pixels=piece) for name, piece in zip(PARTS, pieces, strict=True)}
        return replace(data, **slices)


@dataclass(frozen=True, eq=False)
class LargeImages:
    """The images of a run that are mapped from a file of the driver, because they are too large for its memory."""

    parts: Mapping[str, LabelledImages]
    facts: DataFacts

    def load(self, device: str | torch.device) -> Data:
        """Return the images as tensors, from whose file each batch is read, in the process that mapped it."""
        return as_tensors(self.parts, self.facts, device)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the images of all parts together, (M, H, W, C)."""
        shapes = [self.parts[name].pixels.shape for name in PARTS]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def blocks(self, n_bytes: int = 2**26) -> Iterator[Pixels]:
        """Yield the images of all parts, in the order of `PARTS`, in arrays of about so many bytes."""
        waiting: list[Pixels] = []
        for name in PARTS:
            for block in blocks(self.parts[name].pixels):
                waiting.append(block)
                if sum(each.nbytes for each in waiting) >= n_bytes:
                    yield np.concatenate(waiting)
                    waiting = []
        if waiting:
            yield np.concatenate(waiting)

    @property
    def in_blocks(self) -> ImagesInBlocks:
        """What a worker needs beside the blocks."""
        return ImagesInBlocks(self.shape, {name: self.parts[name].labels for name in PARTS}, self.facts)


@dataclass(frozen=True, eq=False)
class ImagesInBlocks:
    """Images of which a worker gets the pixels block after block, and writes them to a file of its machine.

    Shape: shape (M, H, W, C), of all parts in the order of `PARTS`.
    """

    shape: tuple[int, ...]
    labels: Mapping[str, Labels]
    facts: DataFacts

    def mapped_from(self, file: Path) -> SharedImages:
        """Return the images of a file that holds the blocks one after the other, mapped into memory."""
        with file.open("rb") as opened:
            mapping = map_file(opened)
        base = np.frombuffer(mapping, np.uint8).reshape(self.shape)
        announce = Announcing(mapping, 0, prod(self.shape[1:]))
        return SharedImages(MappedPixels(base, np.arange(len(base)), announce=announce), self.labels, self.facts)


def share(config: DataConfig, fingerprint: str | None) -> SharedImages | LargeImages:
    """Return the images of a run for its workers, as they were when the run was checked.

    Raises: DataError if they have been changed since.
    """
    parts, facts = take_prepared(config, fingerprint)
    refuse_changed(facts, fingerprint)
    if any(isinstance(parts[name].pixels, MappedPixels) for name in PARTS):
        return LargeImages(parts, facts)
    return SharedImages(
        _joined([parts[name].pixels for name in PARTS]), {name: parts[name].labels for name in PARTS}, facts
    )


def refuse_changed(facts: DataFacts, fingerprint: str | None, where: str = "") -> None:
    """Check that images are those of the run. Raises: DataError if they differ."""
    if fingerprint is not None and facts.fingerprint != fingerprint:
        raise DataError(
            f"The images of a run must stay as they are, but those of {facts.name}{where} are not the ones with which "
            "the run was checked: restore them, or begin a run of the new images with another --out."
        )


def _joined(several: Sequence[AnyPixels]) -> Pixels:
    """Return images in memory one after the other, copied once."""
    shape = (sum(map(len, several)), *several[0].shape[1:])
    found, start = np.empty(shape, np.uint8), 0
    for block in chain.from_iterable(map(blocks, several)):
        found[start : start + len(block)] = block
        start += len(block)
    return found


def _rows(pixels: AnyPixels, start: int, end: int) -> AnyPixels:
    if isinstance(pixels, MappedPixels):
        return replace(pixels, rows=pixels.rows[start:end])
    return pixels[start:end]
