"""Equal images in several parts of a data set, or under two labels: found by their content, named, and removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nas_attn.data.arrays import PARTS, ImageDataset, LabelledImages, Labels, Origins
from nas_attn.data.collection import digest_of
from nas_attn.data.mapped import blocks
from nas_attn.errors import DataError

_N_EXAMPLES = 2


def with_origins(dataset: ImageDataset) -> ImageDataset:
    """Return a data set whose parts all have origins: images without a file are called by part and number, from 0."""
    parts = {part: _with_origins(part, images) for part, images in dataset.parts.items()}
    return replace(dataset, parts=parts)


def _with_origins(part: str, images: LabelledImages) -> LabelledImages:
    if images.origins is not None:
        return images
    digests = np.fromiter((digest_of(image) for block in blocks(images.pixels) for image in block), np.uint64)
    names = np.array([f"{part} {number}" for number in range(len(images))], np.object_)
    return replace(images, origins=Origins(names, digests, np.arange(len(images))))


def handled_duplicates(
    parts: Mapping[str, LabelledImages], class_names: Sequence[str], *, drop: bool
) -> tuple[dict[str, LabelledImages], list[str]]:
    """Return the parts, and notes on equal images in several parts or under two labels.

    Args:
        parts: train, val and test, each with origins.
        drop: Whether equal images are removed: from the later parts, and everywhere if they have two labels.
    Raises: DataError if a part, or a class of the training part, has no image left.
    """
    copies = _Copies(parts, class_names)
    notes = copies.notes(drop=drop)
    if not drop or not notes:
        return dict(parts), notes
    kept = {}
    for number, (name, images) in enumerate(parts.items()):
        stay = ~copies.is_dropped[copies.part == number]
        kept[name] = images if stay.all() else images.view(np.flatnonzero(stay))
    _refuse_empty(parts, kept, class_names)
    return kept, notes


@dataclass(frozen=True)
class _Group:
    """Numbers of images with equal content, those of earlier parts first."""

    members: NDArray[np.int64]
    n_labels: int


class _Copies:
    """The groups of equal images of all parts together."""

    def __init__(self, parts: Mapping[str, LabelledImages], class_names: Sequence[str]) -> None:
        origins = [_origins(images) for images in parts.values()]
        self._names = np.concatenate([one.names for one in origins])
        self._labels: Labels = np.concatenate([images.labels for images in parts.values()])
        self._class_names = class_names
        self._part_names = list(parts)
        self.part = np.repeat(np.arange(len(parts)), [len(images) for images in parts.values()])
        groups = list(self._groups(np.concatenate([one.digests for one in origins])))
        self._contradictory = [group for group in groups if group.n_labels > 1]
        self._across = [group for group in groups if len(set(self.part[group.members])) > 1]
        self.is_dropped = np.zeros(len(self.part), np.bool_)
        for group in self._across:
            self.is_dropped[self._later(group)] = True
        for group in self._contradictory:
            self.is_dropped[group.members] = True

    def notes(self, *, drop: bool) -> list[str]:
        """Return a note on equal images in several parts, and one on those with two labels."""
        notes = []
        if self._across:
            later = np.concatenate([self._later(group) for group in self._across])
            counts = np.bincount(self.part[later], minlength=len(self._part_names))
            shown = " and ".join(f"{n:,} of {name}" for name, n in zip(self._part_names, counts, strict=True) if n)
            pairs = [(group.members[0], self._later(group)[0]) for group in self._across[:_N_EXAMPLES]]
            named = ", ".join(f"{self._names[late]} = {self._names[early]}" for early, late in pairs)
            fate = "removed (--drop-duplicates)" if drop else "kept: --drop-duplicates removes them"
            notes.append(f"Images that an earlier part has too: {shown}, such as {named}; they are {fate}.")
        if self._contradictory:
            n_images = sum(len(group.members) for group in self._contradictory)
            named = ", ".join(self._under_two_labels(group) for group in self._contradictory[:_N_EXAMPLES])
            fate = (
                "removed with all copies (--drop-duplicates)" if drop else "kept: --drop-duplicates removes all copies"
            )
            notes.append(
                f"Equal images with different labels: {n_images:,} ({len(self._contradictory):,} without copies), such "
                f"as {named}; they are {fate}."
            )
        return notes

    def _groups(self, digests: NDArray[np.uint64]) -> Iterator[_Group]:
        """Yield the groups of two or more images, in the order of their first one."""
        order = np.argsort(digests, kind="stable")
        starts = np.flatnonzero(np.diff(digests[order], prepend=digests[order[:1]] + np.uint64(1)))
        sizes = np.diff(starts, append=len(order))
        several = [order[start : start + size] for start, size in zip(starts, sizes, strict=True) if size > 1]
        for members in sorted(several, key=lambda members: int(members[0])):
            yield _Group(members, len(np.unique(self._labels[members], axis=0)))

    def _later(self, group: _Group) -> NDArray[np.int64]:
        """Return the images of a group that are in a later part than its first one."""
        later: NDArray[np.int64] = group.members[self.part[group.members] > self.part[group.members[0]]]
        return later

    def _under_two_labels(self, group: _Group) -> str:
        """Return in words the first image of a group, and the first one with another label."""
        first = group.members[0]
        differs = (self._labels[group.members] != self._labels[first]).reshape(len(group.members), -1).any(1)
        second = group.members[differs][0]
        shown = (f"{self._names[number]} ({self._label_in_words(number)})" for number in (first, second))
        return " = ".join(shown)

    def _label_in_words(self, number: np.int64) -> str:
        label = self._labels[number]
        if label.ndim == 0:
            return self._class_names[int(label)]
        return "+".join(name for name, bit in zip(self._class_names, label, strict=True) if bit) or "no label"


def _origins(images: LabelledImages) -> Origins:
    assert images.origins is not None, "`with_origins` has added them"
    return images.origins


def _refuse_empty(
    before: Mapping[str, LabelledImages], kept: Mapping[str, LabelledImages], class_names: Sequence[str]
) -> None:
    """Refuse a part without images, and a training part that has lost a class."""
    for part in PARTS:
        if len(before[part]) and not len(kept[part]):
            raise DataError(
                f"Every part must keep an image, but all {len(before[part])} of {part} are duplicates: leave out "
                "--drop-duplicates, or bring other images."
            )
    labels = kept["train"].labels
    if labels.ndim == 1:
        lost = np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0)
        if len(lost):
            raise DataError(
                f"Every class must keep a training image, but all of '{class_names[lost[0]]}' are duplicates with "
                "another label: leave out --drop-duplicates, or label them anew."
            )
