"""The images of a run: described without torch, or loaded onto a device as tensors for training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from nas_attn.config import DataConfig
from nas_attn.data.appearance import colour_in_words
from nas_attn.data.arrays import PARTS, ImageDataset, LabelledImages, resized
from nas_attn.data.catalog import DATA, data_source
from nas_attn.data.collection import FIRST_FRAMES
from nas_attn.data.contrast import checked_contrast
from nas_attn.data.duplicates import handled_duplicates, with_origins
from nas_attn.data.entry import Progress
from nas_attn.data.mapped import Announce, AnyPixels, MappedPixels, converted
from nas_attn.data.pixel_range import EIGHT_BITS, cut_note, in_words, n_outside, table_of
from nas_attn.data.placing import mapped_notes, placed, tensor_of
from nas_attn.data.rendering import AS_BEFORE, Rendering
from nas_attn.data.sources import read_source, reading_of
from nas_attn.data.splits import label_notes, split_dataset
from nas_attn.data.summary import Summary, summary_of
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
        rendering: How files became pixels.
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
    rendering: Rendering = AS_BEFORE

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
        announce: Called with the rows that are about to be read; None where that is of no use.

    Shape: pixels (N, C, H, W) uint8, channels last in memory; targets (N,) int64, or (N, K) float32 of 0 and 1 where an
        image may have several labels; mean and std one number per channel; rows (N,) int64, on the CPU.
    """

    pixels: Tensor
    targets: Tensor
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    rows: Tensor | None = None
    announce: Announce | None = None

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
        chosen = index if self.rows is None else self.rows[index]
        if self.announce is not None and not isinstance(chosen, slice):
            self.announce(chosen.numpy())
        # five times as quick as indexing by a tensor
        found = pixels[chosen] if isinstance(chosen, slice) else pixels.index_select(0, chosen)
        return found.to(self.device).permute(0, 3, 1, 2)


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
        pixels = _joined(train.pixels, val.pixels)
        if train.rows is None or val.rows is None:
            return replace(train, pixels=pixels, targets=targets)
        rows = torch.cat([train.rows, val.rows + len(train.pixels)])
        return replace(train, pixels=pixels, targets=targets, rows=rows, announce=None)


def _joined(first: Tensor, second: Tensor) -> Tensor:
    """Return two tensors one after the other: without a copy if they follow each other in one piece of memory.

    Shape: (N, C, H, W) and (M, C, H, W), channels last in memory -> (N + M, C, H, W).
    """
    import torch

    one, other = first.permute(0, 2, 3, 1), second.permute(0, 2, 3, 1)
    follows = one.is_contiguous() and other.is_contiguous() and one.shape[1:] == other.shape[1:]
    same = one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    if follows and same and other.storage_offset() == one.storage_offset() + one.numel():
        shape = (len(one) + len(other), *one.shape[1:])
        return torch.as_strided(one, shape, one.stride(), one.storage_offset()).permute(0, 3, 1, 2)
    return torch.cat([one, other]).permute(0, 3, 1, 2)


def describe(config: DataConfig, *, progress: Progress | None = None) -> DataFacts:
    """Read, split and resize the data, and return facts about it; no torch, unless torchvision reads it.

    Args:
        progress: Called with the number of files decoded and their total, while they are not yet in the cache.

    Raises: DataError, in one sentence, for data that is missing, damaged, or too small for the split.
    """
    parts, facts = _prepare(config, progress)
    _described["last"] = (config, parts, facts)
    return facts


def load_data(config: DataConfig, *, device: str | torch.device = "cpu", progress: Progress | None = None) -> Data:
    """Return the data as uint8 tensors on `device`, or beside it if they are too large; see `placed`.

    Raises: DataError, as `describe` does.
    """
    return as_tensors(*_prepare(config, progress), device)


def as_tensors(parts: Mapping[str, LabelledImages], facts: DataFacts, device: str | torch.device) -> Data:
    """Return prepared parts as uint8 tensors on `device`, or beside it if they are too large; see `placed`."""
    import torch

    places = placed(parts, torch.device(device))

    def images(name: str) -> Images:
        targets = tensor_of(parts[name].labels)
        targets = targets.float() if facts.task == "multi-label" else targets
        place = places[name]
        return Images(place.pixels, targets.to(device), facts.mean, facts.std, place.rows, place.announce)

    train, val, test = map(images, PARTS)
    return Data(train, val, test, facts)


def take_prepared(config: DataConfig, fingerprint: str | None) -> tuple[dict[str, LabelledImages], DataFacts]:
    """Return the parts and facts of images that `describe` read last, or read them again; they are kept no longer.

    Args:
        fingerprint: Digest of the images that are wanted: others are read again.
    """
    last = _described.pop("last", None)
    if last is not None and last[0] == config and last[2].fingerprint == fingerprint:
        return last[1], last[2]
    return _prepare(config, None)


_described: dict[str, tuple[DataConfig, dict[str, LabelledImages], DataFacts]] = {}
"""The images that were described last: a search reads them once, and hands them to its workers."""


def _prepare(config: DataConfig, progress: Progress | None) -> tuple[dict[str, LabelledImages], DataFacts]:
    """Read, split and resize the data; the one path from a configuration to pixels."""
    dataset = read_source(config, progress)
    if len(dataset.class_names) < 2:
        only = dataset.class_names[0]
        raise DataError(f"'{config.name}' must have two classes or more, but has only {only!r}: add another one.")
    dataset = with_origins(_in_stated_range(dataset, config))
    split = split_dataset(dataset, config.split, config.seed)
    notes = [*_source_notes(config), *dataset.notes, *_split_notes(dataset.parts, split)]
    distinct, found = handled_duplicates(split, dataset.class_names, drop=config.drop_duplicates)
    notes += found
    height, width, own_channels = split["train"].pixels.shape[1:]
    size = config.image_size or data_source(config.name).default_image or max(height, width)
    channels = config.channels or own_channels
    parts = {name: replace(part, pixels=_fitted(part.pixels, channels, size)) for name, part in distinct.items()}
    rendering = _rendering(dataset, config)
    how_read = _how_read(dataset, rendering)
    summary = summary_of(parts)
    notes += checked_contrast(
        parts, summary.contrasts, dataset.class_names, how_read=how_read, allow=config.allow_blank
    )
    notes += label_notes(dataset, parts) + mapped_notes(parts)
    if height != width:
        notes.append(f"Images of {height} x {width} are stretched to {size} x {size}.")
    return parts, _facts(config.name, dataset, parts, summary, rendering, tuple(notes))


def _facts(
    name: str,
    dataset: ImageDataset,
    parts: Mapping[str, LabelledImages],
    summary: Summary,
    rendering: Rendering,
    notes: tuple[str, ...],
) -> DataFacts:
    """Return the facts about parts that are split and resized."""
    pixels = parts["train"].pixels
    labels = np.concatenate([part.labels for part in parts.values()])
    n_classes = len(dataset.class_names)
    counts = labels.sum(0) if dataset.task == "multi-label" else np.bincount(labels, minlength=n_classes)
    return DataFacts(
        name=name,
        num_classes=n_classes,
        class_names=dataset.class_names,
        in_channels=pixels.shape[-1],
        image_size=pixels.shape[1],
        n_train=len(parts["train"]),
        n_val=len(parts["val"]),
        n_test=len(parts["test"]),
        class_counts=tuple(int(count) for count in counts),
        fingerprint=summary.fingerprint,
        mean=summary.mean,
        std=summary.std,
        notes=notes,
        task=dataset.task,
        rendering=rendering,
    )


def _in_stated_range(dataset: ImageDataset, config: DataConfig) -> ImageDataset:
    """Return a data set of 8-bit arrays in the range that the user states; that of files was applied to each file."""
    pixel_range = reading_of(config).pixel_range
    if pixel_range is None or dataset.pixel_range is not None:
        return dataset
    table = np.array(table_of(pixel_range), np.uint8)
    parts = {part: replace(images, pixels=table[np.asarray(images.pixels)]) for part, images in dataset.parts.items()}
    notes = (*dataset.notes, f"Pixel range: {in_words(pixel_range)}, as stated by --pixel-range.")
    n_cut = sum(n_outside(images.pixels, pixel_range) for images in dataset.parts.values())
    notes += (cut_note(pixel_range, n_cut),) if n_cut else ()
    return replace(dataset, parts=parts, pixel_range=pixel_range, notes=notes)


def _rendering(dataset: ImageDataset, config: DataConfig) -> Rendering:
    """Return how the images became pixels, for new images of the network."""
    reading = reading_of(config)
    return Rendering(dataset.pixel_range or EIGHT_BITS, reading.pixel_range or EIGHT_BITS, reading.background)


def _how_read(dataset: ImageDataset, rendering: Rendering) -> str:
    """Return how the images were read, with the options that change it, for a message."""
    shown = [f"values of {in_words(rendering.deep_range or EIGHT_BITS)}: --pixel-range"]
    if any(note.startswith(FIRST_FRAMES) for note in dataset.notes):
        shown.append("the first frame of several: --frames all")
    shown.append(f"on {colour_in_words(rendering.background)}: --background")
    return ", ".join(shown)


def _fitted(pixels: AnyPixels, channels: int, size: int) -> AnyPixels:
    """Return images with the run's channels and size; those of a mapped file have been decoded at this size."""
    pixels = converted(pixels, channels)
    if isinstance(pixels, MappedPixels) or pixels.shape[1:3] == (size, size):
        return pixels
    return resized(np.asarray(pixels), size)


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
