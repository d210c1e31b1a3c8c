"""Any number of labels an image: the loss that a network is trained by, and the value that it is judged by."""

from __future__ import annotations

import math
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional

MOST_WEIGHT = 100.0
"""The most that a positive weighs: a label that one image in a thousand has would drown the others otherwise."""


class BinaryCrossEntropy(nn.Module):
    """Binary cross-entropy of logits, the mean over images and labels.

    Args:
        positive_weight: What a positive of each label weighs, (K,); None weighs all alike.
        label_smoothing: Share of each target that goes to its other value: 1 becomes 1 - s / 2, and 0 becomes s / 2.

    Shape: logits (N, K), targets (N, K) of 0 and 1 -> a scalar.
    """

    positive_weight: Tensor | None

    def __init__(self, *, positive_weight: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("positive_weight", positive_weight)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch."""
        soft = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, soft, pos_weight=self.positive_weight)


def positive_weights(targets: Tensor) -> Tensor:
    """Return what a positive of each label weighs: negatives to positives among the targets, at most `MOST_WEIGHT`.

    Shape: (N, K) -> (K,).
    """
    positives = targets.sum(0)
    return ((len(targets) - positives) / positives.clamp(min=1)).clamp(max=MOST_WEIGHT)


def label_aucs(logits: Tensor, targets: Tensor) -> list[float]:
    """Return the area under the ROC curve of each label, by scikit-learn.

    It is NaN for a label that all images have or none, and for logits that are not finite.

    Shape: logits and targets (N, K).
    """
    from sklearn.metrics import roc_auc_score  # on use: a single-label run needs none of it

    scores, truth = logits.detach().float().cpu(), targets.cpu().long()
    return [
        float(roc_auc_score(label.numpy(), score.numpy()))
        if 0 < int(label.sum()) < len(label) and bool(torch.isfinite(score).all())
        else math.nan
        for score, label in zip(scores.unbind(1), truth.unbind(1), strict=True)
    ]


def mean_auc(logits: Tensor, targets: Tensor) -> float:
    """Return the mean of the labels' ROC AUC; labels that all images have or none are left out.

    It is NaN for logits that are not finite, and when no label is left.

    Shape: logits and targets (N, K). Units: 0 to 1; 0.5 is chance.
    """
    known = [auc for auc in label_aucs(logits, targets) if math.isfinite(auc)]
    return fmean(known) if known and bool(torch.isfinite(logits).all()) else math.nan
