"""Kinds of labels: the loss, the value and the probabilities that belong to each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.records import Labelling

if TYPE_CHECKING:
    from nas_attn.config import Recipe


class LabelKind(ABC):
    """All that depends on the kind of labels, in training and in use.

    Shape: logits (N, K); targets as in the subclass.
    """

    @abstractmethod
    def criterion(self, targets: Tensor, recipe: Recipe, n_logits: int) -> nn.Module:
        """Return the recipe's loss for these training targets."""

    @abstractmethod
    def value(self, logits: Tensor, targets: Tensor) -> float:
        """Return the value by which networks are ranked. Units: 0 to 1."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Return one probability per class or label, in the order of their names."""


class OneLabel(LabelKind):
    """Each image has one class: cross-entropy and accuracy.

    A network for two classes may have one logit; `class_logits` converts it to two. Its cross-entropy is then the
    binary one, with the class weights and the label smoothing that two logits would have.

    Shape: targets (N,) int64.
    """

    def criterion(self, targets: Tensor, recipe: Recipe, n_logits: int) -> nn.Module:
        """Return the cross-entropy, with `class_weights` if the recipe asks for them."""
        weights = class_weights(targets, max(2, n_logits)) if recipe.class_weights else None
        return CrossEntropy(weight=weights, label_smoothing=recipe.label_smoothing)

    def value(self, logits: Tensor, targets: Tensor) -> float:
        """Return the accuracy."""
        return int((class_logits(logits).argmax(1) == targets).sum()) / len(targets)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return one probability per class, with sum 1. Shape: (N, K), or (N, 1) for two classes -> (N, classes)."""
        return class_logits(logits).softmax(1)


class AnyLabels(LabelKind):
    """Each image has any number of labels: binary cross-entropy and the mean ROC AUC.

    Shape: targets (N, K) of 0 and 1.
    """

    def criterion(self, targets: Tensor, recipe: Recipe, n_logits: int) -> nn.Module:
        """Return the binary cross-entropy, with `positive_weights` if the recipe asks for class weights."""
        weights = positive_weights(targets) if recipe.class_weights else None
        return BinaryCrossEntropy(positive_weight=weights, label_smoothing=recipe.label_smoothing)

    def value(self, logits: Tensor, targets: Tensor) -> float:
        """Return the mean ROC AUC over the labels."""
        return mean_auc(logits, targets)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each label separately. Shape: (N, K) -> the same."""
        return torch.sigmoid(logits)


LABEL_KINDS: Mapping[Labelling, LabelKind] = {"single-label": OneLabel(), "multi-label": AnyLabels()}


class CrossEntropy(nn.Module):
    """Cross-entropy of classes; for a single logit, that of the second of two classes, binary cross-entropy.

    Args:
        weight: One weight per class, for a weighted mean; None for equal weights.
        label_smoothing: Share of the target that is distributed over all classes.

    Shape: logits (N, K) or (N, 1), targets (N,) -> a scalar.
    """

    weight: Tensor | None

    def __init__(self, *, weight: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return functional.cross_entropy(
            class_logits(logits), targets, weight=self.weight, label_smoothing=self.label_smoothing
        )


def class_logits(logits: Tensor) -> Tensor:
    """Return one logit per class; a single logit is that of the second of two classes, and the first one is 0.

    The softmax of (0, z) is (1 - sigmoid(z), sigmoid(z)).

    >>> class_logits(torch.tensor([[1.5], [-2.0]])).tolist()
    [[0.0, 1.5], [0.0, -2.0]]

    Shape: (N, K) -> the same; (N, 1) -> (N, 2).
    """
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


def class_weights(targets: Tensor, num_classes: int) -> Tensor:
    """Return one weight per class: the inverse of its frequency, with mean 1. Shape: (K,)."""
    counts = torch.bincount(targets.cpu(), minlength=num_classes).clamp(min=1).float()
    weights = 1 / counts
    return (weights / weights.mean()).to(targets.device)


MOST_WEIGHT = 100.0
"""Greatest weight of a positive: without it, a label of one image in a thousand would dominate the loss."""


class BinaryCrossEntropy(nn.Module):
    """Binary cross-entropy of logits, the mean over images and labels.

    Args:
        positive_weight: Weight of the positives of each label, (K,); None for 1.
        label_smoothing: Share s of each target: 1 becomes 1 - s / 2, and 0 becomes s / 2.

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
    """Return the weight of each label's positives: number of negatives by positives, at most `MOST_WEIGHT`.

    Shape: (N, K) -> (K,).
    """
    positives = targets.sum(0)
    return ((len(targets) - positives) / positives.clamp(min=1)).clamp(max=MOST_WEIGHT)


def label_aucs(logits: Tensor, targets: Tensor) -> list[float]:
    """Return the area under the ROC curve of each label, by scikit-learn.

    It is NaN for a label that all or no images have, and for logits that are not finite.

    Shape: logits and targets (N, K).
    """
    from sklearn.metrics import roc_auc_score  # on use: a single-label run does not need it

    scores, truth = logits.detach().float().cpu(), targets.cpu().long()
    return [
        float(roc_auc_score(label.numpy(), score.numpy()))
        if 0 < int(label.sum()) < len(label) and bool(torch.isfinite(score).all())
        else math.nan
        for score, label in zip(scores.unbind(1), truth.unbind(1), strict=True)
    ]


def mean_auc(logits: Tensor, targets: Tensor) -> float:
    """Return the mean ROC AUC over the labels that some but not all images have.

    It is NaN for logits that are not finite, and if there is no such label.

    Shape: logits and targets (N, K). Units: 0 to 1; 0.5 is chance.
    """
    known = [auc for auc in label_aucs(logits, targets) if math.isfinite(auc)]
    return fmean(known) if known and bool(torch.isfinite(logits).all()) else math.nan
