"""The images of a run: described without torch, or loaded onto a device as tensors for training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from nas_attn.config import DataConfig
from nas_attn.data.arrays import PARTS, LabelledImages, mean_and_std, resized
from nas_attn.data.catalog import DATA, data_source
from nas_attn.data.entry import Progress
from nas_attn.data.mapped import AnyPixels, MappedPixels, blocks, converted
from nas_attn.data.placing import placed
from nas_attn.data.sources import read_source
from nas_attn.data.splits import constant_label_notes, split_dataset
from nas_attn.errors import DataError
from nas_attn.records import Labelling, labelling

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class DataFacts:
    """Facts about a data set that is read, split and resized.

    Args:
        name: The data source as the user wrote it.
        class_names: The classes, or the labels where an image may have several.
        class_counts: Number of images per class or per label, over all parts.
        fingerprint: SHA-256 of every pixel and label, part by part: it differs for another size, split or seed.
        mean, std: Per channel of the train part, of pixels scaled to 0 to 1.
        notes: Sentences that the user should read.
        task: Whether an image has one label, or any number of them.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    in_channels: int
    image_size: int
    n_train: int
    n_val: int
    n_test: int
    class_counts: tuple[int, ...]
    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()
    task: Labelling = "single-label"

    @property
    def in_words(self) -> str:
        """One sentence on the data."""
        size = f"{self.image_size}x{self.image_size}"
        labels = f"{self.num_classes} classes"
        if self.task == "multi-label":
            labels = f"each with any of {self.num_classes} labels, scored by their mean ROC AUC"
        return (
            f"Data: {self.name}, {self.n_train:,} training, {self.n_val:,} validation and {self.n_test:,} test "
            f"images of {size}, {labels}."
        )

    @property
    def n_bytes(self) -> int:
        """Bytes that the images take on the device."""
        return (self.n_train + self.n_val + self.n_test) * self.in_channels * self.image_size**2


@dataclass(frozen=True)
class Images:
    """Labelled images with the normalisation of their data set's train part: on a device, or copied to it in batches.

    Args:
        rows: Row of each image in `pixels`, which stay where they are, in memory or in a mapped file, so that only
            batches are copied to the device of `targets`. None: `pixels` are the images, on the device.

    Shape: pixels (N, C, H, W) uint8, channels last in memory; targets (N,) int64, or (N, K) float32 of 0 and 1 where an
        image may have several labels; mean and std one number per channel; rows (N,) int64, on the CPU.
    """

    pixels: Tensor
    targets: Tensor
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def task(self) -> Labelling:
        """Whether an image has one label, or any number of them."""
        return labelling(self.targets.ndim)

    @property
    def device(self) -> torch.device:
        """The device of the targets and of the batches."""
        return self.targets.device

    @property
    def in_words(self) -> str:
        """Where the images lie."""
        if self.device.type == "cpu":
            return "in memory" if self.rows is None else "memory-mapped"
        return f"on the device ({self.device})" if self.rows is None else f"each batch is copied to {self.device}"

    def to(self, device: str | torch.device) -> Images:
        """Return the same images on `device`; pixels that are copied in batches stay where they are."""
        pixels = self.pixels.to(device) if self.rows is None else self.pixels
        return replace(self, pixels=pixels, targets=self.targets.to(device))

    def first(self, n: int) -> Images:
        """Return the first `n` images."""
        if self.rows is None:
            return replace(self, pixels=self.pixels[:n], targets=self.targets[:n])
        return replace(self, targets=self.targets[:n], rows=self.rows[:n])

    def take(self, index: Tensor | slice) -> Tensor:
        """Return the pixels of some images, on the device.

        Args:
            index: Numbers of images, on the device of the pixels; or a slice.

        Shape: (B, C, H, W) uint8, channels last in memory.
        """
        pixels = self.pixels.permute(0, 2, 3, 1)
        chosen = pixels[index] if self.rows is None else pixels[self.rows[index]].to(self.device)
        return chosen.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Data:
    """The three parts on the device; `test` is read in the last comparison only."""

    train: Images
    val: Images
    test: Images
    facts: DataFacts

    @cached_property
    def train_val(self) -> Images:
        """Train and val together, for retraining, with the normalisation of train."""
        import torch

        train, val = self.train, self.val
        targets = torch.cat([train.targets, val.targets])
        if train.rows is not None and val.rows is not None and train.pixels is val.pixels:
            return replace(train, targets=targets, rows=torch.cat([train.rows, val.rows]))
        pixels = torch.cat([part.pixels.permute(0, 2, 3, 1) for part in (train, val)]).permute(0, 3, 1, 2)
        if train.rows is None or val.rows is None:
            return replace(train, pixels=pixels, targets=targets)
        return replace(
            train, pixels=pixels, targets=targets, rows=torch.cat([train.rows, val.rows + len(train.pixels)])
        )


def describe(config: DataConfig, *, progress: Progress | None = None) -> DataFacts:
    """Read, split and resize the data, and return facts about it; no torch, unless torchvision reads it.

    Args:
        progress: Called with the number of files decoded and their total, while they are not yet in the cache.

    Raises: DataError, in one sentence, for data that is missing, damaged, or too small for the split.
    """
    return _prepare(config, progress)[1]


def load_data(config: DataConfig, *, device: str | torch.device = "cpu", progress: Progress | None = None) -> Data:
    """Return the data as uint8 tensors on `device`, or beside it if they are too large; see `placed`.

    Raises: DataError, as `describe` does.
    """
    import torch

    parts, facts = _prepare(config, progress)
    pixels = placed(parts, torch.device(device))

    def images(name: str) -> Images:
        targets = torch.from_numpy(parts[name].labels)
        targets = targets.float() if facts.task == "multi-label" else targets
        return Images(pixels[name][0], targets.to(device), facts.mean, facts.std, pixels[name][1])

    train, val, test = map(images, PARTS)
    return Data(train, val, test, facts)


def _prepare(config: DataConfig, progress: Progress | None) -> tuple[dict[str, LabelledImages], DataFacts]:
    """Read, split and resize the data; the one path from a configuration to pixels."""
    dataset = read_source(config, progress)
    if len(dataset.class_names) < 2:
        raise DataError(f"'{config.name}' must have two classes or more, but has only {dataset.class_names[0]!r}.")
    split = split_dataset(dataset, config.split, config.seed)
    height, width, own_channels = split["train"].pixels.shape[1:]
    size = config.image_size or data_source(config.name).default_image or max(height, width)
    channels = config.channels or own_channels
    parts = {name: LabelledImages(_fitted(part.pixels, channels, size), part.labels) for name, part in split.items()}
    mean, std = mean_and_std(parts["train"].pixels)
    labels = np.concatenate([part.labels for part in parts.values()])
    n_classes = len(dataset.class_names)
    counts = labels.sum(0) if dataset.task == "multi-label" else np.bincount(labels, minlength=n_classes)
    notes = [
        *_source_notes(config),
        *dataset.notes,
        *_split_notes(dataset.parts, parts),
        *(constant_label_notes(dataset, parts) if dataset.task == "multi-label" else ()),
    ]
    if height != width:
        notes.append(f"Images of {height} x {width} are stretched to {size} x {size}.")
    facts = DataFacts(
        name=config.name,
        num_classes=n_classes,
        class_names=dataset.class_names,
        in_channels=channels,
        image_size=size,
        n_train=len(parts["train"]),
        n_val=len(parts["val"]),
        n_test=len(parts["test"]),
        class_counts=tuple(int(count) for count in counts),
        fingerprint=_fingerprint(parts),
        mean=mean,
        std=std,
        notes=tuple(notes),
        task=dataset.task,
    )
    return parts, facts


def _fitted(pixels: AnyPixels, channels: int, size: int) -> AnyPixels:
    """Return images with the run's channels and size; those of a mapped file have been decoded at this size."""
    pixels = converted(pixels, channels)
    return pixels if isinstance(pixels, MappedPixels) else resized(pixels, size)


def _source_notes(config: DataConfig) -> list[str]:
    """Return notes on the data source: a plug-in's package, and a size that the user did not state."""
    source = data_source(config.name)
    notes = [] if source.name in DATA.own else [f"Data source '{source.name}' belongs to {DATA.origin(source.name)}."]
    if source.default_image is not None and config.image_size is None:
        size = f"{source.default_image}x{source.default_image}"
        notes.append(f"The images are resized to {size}, the default of '{source.name}': --image-size changes it.")
    return notes


def _split_notes(found: Mapping[str, LabelledImages], parts: Mapping[str, LabelledImages]) -> list[str]:
    """Return notes on what a user might not expect of the split."""
    notes = []
    if "val" in found and "test" not in found:
        notes.append("The data set has its own val part but no test part, so test was split off from its train part.")
    unused = sum(map(len, found.values())) - sum(map(len, parts.values()))
    if unused:
        notes.append(f"{unused} images are in no part, since the shares of the split add up to less than 1.")
    return notes


def _fingerprint(parts: Mapping[str, LabelledImages]) -> str:
    """Return the SHA-256 of all pixels and labels, part by part."""
    digest = hashlib.sha256()
    for name in PARTS:
        digest.update(f"{name}{parts[name].pixels.shape}".encode())
        for block in blocks(parts[name].pixels):
            digest.update(block.data)
        digest.update(parts[name].labels.astype("<i8").tobytes())
    return digest.hexdigest()
