"""Sets, parts and classes whose images are all alike or nearly without contrast, so that there is nothing to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas_attn.data.arrays import LabelledImages, Pixels
from nas_attn.errors import DataError

LEAST_CONTRAST = 8
"""Difference of the brightest and the darkest value of a channel, of 255, from which an image has contrast."""

_N_EXAMPLES = 2


def checked_contrast(
    parts: Mapping[str, LabelledImages],
    contrasts: Mapping[str, NDArray[np.uint8]],
    class_names: Sequence[str],
    *,
    how_read: str,
    allow: bool,
) -> list[str]:
    """Return notes on images without contrast.

    A set of one picture per class, such as drawn shapes, is accepted with a note.

    Args:
        parts: With origins, in the size of the training.
        contrasts: The contrast of each image of each part.
        how_read: How values became pixels, for the message.
        allow: Whether sets, parts and classes without contrast are only noted.
    Raises: DataError if all images of the set, of a part or of a class are alike or nearly without contrast, unless
        `allow`.
    """
    images = _joined(parts, contrasts)
    whole = [_Group("the data set", np.arange(len(images.contrasts)))]
    whole += [_Group(f"the part {name}", np.flatnonzero(images.part == n)) for n, name in enumerate(parts)]
    classes = [_Group(f"'{name}'", images.of_class(number)) for number, name in enumerate(class_names)]
    one_picture_each = all(images.is_one_picture(group) for group in classes if len(group.members))
    for group in (*whole, *classes):
        fault = images.fault(group)
        if fault is None or (one_picture_each and group in classes and not images.is_flat(group)):
            continue
        if allow:
            return [f"Accepted by --allow-blank, of {group.name}: all {fault}."]
        raise DataError(
            f"The images of {group.name} must differ and have contrast, but all {fault}: repair the files, change how "
            f"they are read ({how_read}), or accept them by --allow-blank."
        )
    return images.notes(one_picture_each=one_picture_each)


def contrast(block: Pixels) -> NDArray[np.uint8]:
    """Return the difference of the largest and smallest value of each image, of its channel that varies most.

    Shape: (N, H, W, C), contiguous -> (N,).
    """
    n, height, width, channels = block.shape
    rows = block.reshape(n, height, width * channels)  # long rows: numpy is quick along them
    low, high = (ends.reshape(n, width, channels) for ends in (rows.min(1), rows.max(1)))
    found: NDArray[np.uint8] = (high.max(1) - low.min(1)).max(1)
    return found


@dataclass(frozen=True, eq=False)
class _Group:
    """Images that must have contrast together: their name, and their numbers."""

    name: str
    members: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Joined:
    """All images of all parts, one after the other."""

    contrasts: NDArray[np.uint8]
    digests: NDArray[np.uint64]
    names: NDArray[np.object_]
    labels: NDArray[np.int64]
    part: NDArray[np.int64]

    def of_class(self, number: int) -> NDArray[np.int64]:
        """Return the images of a class, or with a label."""
        return np.flatnonzero(self.labels == number if self.labels.ndim == 1 else self.labels[:, number] == 1)

    def is_flat(self, group: _Group) -> bool:
        """Return whether all images of a group are nearly without contrast."""
        return bool((self.contrasts[group.members] < LEAST_CONTRAST).all())

    def is_one_picture(self, group: _Group) -> bool:
        """Return whether all images of a group are equal."""
        return len(np.unique(self.digests[group.members])) == 1

    def fault(self, group: _Group) -> str | None:
        """Return what is wrong with all images of a group of several; None if nothing is."""
        n = len(group.members)
        if n < 2:
            return None
        first = self.names[group.members[0]]
        if self.is_flat(group):
            most = int(self.contrasts[group.members].max())
            return f"{n} are nearly without contrast, at most {most} of 255 levels, such as {first}"
        return f"{n} are the same picture, such as {first}" if self.is_one_picture(group) else None

    def notes(self, *, one_picture_each: bool) -> list[str]:
        """Return a note on a set of one picture per class, and one on single images without contrast."""
        flat = np.flatnonzero(self.contrasts < LEAST_CONTRAST)
        notes = ["The images of each class are all the same picture."] if one_picture_each else []
        if len(flat):
            named = ", ".join(map(str, self.names[flat[:_N_EXAMPLES]]))
            notes.append(f"Images nearly without contrast: {len(flat):,}, such as {named}.")
        return notes


def _joined(parts: Mapping[str, LabelledImages], contrasts: Mapping[str, NDArray[np.uint8]]) -> _Joined:
    origins = [images.origins for images in parts.values() if images.origins is not None]
    assert len(origins) == len(parts), "the data set was given origins when it was read"
    return _Joined(
        np.concatenate([contrasts[name] for name in parts]),
        np.concatenate([one.digests for one in origins]),
        np.concatenate([one.names for one in origins]),
        np.concatenate([images.labels for images in parts.values()]),
        np.repeat(np.arange(len(parts)), [len(images) for images in parts.values()]),
    )
