"""Values per image: their means are the metrics of scikit-learn, and their spread is the known sampling variance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics

from nas_attn.comparison.contributions import accuracy, balanced_accuracy, macro_f1, mean_roc_auc

N_IMAGES, N_CLASSES = 300, 4


def predictions(seed: int = 0, n: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (n, N, K), with ties, and unbalanced targets (N,)."""
    random = np.random.default_rng(seed)
    targets = random.choice(N_CLASSES, N_IMAGES, p=(0.5, 0.3, 0.15, 0.05))
    scores = random.random((n, N_IMAGES, N_CLASSES))
    scores[:, np.arange(N_IMAGES), targets] += 0.4
    return np.round(scores, 1), targets


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (accuracy, metrics.accuracy_score),
        (balanced_accuracy, metrics.balanced_accuracy_score),
        (macro_f1, lambda true, said: metrics.f1_score(true, said, average="macro")),
    ],
    ids=["accuracy", "balanced accuracy", "macro F1"],
)
def test_means_are_the_metrics_of_scikit_learn(ours: Callable, theirs: Callable):
    scores, targets = predictions()
    predicted = scores.argmax(2)
    found = ours(predicted, targets)
    assert found.shape == predicted.shape
    assert found.mean(1) == pytest.approx([theirs(targets, one) for one in predicted], abs=1e-12)


def test_mean_auc_of_classes_is_that_of_scikit_learn_with_ties():
    scores, targets = predictions()
    expected = [np.mean([metrics.roc_auc_score(targets == k, one[:, k]) for k in range(N_CLASSES)]) for one in scores]
    assert mean_roc_auc(scores, targets).mean(1) == pytest.approx(expected, abs=1e-12)


def test_mean_auc_of_labels_leaves_out_labels_without_both():
    scores, targets = predictions()
    labels = (targets[:, None] == np.arange(N_CLASSES)).astype(np.uint8)
    labels[:, 3] = 0
    expected = [np.mean([metrics.roc_auc_score(labels[:, k], one[:, k]) for k in range(3)]) for one in scores]
    assert mean_roc_auc(scores, labels).mean(1) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="needs a label that some but not all images have"):
        mean_roc_auc(scores, np.ones_like(labels))


def test_spread_of_one_label_is_delong_s_variance():
    scores, targets = predictions(n=1)
    of_class = targets == 0
    found = mean_roc_auc(scores[:, :, :1], of_class[:, None].astype(int))[0]
    wins = np.sign(scores[0, of_class, 0][:, None] - scores[0, ~of_class, 0][None]) / 2 + 0.5
    by_positive, by_negative = wins.mean(1), wins.mean(0)
    delong = by_positive.var() / len(by_positive) + by_negative.var() / len(by_negative)
    assert found.var() / N_IMAGES == pytest.approx(delong, rel=1e-12)


@pytest.mark.parametrize("metric", [balanced_accuracy, macro_f1], ids=["balanced accuracy", "macro F1"])
def test_spread_predicts_how_the_metric_varies_over_samples(metric: Callable):
    scores, targets = predictions(seed=1, n=1)
    predicted = scores.argmax(2)
    random = np.random.default_rng(0)
    samples = random.integers(0, N_IMAGES, (600, N_IMAGES))
    spread = np.std([metric(predicted[:, one], targets[one]).mean() for one in samples])
    assert metric(predicted, targets)[0].std() / np.sqrt(N_IMAGES) == pytest.approx(spread, rel=0.12)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"predicted must be \(networks, images\), but is \(3,\) for \(3,\)"):
        accuracy(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match=r"scores must be \(networks, images, labels\)"):
        mean_roc_auc(np.zeros((2, 5)), np.zeros(5, int))
