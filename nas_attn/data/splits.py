"""Splits into train, val and test: stratified, seeded, and the same in every version.

scikit-learn's `StratifiedShuffleSplit` is no substitute: it draws other splits, so that no run of an earlier version
could be resumed; it has no split of several labels per image; and importing it takes longer than reading the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nas_attn.data.arrays import PARTS, ImageDataset, LabelledImages, Labels, Shares
from nas_attn.errors import DataError

MOST_NAMES = 5
"""Greatest number of classes that a note names."""

Indices = NDArray[np.int64]


def default_shares(own: Sequence[str]) -> Shares:
    """Return the shares of train, val and test for a data set that has the parts `own` itself."""
    return {
        (): (0.7, 0.15, 0.15),
        ("test",): (0.8, 0.2, 0.0),
        ("val",): (0.85, 0.0, 0.15),
        ("val", "test"): (1.0, 0.0, 0.0),
    }[tuple(part for part in PARTS[1:] if part in own)]


def check_shares(shares: Shares, own: Sequence[str]) -> None:
    """Refuse shares that leave a part empty, that add up to more than 1, or that split a part which exists."""
    shown = "/".join(f"{share:g}" for share in shares)
    if sum(shares) > 1 + 1e-9:
        raise DataError(f"The shares of a split must add up to 1 or less, but {shown} add up to {sum(shares):g}.")
    for part, share in zip(PARTS, shares, strict=True):
        if part in own and part != "train" and share > 0:
            raise DataError(f"The data set has its own {part} part, so its share must be 0, but the split is {shown}.")
        if (part not in own or part == "train") and share <= 0:
            raise DataError(f"The share of {part} must be above 0, but the split is {shown}.")


def split_dataset(dataset: ImageDataset, shares: Shares | None, seed: int) -> dict[str, LabelledImages]:
    """Return train, val and test: the data set's own parts, and the rest split off from its train part.

    All images of one file go to the same part.

    Args:
        shares: Shares of train, val and test; None takes the data set's default.
    Raises: DataError if the shares do not fit, or a class or label has fewer images than there are parts.
    """
    own = tuple(dataset.parts)
    shares = shares or dataset.shares or default_shares(own)
    check_shares(shares, own)
    split = multilabel_split if dataset.task == "multi-label" else stratified_split
    train = dataset.parts["train"]
    files, first, file_of = _files(train)
    chosen = split(train.labels[first], shares, seed, dataset.class_names)
    indices = [np.flatnonzero(np.isin(file_of, index)) for index in chosen] if len(files) < len(train) else chosen
    return {
        part: dataset.parts[part] if part in own and part != "train" else train.view(index)
        for part, index in zip(PARTS, indices, strict=True)
    }


def _files(images: LabelledImages) -> tuple[Indices, Indices, Indices]:
    """Return the files of images in ascending order, the first image of each, and the number of each image's file."""
    if images.origins is None:
        each = np.arange(len(images))
        return each, each, each
    files, first, file_of = np.unique(images.origins.files, return_index=True, return_inverse=True)
    return files, first, file_of


def stratified_split(labels: Labels, shares: Shares, seed: int, class_names: Sequence[str]) -> tuple[Indices, ...]:
    """Return the sorted indices of three disjoint parts, with the same shares of every class.

    Every class has an image in every part with a share above 0. If the shares add up to less than 1, the rest is in no
    part. The random numbers come from numpy's legacy generator, whose stream is frozen.

    Shape: labels (N,).
    Raises: DataError that names a class with too few images.
    """
    generator, needed = _generator(seed), _needed(shares)
    part_of = np.full(len(labels), -1)
    for number, name in enumerate(class_names):
        members = np.flatnonzero(labels == number)
        if len(members) < len(needed):
            raise DataError(
                f"Every class must have an image for each of {', '.join(needed)}, but class '{name}' has "
                f"{len(members)} where {len(needed)} are needed: add images, or remove the class."
            )
        counts = _counts(len(members), shares)
        part_of[generator.permutation(members)[: counts.sum()]] = np.repeat(np.arange(len(PARTS)), counts)
    return _indices(part_of)


def multilabel_split(labels: Labels, shares: Shares, seed: int, label_names: Sequence[str]) -> tuple[Indices, ...]:
    """Return the sorted indices of three disjoint parts of images that may have several labels.

    Label by label, the rarest first, the images that have it and are in no part yet are distributed so that every part
    reaches its share of that label; the images without any label come last. So every part has nearly the same share of
    every label.

    Source: after Sechidis et al., ECML PKDD 2011 (iterative stratification).
    Departs: a whole label at a time instead of image by image.

    Shape: labels (N, K).
    Raises: DataError that names a label with too few images that have it, or that do not.
    """
    generator, needed = _generator(seed), _needed(shares)
    for name, n_with in zip(label_names, labels.sum(0), strict=True):
        for n, which in ((int(n_with), "with"), (len(labels) - int(n_with), "without")):
            if n < len(needed):
                raise DataError(
                    f"Every label must have an image with and one without it for each of {', '.join(needed)}, but "
                    f"label '{name}' has {n} {which} it where {len(needed)} are needed: add images, or remove the "
                    "label."
                )
    weights = np.array([*shares, round(max(0.0, 1 - sum(shares)), 9)])  # the last: images that are in no part
    part_of = np.full(len(labels), -1)
    rarest_first = np.argsort(labels.sum(0), kind="stable")
    for members in (*(np.flatnonzero(labels[:, label]) for label in rarest_first), np.arange(len(labels))):
        known = part_of[members]
        free = generator.permutation(members[known < 0])
        missing = np.maximum(weights * len(members) - np.bincount(known[known >= 0], minlength=len(weights)), 0)
        if len(free):
            part_of[free] = np.repeat(np.arange(len(weights)), _counts(len(free), missing / missing.sum()))
    return _indices(part_of)


def label_notes(dataset: ImageDataset, parts: Mapping[str, LabelledImages]) -> list[str]:
    """Return notes on classes or labels that a part of the data set's own does not show.

    Raises: DataError as `constant_label_notes` does.
    """
    if dataset.task == "multi-label":
        return constant_label_notes(dataset, parts)
    notes = []
    for name, part in parts.items():
        missing = [dataset.class_names[number] for number in _missing(part.labels, len(dataset.class_names))]
        present = len(dataset.class_names) - len(missing)
        if present == 1:
            only = dataset.class_names[int(part.labels[0])]
            notes.append(
                f"All {len(part):,} images of {name} are of class '{only}', so its value says nothing of the others."
            )
        elif missing and len(part):
            named = ", ".join(f"'{one}'" for one in missing[:MOST_NAMES])
            more = f" and {len(missing) - MOST_NAMES} more" if len(missing) > MOST_NAMES else ""
            notes.append(f"No image of {name} is of class {named}{more}.")
    return notes


def _missing(labels: Labels, n_classes: int) -> list[int]:
    """Return the classes without an image."""
    return np.flatnonzero(np.bincount(labels, minlength=n_classes) == 0).tolist()


def constant_label_notes(dataset: ImageDataset, parts: Mapping[str, LabelledImages]) -> list[str]:
    """Return a note per part of the data set's own in which a label is constant, so that it has no ROC AUC there.

    Raises: DataError if a label is constant in train or in a part that was split off, or if all labels of a part are.
    """
    notes = []
    for name, part in parts.items():
        n_with = part.labels.sum(0)
        constant = np.flatnonzero((n_with == 0) | (n_with == len(part)))
        if not len(part) or not len(constant):
            continue
        first = dataset.class_names[constant[0]]
        if name == "train" or name not in dataset.parts or len(constant) == len(n_with):
            only = "is no image" if n_with[constant[0]] == 0 else "are only images"
            raise DataError(
                f"Every label must have an image with and one without it in {name}, but there {only} with label "
                f"'{first}': add images, or remove the label."
            )
        named = ", ".join(f"'{dataset.class_names[label]}'" for label in constant)
        notes.append(f"The mean ROC AUC on {name} leaves out {named}: the label is the same in all images of {name}.")
    return notes


def _generator(seed: int) -> np.random.RandomState:
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))


def _needed(shares: Shares) -> list[str]:
    """Return the parts with a share above 0."""
    return [part for part, share in zip(PARTS, shares, strict=True) if share > 0]


def _counts(n: int, shares: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Round `n` images into parts, at least one image where the share is above 0, as long as there are any."""
    ends = np.rint(np.cumsum(shares) * n).astype(np.int64)
    counts: NDArray[np.int64] = np.diff(ends, prepend=0)
    for part in np.flatnonzero((counts == 0) & (np.asarray(shares) > 0)):
        if counts.sum() == n:
            counts[counts.argmax()] -= 1
        counts[part] += 1
    return counts


def _indices(part_of: NDArray[np.int64]) -> tuple[Indices, ...]:
    """Return the indices of each part."""
    return tuple(np.flatnonzero(part_of == part) for part in range(len(PARTS)))
