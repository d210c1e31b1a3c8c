"""Values per image whose mean is a metric: what each image adds to accuracy, macro F1, ROC AUC.

A metric that is no mean over images is replaced by its first-order expansion: the metric plus the influence of each
image. The mean of a row is the metric itself, exactly; the spread over the images is what its sampling variance comes
from (Hampel's influence function; for AUC these are DeLong's structural components). `crossed` takes the rows.

Shape: n networks, N images, K classes or labels; results (n, N).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def accuracy(predicted: NDArray[Any], targets: NDArray[Any]) -> Values:
    """Return 1 where the predicted class is the true one, else 0. Shape: (n, N) and (N,)."""
    return np.asarray(_checked(predicted, targets) == targets, dtype=np.float64)


def balanced_accuracy(predicted: NDArray[Any], targets: NDArray[Any]) -> Values:
    """Return contributions to the mean of the classes' accuracies, over the classes that have images.

    Shape: (n, N) and (N,).
    """
    right = accuracy(predicted, targets)
    classes, own, sizes = np.unique(targets, return_inverse=True, return_counts=True)
    recall = np.stack([np.bincount(own, row, len(classes)) for row in right]) / sizes
    influence = (right - recall[:, own]) * len(targets) / (sizes[own] * len(classes))
    return np.asarray(recall.mean(1, keepdims=True) + influence)


def macro_f1(predicted: NDArray[Any], targets: NDArray[Any]) -> Values:
    """Return contributions to the mean F1 over the classes that have images.

    An image counts for the F1 of its class and for that of the class that it is predicted as; see `f1`.

    Shape: (n, N) and (N,).
    """
    predicted = _checked(predicted, targets)
    known, n_images = np.unique(targets), len(targets)
    n_classes = 1 + int(max(targets.max(), predicted.max()))
    right = accuracy(predicted, targets)
    rows = []
    for said, hits in zip(predicted, right, strict=True):
        either = np.bincount(targets, minlength=n_classes) + np.bincount(said, minlength=n_classes)
        weight = np.zeros(n_classes)  # of one image in the mean over images, where the class has images
        weight[known] = n_images / (either[known] * len(known))
        value = np.where(weight > 0.0, 2.0 * np.bincount(targets, hits, n_classes) / np.maximum(either, 1), 0.0)
        loss = value * weight
        rows.append(value.sum() / len(known) + 2.0 * hits * weight[targets] - loss[targets] - loss[said])
    return np.stack(rows)


def f1(predicted: NDArray[np.bool_], positive: NDArray[np.bool_]) -> Values:
    """Return contributions to the F1 of one class or label that some image has.

    F1 is 2 TP / (positive images + images predicted as positive); its gradient gives each image's influence.

    Shape: (n, N) and (N,).
    """
    true, said = positive.astype(np.float64), predicted.astype(np.float64)
    both, either = 2.0 * true * said, true + said
    value = both.sum(1, keepdims=True) / either.sum(1, keepdims=True)
    return np.asarray(value + (both - value * either) / either.mean(1, keepdims=True))


def mean_roc_auc(scores: NDArray[Any], targets: NDArray[Any]) -> Values:
    """Return contributions to the mean ROC AUC over the labels that some but not all images have.

    A positive image contributes the share of the negatives that it is ranked above, a negative image the share of the
    positives above it; equal scores count one half.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988).

    Args:
        targets: 0 or 1 for each label, (N, K); or one class per image, (N,), each class against all others.

    Shape: scores (n, N, K).
    Raises: ValueError if no label has both, or for other shapes.
    """
    scores = np.asarray(scores, dtype=np.float64)
    labels = targets if targets.ndim == 2 else targets[:, None] == np.arange(scores.shape[-1])
    if scores.ndim != 3 or scores.shape[1:] != labels.shape:
        raise ValueError(f"scores must be (networks, images, labels), but are {scores.shape} for {labels.shape}")
    known = [at for at, n in enumerate(labels.sum(0)) if 0 < n < len(labels)]
    if not known:
        raise ValueError("a ROC AUC needs a label that some but not all images have, but there is none")
    return np.asarray(sum(_roc_auc(scores[:, :, at], labels[:, at] == 1) for at in known) / len(known))


def _roc_auc(scores: Values, positive: NDArray[np.bool_]) -> Values:
    """Return the contributions of one label. Shape: (n, N) and (N,) -> (n, N)."""
    n_images, n_positive = len(positive), int(positive.sum())
    above = np.empty_like(scores)  # of each image: the share of the other kind that it is ranked rightly against
    for row, one in zip(above, scores, strict=True):
        row[positive] = _share_below(one[positive], one[~positive])
        row[~positive] = 1.0 - _share_below(one[~positive], one[positive])
    auc = above[:, positive].mean(1, keepdims=True)
    sizes = np.where(positive, n_positive, n_images - n_positive)
    return np.asarray(auc + (above - auc) * n_images / sizes)


def _share_below(scores: Values, others: Values) -> Values:
    """Return the share of `others` below each score; equal ones count one half."""
    ranked = np.sort(others)
    below = ranked.searchsorted(scores, "left") + ranked.searchsorted(scores, "right")
    return np.asarray(below / (2.0 * len(ranked)))


def _checked(predicted: NDArray[Any], targets: NDArray[Any]) -> NDArray[Any]:
    predicted = np.asarray(predicted)
    if predicted.ndim != 2 or predicted.shape[1:] != targets.shape:
        raise ValueError(f"predicted must be (networks, images), but is {predicted.shape} for {targets.shape}")
    return predicted
