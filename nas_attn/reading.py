"""How logits are read: the loss that trains them, the value that judges them, and their probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.multi_label import BinaryCrossEntropy, mean_auc, positive_weights
from nas_attn.records import Labelling

if TYPE_CHECKING:
    from nas_attn.config import Recipe


class Reading(ABC):
    """What the logits of a task mean, in training as in use; all that depends on the task is here.

    Shape: logits (N, K); targets as the task has them.
    """

    @abstractmethod
    def criterion(self, targets: Tensor, recipe: Recipe, n_logits: int) -> nn.Module:
        """Return the recipe's loss for these training targets."""

    @abstractmethod
    def value(self, logits: Tensor, targets: Tensor) -> float:
        """Return what a network is judged by. Units: 0 to 1."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Return a probability for each class or label, in the order of their names."""


class OneLabel(Reading):
    """An image is of one class: cross-entropy, and the share that is named right.

    A network for two classes may give one logit. `class_logits` is all that knows: its cross-entropy is then the
    binary one, with the class weights and the label smoothing that two logits would have.

    Shape: targets (N,) int64.
    """

    def criterion(self, targets: Tensor, recipe: Recipe, n_logits: int) -> nn.Module:
        """Return the cross-entropy, with `class_weights` if the recipe asks for them."""
        weights = class_weights(targets, max(2, n_logits)) if recipe.class_weights else None
        return CrossEntropy(weight=weights, label_smoothing=recipe.label_smoothing)

    def value(self, logits: Tensor, targets: Tensor) -> float:
        """Return the share of images that is named right."""
        return int((class_logits(logits).argmax(1) == targets).sum()) / len(targets)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return a probability for each class, together 1. Shape: (N, K), or (N, 1) for two classes -> (N, classes)."""
        return class_logits(logits).softmax(1)


class AnyLabels(Reading):
    """An image has any number of labels: binary cross-entropy, and the mean ROC AUC.

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
        """Return the probability of each label on its own. Shape: (N, K) -> the same."""
        return torch.sigmoid(logits)


READINGS: Mapping[Labelling, Reading] = {"single-label": OneLabel(), "multi-label": AnyLabels()}


class CrossEntropy(nn.Module):
    """Cross-entropy of classes; of a single logit, which is that of the second of two, the binary cross-entropy.

    Args:
        weight: What each class weighs, one for each class; None weighs all alike. The mean is over the weights.
        label_smoothing: Share of the target that is spread over all classes.

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
    """Return a logit for each class; a single one is that of the second of two classes, and the first's is 0.

    The softmax of (0, z) is (1 - sigmoid(z), sigmoid(z)).

    >>> class_logits(torch.tensor([[1.5], [-2.0]])).tolist()
    [[0.0, 1.5], [0.0, -2.0]]

    Shape: (N, K) -> the same; (N, 1) -> (N, 2).
    """
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


def class_weights(targets: Tensor, num_classes: int) -> Tensor:
    """Return a weight for each class: the inverse of how often it occurs, mean 1. Shape: (K,)."""
    counts = torch.bincount(targets.cpu(), minlength=num_classes).clamp(min=1).float()
    weights = 1 / counts
    return (weights / weights.mean()).to(targets.device)
