"""Predictions of a trained network for image files: one row an image, unreadable files named and left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from nas_attn.data.dicom import SUFFIXES as DICOM_SUFFIXES
from nas_attn.data.readers import HEIF_SUFFIXES
from nas_attn.errors import DataError, FileError
from nas_attn.model.build import AttentionModel
from nas_attn.records import LogitsOf

BATCH = 64
"""Images that are computed together."""

THRESHOLD = 0.5
"""Probability from which a label is predicted, where an image may have several."""


@dataclass(frozen=True)
class Row:
    """The prediction for one image.

    Args:
        predicted: The class with the highest probability; where an image may have several labels, those with a
            probability of at least `THRESHOLD`, joined by ";", or empty.
        probability: The highest one.
        probabilities: Of every class or label, in the order of the network's class names.
    """

    path: Path
    predicted: str
    probability: float
    probabilities: tuple[float, ...]


def require_meaning(model: AttentionModel) -> None:
    """Refuse a network whose logits have no known meaning. Raises: FileError that says what to do instead."""
    if model.probabilities is None:
        raise FileError(
            "Predictions need to know what the logits mean, but this network comes from a custom training: use "
            "load_model, and convert its logits yourself."
        )


def predict_files(
    model: AttentionModel, files: Sequence[Path], *, logits_of: LogitsOf | None, skip: Callable[[str], object]
) -> Iterator[Row]:
    """Yield the prediction for each image, in their order.

    Args:
        model: As `load_model` returns it, with known logits (`require_meaning`).
        logits_of: Meaning of the network's logits.
        skip: Called with one sentence for each file that is no image.
    """
    assert model.preprocess is not None, "a loaded model has it"
    assert model.probabilities is not None, "the caller has asked `require_meaning`"
    assert model.class_names is not None, "a loaded model has them"
    for start in range(0, len(files), BATCH):
        inputs, readable = [], []
        for file in files[start : start + BATCH]:
            try:
                inputs.append(model.preprocess(file))
                readable.append(file)
            except DataError as error:
                skip(str(error))
        if inputs:
            with torch.no_grad():
                found = model.probabilities(model(torch.cat(inputs).to(_device(model)))).cpu()
            yield from _rows(readable, found, model.class_names, several=logits_of == "labels")


def image_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files, and for a folder the images in it and in its folders, sorted by path.

    Raises: DataError for a folder without images.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        suffixes = Image.registered_extensions().keys() | HEIF_SUFFIXES | DICOM_SUFFIXES
        found = sorted(
            Path(place) / name
            for place, _, names in os.walk(path)
            for name in names
            if Path(name).suffix.lower() in suffixes and not name.startswith(".")
        )
        if not found:
            raise DataError(f"A folder must contain images, but {path} has no file with the suffix of one.")
        yield from found


def _rows(files: Sequence[Path], found: Tensor, names: Sequence[str], *, several: bool) -> Iterator[Row]:
    for file, values in zip(files, found.tolist(), strict=True):
        highest = max(range(len(values)), key=values.__getitem__)
        labels = [name for name, value in zip(names, values, strict=True) if value >= THRESHOLD]
        predicted = ";".join(labels) if several else names[highest]
        yield Row(file, predicted, values[highest], tuple(values))


def _device(model: AttentionModel) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
