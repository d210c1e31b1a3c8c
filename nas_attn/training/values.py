"""The named values of a trained network: accuracy, ROC AUC, macro F1 and cross-entropy of its predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor

from nas_attn.errors import TrialFailed
from nas_attn.model.tasks import LABEL_KINDS
from nas_attn.records import labelling

_SMALLEST = 1e-12
"""Least probability in a cross-entropy, whose logarithm is finite."""


def value_of(name: str | None, logits: Tensor, targets: Tensor) -> float:
    """Return one value of a network on the images of a part; None returns the usual one of this kind of labels.

    Shape: logits (N, K); targets (N,), or (N, K) for several labels.
    """
    kind = LABEL_KINDS[labelling(targets.ndim)]
    if name is None:
        return kind.value(logits, targets)
    return METRICS[name](_array(kind.probabilities(logits.double())), _array(targets))


def values_of(names: Iterable[str], logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Return the values with these names. Raises: TrialFailed if one is not finite."""
    return {name: finite_value(name, value_of(name, logits, targets)) for name in names}


def accuracy(probabilities: Any, targets: Any) -> float:
    """Return the share of images whose most probable class is the true one; of labels, those on the right side of 0.5.

    Shape: (N, K); targets (N,) or (N, K).
    """
    if targets.ndim == 2:
        return float(np.mean((probabilities >= 0.5) == (targets == 1)))
    return float(np.mean(probabilities.argmax(1) == targets))


def roc_auc(probabilities: Any, targets: Any) -> float:
    """Return the area under the ROC curve of each class against the others, or of each label: the mean of the known.

    It is NaN where no class or label has both positives and negatives. Shape: as `accuracy`.
    """
    from sklearn.metrics import roc_auc_score

    truth = _one_hot(probabilities, targets)
    known = [column for column in range(truth.shape[1]) if 0 < truth[:, column].sum() < len(truth)]
    aucs = [float(roc_auc_score(truth[:, column], probabilities[:, column])) for column in known]
    return fmean(aucs) if aucs else math.nan


def macro_f1(probabilities: Any, targets: Any) -> float:
    """Return the mean F1 score over the classes or labels that occur; a label counts as predicted from 0.5 on.

    Shape: as `accuracy`.
    """
    truth = _one_hot(probabilities, targets).astype(bool)
    said = probabilities >= 0.5 if targets.ndim == 2 else _one_hot(probabilities, probabilities.argmax(1)).astype(bool)
    right, all_said, all_true = (truth & said).sum(0), said.sum(0), truth.sum(0)
    occurs = (all_said + all_true) > 0
    return float(np.mean(2 * right[occurs] / (all_said + all_true)[occurs])) if occurs.any() else math.nan


def cross_entropy(probabilities: Any, targets: Any) -> float:
    """Return the mean negative logarithm of the probability of the truth; of labels, the mean over these too.

    Shape: as `accuracy`.
    """
    if targets.ndim == 2:
        of_truth = np.where(targets == 1, probabilities, 1 - probabilities)
    else:
        of_truth = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(of_truth, _SMALLEST)).mean())


METRICS: Mapping[str, Callable[[Any, Any], float]] = {
    "accuracy": accuracy,
    "auc": roc_auc,
    "f1": macro_f1,
    "loss": cross_entropy,
}
"""Values by the name of their objective; each takes probabilities and true classes or labels."""


def _one_hot(probabilities: Any, targets: Any) -> Any:
    return targets if targets.ndim == 2 else np.eye(probabilities.shape[1], dtype=int)[targets]


def finite_value(name: str, value: float) -> float:
    """Return the value of an objective. Raises: TrialFailed unless it is finite."""
    if not math.isfinite(value):
        raise TrialFailed("nan", f"The objective '{name}' is {value}; the values of a trial must be finite.")
    return value


def _array(values: Tensor) -> Any:
    return values.detach().cpu().numpy()
