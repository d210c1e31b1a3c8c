"""Checks of what a reader found: types, shapes, and that the parts of a data set agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from nas_attn.data.arrays import PARTS, ChosenPixels, ImageDataset, LabelledImages, Labels, Pixels
from nas_attn.data.mapped import MappedPixels
from nas_attn.errors import DataError, unknown


def checked_pixels(images: Any, name: str) -> Pixels:
    """Return images as (N, H, W, C).

    Shape: (N, H, W), (N, H, W, 1) or (N, H, W, 3).
    Raises: DataError that calls them `name`, for another shape or type.
    """
    if not isinstance(images, np.ndarray):
        raise DataError(f"{name} must be a numpy array, but is {type(images).__name__}.")
    shape = images.shape
    pixels = images[..., None] if images.ndim == 3 else images
    if shape and not shape[0]:
        raise DataError(f"{name} must have images, but there are none: leave the part out.")
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or 0 in pixels.shape:
        raise DataError(
            f"{name} must have the shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), but has {shape}: reshape it."
        )
    if pixels.dtype != np.uint8:
        raise DataError(f"{name} must be uint8 (0 to 255), but is {pixels.dtype}: convert it.")
    return pixels


def checked_labels(labels: Any, n_images: int, name: str) -> Labels:
    """Return labels as (N,) class numbers, or as (N, K) of 0 and 1; int64.

    Shape: (N,) or (N, 1) class numbers from 0, or (N, K) of 0 and 1 or of false and true.
    Raises: DataError that calls them `name`, for other shapes, types and values.
    """
    if not isinstance(labels, np.ndarray):
        raise DataError(f"{name} must be a numpy array, but is {type(labels).__name__}.")
    shape = labels.shape
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or 0 in labels.shape[1:]:
        raise DataError(
            f"{name} must have the shape (N,) or (N, 1) with one class number per image, or (N, K) with 0 or 1 for "
            f"each of K labels, but has {shape}: reshape it."
        )
    if len(labels) != n_images:
        raise DataError(
            f"{name} must have one row per image, but has {len(labels)} for {n_images} images: make them agree."
        )
    if labels.ndim == 2 and labels.dtype.kind in "iub":
        other = labels[(labels != 0) & (labels != 1)]
        if len(other):
            raise DataError(
                f"{name} must be 0 or 1 for each of its {labels.shape[1]} labels, but has the value {int(other[0])}: "
                "write 0 or 1."
            )
    elif labels.dtype.kind not in "iu":
        raise DataError(f"{name} must be whole numbers, but is {labels.dtype}: convert it.")
    elif labels.min() < 0 or labels.max() >= 2**31:
        worst = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(
            f"{name} must be class numbers from 0, but has the value {int(worst)}: number the classes anew."
        )
    numbers: Labels = labels.astype(np.int64, copy=False)
    return numbers


def checked_dataset(found: object, where: str) -> ImageDataset:
    """Return what a reader returned, with its arrays in the shapes and types that `LabelledImages` states.

    Args:
        where: The data source as the user wrote it, for messages.
    Raises: DataError, in one sentence, for another type, an unknown part, parts that do not agree, and labels that are
        no class.
    """
    if not isinstance(found, ImageDataset):
        raise DataError(f"The reader of '{where}' must return a nas_attn.ImageDataset, but returned {_type(found)}.")
    names = found.class_names
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise DataError(f"The class names of '{where}' must be strings that differ, but are {list(names)}.")
    for part in found.parts:
        if part not in PARTS:
            raise DataError(unknown("part", str(part), PARTS, f"the data set '{where}'"))
    if "train" not in found.parts:
        raise DataError(f"A data set must have a part 'train', but '{where}' has {', '.join(found.parts) or 'none'}.")
    parts = {part: _checked_part(images, f"of '{part}' in '{where}'") for part, images in found.parts.items()}
    _check_agreement(parts, where)
    _check_classes(parts, len(names), where)
    if found.shares is not None and len(found.shares) != len(PARTS):
        raise DataError(f"The shares of '{where}' must be those of train, val and test, but are {list(found.shares)}.")
    return replace(found, class_names=tuple(names), parts=parts)


def _checked_part(images: object, where: str) -> LabelledImages:
    if not isinstance(images, LabelledImages):
        raise DataError(f"The images {where} must be a nas_attn.LabelledImages, but are {_type(images)}.")
    pixels = images.pixels
    if not isinstance(pixels, ChosenPixels | MappedPixels):
        pixels = checked_pixels(pixels, f"The pixels {where}")
    return replace(images, pixels=pixels, labels=checked_labels(images.labels, len(pixels), f"The labels {where}"))


def _check_agreement(parts: Mapping[str, LabelledImages], where: str) -> None:
    """Refuse parts whose images differ in shape, or in the number of labels per image."""
    shapes = {part: images.pixels.shape[1:] for part, images in parts.items()}
    if len(set(shapes.values())) > 1:
        shown = ", ".join(f"{shape} in {part}" for part, shape in shapes.items())
        raise DataError(f"All images of '{where}' must have one shape, but they have {shown}: resize or convert some.")
    columns = {part: images.labels.shape[1:] for part, images in parts.items()}
    if len(set(columns.values())) > 1:
        shown = ", ".join(f"{shape[0] if shape else 'one'} in {part}" for part, shape in columns.items())
        raise DataError(
            f"All images of '{where}' must have the same number of labels, but they have {shown}: make them agree."
        )


def _check_classes(parts: Mapping[str, LabelledImages], n_classes: int, where: str) -> None:
    """Refuse labels that no class name belongs to."""
    for part, images in parts.items():
        if images.labels.ndim == 2 and images.labels.shape[1] != n_classes:
            raise DataError(
                f"The labels of '{part}' in '{where}' must have a column per class name, but have "
                f"{images.labels.shape[1]} for {n_classes} names: make them agree."
            )
        if images.labels.ndim == 1 and images.labels.max() >= n_classes:
            raise DataError(
                f"The labels of '{part}' in '{where}' must be among its {n_classes} classes (0 to {n_classes - 1}), "
                f"but have the value {int(images.labels.max())}: correct the labels, or add images of it to train."
            )


def _type(found: object) -> str:
    return type(found).__name__
