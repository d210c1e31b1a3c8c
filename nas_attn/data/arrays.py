"""What every source of images hands over: plain numpy parts, cut into splits and brought to one shape. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.config import n_cores
from nas_attn.errors import DataError
from nas_attn.records import Labelling, labelling

Progress = Callable[[int, int], None]
Shares = tuple[float, float, float]
Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

PARTS = ("train", "val", "test")
_CHUNK = 256


@dataclass(frozen=True)
class Part:
    """Some images with their labels.

    Shape: pixels (N, H, W, C) with C 1 or 3; labels (N,), or (N, K) of 0 and 1 where an image may have several.
    """

    pixels: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: NDArray[Any]) -> Part:
        """Return the images at `chosen`, in that order."""
        return Part(self.pixels[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Source:
    """A data set as it was found.

    Args:
        parts: `train`, and `val` and `test` where the data set brings its own.
        shares: The default split of what it does not bring; None takes that of `default_shares`.
        notes: Sentences that a user should read, e.g. about files that were skipped.
    """

    class_names: tuple[str, ...]
    parts: Mapping[str, Part]
    shares: Shares | None = None
    notes: tuple[str, ...] = ()

    @property
    def task(self) -> Labelling:
        """Return whether an image has one label, or any number of them."""
        return labelling(self.parts["train"].labels.ndim)


def default_shares(own: Sequence[str]) -> Shares:
    """Return the shares of train, val and test where the data set brings the parts in `own` itself."""
    return {
        (): (0.7, 0.15, 0.15),
        ("test",): (0.8, 0.2, 0.0),
        ("val",): (0.85, 0.0, 0.15),
        ("val", "test"): (1.0, 0.0, 0.0),
    }[tuple(part for part in PARTS[1:] if part in own)]


def check_shares(shares: Shares, own: Sequence[str]) -> None:
    """Refuse shares that leave a part empty, that exceed the whole, or that cut a part which the data set brings."""
    shown = "/".join(f"{share:g}" for share in shares)
    if sum(shares) > 1 + 1e-9:
        raise DataError(f"The shares of a split must add up to 1 or less, but {shown} add up to {sum(shares):g}.")
    for part, share in zip(PARTS, shares, strict=True):
        if part in own and part != "train" and share > 0:
            raise DataError(
                f"The data set brings its own {part} part, so its share must be 0, but the split is {shown}."
            )
        if (part not in own or part == "train") and share <= 0:
            raise DataError(f"The share of {part} must be above 0, but the split is {shown}.")


def cut(source: Source, shares: Shares | None, seed: int) -> dict[str, Part]:
    """Return train, val and test: the data set's own, and the rest cut from its train part.

    Raises: DataError if the shares do not fit, or a class or label has fewer images than the parts need.
    """
    own = tuple(source.parts)
    shares = shares or source.shares or default_shares(own)
    check_shares(shares, own)
    split = dealt if source.task == "multi-label" else stratified
    chosen = split(source.parts["train"].labels, shares, seed, source.class_names)
    return {
        part: source.parts[part] if part in own and part != "train" else source.parts["train"].take(index)
        for part, index in zip(PARTS, chosen, strict=True)
    }


def stratified(
    labels: Labels, shares: Shares, seed: int, class_names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the sorted indices of three disjoint parts, each class cut by the same shares.

    Every class has an image in every part whose share is above 0. What the shares leave over is in no part. The
    generator is numpy's frozen one, so that a split outlives an upgrade. Raises: DataError that names the class.
    """
    generator = _generator(seed)
    needed = _needed(shares)
    parts: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
    for number, name in enumerate(class_names):
        members = np.flatnonzero(labels == number)
        if len(members) < len(needed):
            raise DataError(
                f"Every class must have an image for each of {', '.join(needed)}, but class '{name}' has "
                f"{len(members)} where {len(needed)} are needed: add images, or leave the class out."
            )
        order = generator.permutation(members)
        ends = np.cumsum(_counts(len(members), shares))
        for part, index in zip(parts, np.split(order, ends)[:3], strict=True):
            part.append(index)
    train, val, test = (np.sort(np.concatenate(part)) for part in parts)
    return train, val, test


def dealt(
    labels: Labels, shares: Shares, seed: int, class_names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the sorted indices of three disjoint parts of images that may have several labels.

    Label by label, the rarest first, the images with it that no part has yet are dealt so that every part comes to its
    share of that label; the images without any label come last. So every label is cut nearly by the same shares.
    Source: after Sechidis et al., ECML PKDD 2011 (iterative stratification), a whole label at a time.

    Shape: labels (N, K).
    Raises: DataError that names a label with too few images that have it, or that do not.
    """
    generator, needed = _generator(seed), _needed(shares)
    for name, present in zip(class_names, labels.sum(0), strict=True):
        for n, whether in ((int(present), "with"), (len(labels) - int(present), "without")):
            if n < len(needed):
                raise DataError(
                    f"Every label must have an image with and one without it for each of {', '.join(needed)}, but "
                    f"label '{name}' has {n} {whether} it where {len(needed)} are needed: "
                    "add images, or leave the label out."
                )
    weights = np.array([*shares, round(max(0.0, 1 - sum(shares)), 9)])  # the last is what no part gets
    part_of = np.full(len(labels), -1)
    rarest_first = np.argsort(labels.sum(0), kind="stable")
    for members in (*(np.flatnonzero(labels[:, label]) for label in rarest_first), np.arange(len(labels))):
        found = part_of[members]
        free = generator.permutation(members[found < 0])
        missing = np.maximum(weights * len(members) - np.bincount(found[found >= 0], minlength=len(weights)), 0)
        if len(free):
            part_of[free] = np.repeat(np.arange(len(weights)), _counts(len(free), missing / missing.sum()))
    train, val, test = (np.flatnonzero(part_of == part) for part in range(len(PARTS)))
    return train, val, test


def check_labels(source: Source, parts: Mapping[str, Part]) -> list[str]:
    """Return a sentence on labels that a part of the data set's own cannot judge, since all its images agree in them.

    Raises: DataError where that leaves nothing: in a part that was trained on or cut here, or for every label.
    """
    notes = []
    for name, part in parts.items():
        present = part.labels.sum(0)
        alike = np.flatnonzero((present == 0) | (present == len(part)))
        if not len(part) or not len(alike):
            continue
        first = source.class_names[alike[0]]
        if name == "train" or name not in source.parts or len(alike) == len(present):
            only = "no image" if present[alike[0]] == 0 else "only images"
            raise DataError(
                f"Every label must have an image with and one without it in {name}, but there is {only} with label "
                f"'{first}': add images, or leave the label out."
            )
        named = ", ".join(f"'{source.class_names[label]}'" for label in alike)
        notes.append(f"The mean ROC AUC on {name} leaves out {named}: all images of that part agree in it.")
    return notes


def _generator(seed: int) -> np.random.RandomState:
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))


def _needed(shares: Shares) -> list[str]:
    """Return the parts that must not stay empty."""
    return [part for part, share in zip(PARTS, shares, strict=True) if share > 0]


def _counts(n: int, shares: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Round `n` images into parts, at least one where the share is above 0, as far as they go."""
    ends = np.rint(np.cumsum(shares) * n).astype(np.int64)
    counts: NDArray[np.int64] = np.diff(ends, prepend=0)
    for part in np.flatnonzero((counts == 0) & (np.asarray(shares) > 0)):
        if counts.sum() == n:
            counts[counts.argmax()] -= 1
        counts[part] += 1
    return counts


def with_channels(pixels: Pixels, channels: int) -> Pixels:
    """Return grey images as colour ones or the reverse; luminance is ITU-R 601, as PIL's."""
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    grey = np.empty((*pixels.shape[:-1], 1), np.uint8)
    weights = np.array([19595, 38470, 7471], np.uint32)
    for start in range(0, len(pixels), _CHUNK):
        block = pixels[start : start + _CHUNK].astype(np.uint32)
        grey[start : start + _CHUNK, ..., 0] = (block @ weights + 0x8000) >> 16
    return grey


def resized(pixels: Pixels, size: int) -> Pixels:
    """Return the images stretched to `size` x `size`, bilinear and without aliasing, by PIL over all cores.

    Shape: (N, H, W, C) -> (N, size, size, C).
    """
    if pixels.shape[1:3] == (size, size):
        return pixels
    from PIL import Image

    n, channels = len(pixels), pixels.shape[-1]
    result = np.empty((n, size, size, channels), np.uint8)

    def fill(start: int) -> None:
        for number in range(start, min(start + _CHUNK, n)):
            image = Image.fromarray(pixels[number] if channels == 3 else pixels[number, ..., 0])
            small = image.resize((size, size), Image.Resampling.BILINEAR)
            result[number] = np.asarray(small).reshape(size, size, channels)

    with ThreadPoolExecutor(n_cores()) as pool:
        list(pool.map(fill, range(0, n, _CHUNK)))
    return result


def mean_and_std(pixels: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation by channel, of pixels between 0 and 1; exact, by counting values.

    A channel without contrast has the deviation 1/255, so that dividing by it stays finite.
    """
    channels = pixels.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(pixels), _CHUNK):
        block = pixels[start : start + _CHUNK]
        for channel in range(channels):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(np.maximum(shares @ values**2 - mean**2, 0))
    return tuple(map(float, mean)), tuple(float(max(one, 1 / 255)) for one in std)
