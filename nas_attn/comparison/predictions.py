"""The predictions of one trained network for the images of one part, and the form in which they are stored."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_attn.comparison.contributions import accuracy, mean_roc_auc
from nas_attn.errors import RunError

if TYPE_CHECKING:
    from numpy.typing import NDArray

WHOLE_BYTES = 32 * 2**20
"""Up to this size, all predictions of a run together are stored with the probability of every class."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one network predicts for N images with K classes or labels.

    Args:
        targets: The true class of each image, (N,), or its labels as 0 and 1, (N, K).
        predicted: The class with the highest probability, (N,), at full precision; None if images have several labels.
        probabilities: Probability of each class or label, (N, K) float16; None in the short form.
        of_predicted, of_target: Probability of the predicted and of the true class, (N,) float16; None for labels.
    """

    targets: NDArray[Any]
    predicted: NDArray[Any] | None = None
    probabilities: NDArray[Any] | None = None
    of_predicted: NDArray[Any] | None = None
    of_target: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def contributions(self) -> NDArray[Any]:
        """Contribution of each image to accuracy, or to the mean ROC AUC of its labels. Shape: (N,)."""
        if self.predicted is not None:
            return np.asarray(accuracy(self.predicted[None], self.targets)[0])
        assert self.probabilities is not None, "images with several labels keep their probabilities"
        return np.asarray(mean_roc_auc(self.probabilities[None], self.targets)[0])

    @classmethod
    def of(cls, probabilities: NDArray[Any], targets: NDArray[Any]) -> Predictions:
        """Return the predictions of these probabilities, (N, K), and true classes, (N,), or labels, (N, K).

        Raises: ValueError if the shapes do not match, or a class number lies outside 0 to K - 1.
        """
        probabilities, targets = np.asarray(probabilities), np.asarray(targets)
        if probabilities.ndim != 2 or targets.shape not in (probabilities.shape[:1], probabilities.shape):
            raise ValueError(
                "probabilities must be (N, K) and targets (N,) or (N, K), but got "
                f"{probabilities.shape} and {targets.shape}."
            )
        half = probabilities.astype(np.float16)
        if targets.ndim == 2:
            return cls(targets.astype(np.uint8), probabilities=half)
        n_classes = probabilities.shape[1]
        if len(targets) and not 0 <= targets.min() <= targets.max() < n_classes:
            raise ValueError(
                f"targets must lie in 0 to {n_classes - 1}, but lie in {targets.min()} to {targets.max()}."
            )
        predicted, rows = probabilities.argmax(1).astype(np.int32), np.arange(len(targets))
        true = targets.astype(np.int32)
        return cls(true, predicted, half, half[rows, predicted], half[rows, true])

    def short(self) -> Predictions:
        """Return the form without the probability of every class; images with several labels keep theirs."""
        if self.predicted is None:
            return self
        return Predictions(self.targets, self.predicted, None, self.of_predicted, self.of_target)

    def to_bytes(self) -> bytes:
        """Return the content of an `.npz` file, whose arrays have checksums; equal predictions give equal bytes."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        file = io.BytesIO()
        np.savez_compressed(file, **{name: array for name, array in arrays.items() if array is not None})
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> Predictions:
        """Read the output of `to_bytes`. Raises: RunError that names `where` if it is truncated or altered."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                found = cls(**{name: arrays[name] for name in arrays.files})
        except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise RunError(
                f"{where} must be as the search wrote it, but is truncated or altered: delete it; the report then "
                "does without its images."
            ) from error
        return found


def fits_whole(n_values: int) -> bool:
    """Return whether this many probabilities, of all stored predictions of a run, are stored for every class."""
    return 2 * n_values <= WHOLE_BYTES
