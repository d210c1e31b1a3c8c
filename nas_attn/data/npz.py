"""A file in MedMNIST's layout: `train_images`, `train_labels`, and the same for `val` and `test`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.data.arrays import DAMAGED, PARTS, ImageDataset, LabelledImages
from nas_attn.data.checks import checked_labels, checked_pixels
from nas_attn.data.deep_arrays import eight_bit_arrays
from nas_attn.data.entry import DataRequest
from nas_attn.errors import DataError

_ONE_ARRAY = b"\x93NUMPY"


def read_npz(request: DataRequest) -> ImageDataset:
    """Return the images of the file; `val` and `test` may be missing.

    Nothing in the file is executed (`allow_pickle=False`).

    Images of another type than uint8 are scaled by one range for all.

    Shape: images (N, H, W), (N, H, W, 1) or (N, H, W, 3); labels (N,) or (N, 1) class numbers from 0, or (N, K)
        of 0 and 1 where an image may have several labels.
    Raises: DataError if the file is missing, damaged or laid out otherwise.
    """
    path = request.path
    arrays = _read_arrays(path)
    images = {part: arrays[f"{part}_images"] for part in PARTS if f"{part}_images" in arrays}
    plain, pixel_range, notes = eight_bit_arrays(images, request.reading.pixel_range, str(path))
    arrays |= {f"{part}_images": pixels for part, pixels in plain.items()}
    parts = {
        part: _part(path, part, arrays) for part in PARTS if f"{part}_images" in arrays or f"{part}_labels" in arrays
    }
    labels = parts["train"].labels
    if labels.ndim == 2:
        names, notes = tuple(map(str, range(labels.shape[1]))), (*notes, *_one_label_note(parts))
    else:
        names = tuple(map(str, range(_count_classes(path, labels))))
    return ImageDataset(names, parts, notes=notes, pixel_range=pixel_range)


def _one_label_note(parts: Mapping[str, LabelledImages]) -> tuple[str, ...]:
    """Return a note on labels of which every image has exactly one: they may be classes."""
    if any(images.labels.ndim == 1 or (images.labels.sum(1) != 1).any() for images in parts.values()):
        return ()
    return (
        "Every image has exactly one of its labels: if they exclude each other, write them as class numbers, (N,).",
    )


def _count_classes(path: Path, labels: NDArray[np.int64]) -> int:
    """Return the number of classes of the train part. Raises: DataError if one of them has no image."""
    present = np.unique(labels)
    largest = int(present[-1])
    if len(present) <= largest:
        missing = int(np.flatnonzero(present != np.arange(len(present)))[0])
        raise DataError(
            f"'train_labels' in {path} must be class numbers from 0 without a gap, but no label is {missing} and the "
            f"largest is {largest}: number the classes anew."
        )
    return largest + 1


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array that the layout names."""
    if not path.is_file():
        raise DataError(f"An .npz file must exist, but there is none at {path.absolute()}: check the path.")
    _refuse_single(path)
    wanted = {f"{part}_{what}" for part in PARTS for what in ("images", "labels")}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if "train_images" not in stored.files:
                found = ", ".join(stored.files) or "nothing"
                raise DataError(
                    f"{path} must contain 'train_images' and 'train_labels', but contains {found}: rename its arrays."
                )
            return {name: stored[name] for name in stored.files if name in wanted}
    except DAMAGED as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        if "pickle" in reason:  # numpy takes any other file for a pickle, and advises to load it as one
            reason = "it is no archive of plain arrays"
        raise DataError(f"{path} cannot be read as an .npz file, it is damaged or of another kind: {reason}.") from None


def _refuse_single(path: Path) -> None:
    """Refuse a file of one array, which is no archive."""
    with path.open("rb") as file:
        if file.read(len(_ONE_ARRAY)) == _ONE_ARRAY:
            raise DataError(
                f"{path} must be an .npz file with 'train_images' and 'train_labels', but is a single array (.npy): "
                "write both by numpy.savez."
            )


def _part(path: Path, part: str, arrays: Mapping[str, NDArray[Any]]) -> LabelledImages:
    """Return one part, its images and labels checked against each other."""
    for name in (f"{part}_images", f"{part}_labels"):
        if name not in arrays:
            raise DataError(f"{path} must contain '{name}' beside {', '.join(sorted(arrays))}: add it.")
    pixels = checked_pixels(arrays[f"{part}_images"], f"'{part}_images' in {path}")
    labels = checked_labels(arrays[f"{part}_labels"], len(pixels), f"'{part}_labels' in {path}")
    return LabelledImages(pixels, labels)
