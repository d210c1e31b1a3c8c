"""Chooses test images of a run: some that its network predicts right, and as many that it predicts wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_attn.comparison.answer import names_in
from nas_attn.comparison.predictions import Predictions
from nas_attn.config import DataConfig
from nas_attn.config.images import OF_READING
from nas_attn.data.dataset import Data, load_data
from nas_attn.data.memory import NAME as IN_MEMORY
from nas_attn.errors import DataError
from nas_attn.records import FOUND, RunRecord

THRESHOLD = 0.5
"""Probability from which a label is predicted, where an image may have several."""


@dataclass(frozen=True, eq=False)
class Samples:
    """A few test images with what is known about them.

    Args:
        pixels: uint8, (N, C, H, W).
        names: Of each image: its number in the test part, from 0, and whether it is predicted right.
        truths: The true class, or the true labels, of each image, in words.
        classes: The true class of each image, or its first true label; None if it has no label.
        about: How they were chosen, in one sentence.
    """

    pixels: Tensor
    names: tuple[str, ...]
    truths: tuple[str, ...]
    classes: tuple[int | None, ...]
    about: str


def choose_samples(record: RunRecord, n_images: int, *, root: str = "data") -> Samples:
    """Return the first test images that `found #1` predicts right and wrong, by the predictions that the run stored.

    Half of them are wrong ones, if there are so many; a run without stored predictions gets its first test images.

    Args:
        root: Folder of torchvision's data sets.
    Raises: DataError if the run's images cannot be read again, or differ from those that it was tested on.
    """
    data, stored = _load_again(record.config, root), stored_predictions(record)
    if stored is None:
        chosen = dict.fromkeys(range(min(n_images, len(data.test))), "")
        about = "The first test images; the run stored no predictions."
    else:
        right, wrong = _split(stored)
        n_wrong = min(len(wrong), max(n_images // 2, n_images - len(right)))
        right, wrong = right[: n_images - n_wrong], wrong[:n_wrong]
        chosen = dict.fromkeys(right, ", right") | dict.fromkeys(wrong, ", wrong")
        about = f"The first test images that {FOUND} predicts right ({len(right)}) and wrong ({len(wrong)})."
    numbers, names = list(chosen), data.facts.class_names
    labels = [_labels_of(target) for target in data.test.targets[numbers]]
    return Samples(
        pixels=data.test.take(torch.tensor(numbers)),
        names=tuple(f"test {number}{word}" for number, word in chosen.items()),
        truths=tuple(", ".join(names[label] for label in each) or "no label" for each in labels),
        classes=tuple(each[0] if each else None for each in labels),
        about=about,
    )


def stored_predictions(record: RunRecord) -> Predictions | None:
    """Return the test predictions of the network of `found #1` whose weights are kept: that of the first seed."""
    rows = [row for row in record.retrain if row.label and FOUND in names_in(row.label) and row.state == "complete"]
    first = min(rows, key=lambda row: (-row.epochs, row.seed), default=None)
    return None if first is None else record.predictions.get((first.key, first.seed, first.epochs))


def _split(stored: Predictions) -> tuple[Sequence[int], Sequence[int]]:
    """Return the numbers of the images that are predicted right, and of those that are not."""
    if stored.predicted is not None:
        is_right = stored.predicted == stored.targets
    else:
        assert stored.probabilities is not None, "images with several labels keep their probabilities"
        is_right = ((stored.probabilities >= THRESHOLD) == (stored.targets > 0)).all(1)
    return np.flatnonzero(is_right).tolist(), np.flatnonzero(~is_right).tolist()


def _labels_of(target: Tensor) -> list[int]:
    """Return the class of an image, or its labels."""
    return [int(target)] if target.ndim == 0 else target.nonzero()[:, 0].tolist()


def _load_again(config: Mapping[str, Any], root: str) -> Data:
    """Return the images of a run. Raises: DataError if they cannot be read, or are others."""
    stored = config.get("data") or {}
    facts = stored.get("facts")
    if not facts or stored["name"] in (None, IN_MEMORY):
        raise DataError("The run's images were in memory, or its own training read them: name image files instead.")
    data = load_data(
        DataConfig(
            name=stored["name"],
            root=root,
            image_size=facts["image_size"],
            channels=facts["in_channels"] if facts["in_channels"] in (1, 3) else None,
            split=stored["split"],
            seed=stored["seed"],
            **{name: stored[name] for name in OF_READING if name in stored},
        )
    )
    if data.facts.fingerprint != facts["fingerprint"]:
        raise DataError(
            f"The images of '{stored['name']}' must be those that the run was tested on, but they have changed since: "
            "name image files instead."
        )
    return data
