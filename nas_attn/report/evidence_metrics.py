"""What the networks of an arm predict on the test images, and the metrics that follow beside the value of the search.

Each metric is the mean of one contribution per image (`comparison.contributions`), so that its interval covers new
seeds and new images. The calibration error is none: its absolute values have a bias that depends on the number of
images, so that its interval is for new seeds only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.comparison import contributions
from nas_attn.comparison.contrasts import Contrast, arm_summary, contrast
from nas_attn.comparison.predictions import Predictions
from nas_attn.placement import Placement
from nas_attn.records import RANDOM, RunRecord
from nas_attn.report.tables import Arm, is_measured
from nas_attn.report.words import PER_CENT, ROC_AUC, Scale
from nas_attn.statistics import Summary

Values = NDArray[np.float64]
ByImage = Callable[["Judged"], Values | None]

N_BINS = 15
"""Bins of equal width between 0 and 1, as Guo et al., ICML 2017, arXiv:1706.04599."""

THRESHOLD = 0.5
"""A label is predicted if its probability is higher."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What the networks of one arm, one per seed, predict for the same images.

    Args:
        targets: Class of each image, (N,), or its labels as 0 and 1, (N, K).
        predicted: Predicted class, (n, N), or labels, (n, N, K).
        confidence: Probability of the predicted class, (n, N), or of each label, (n, N, K).
        probabilities: Probability of each class or label, (n, N, K); None in the short form.
        stated: The mean ROC AUC of the labels by seed, as the training measured it before the probabilities were
            rounded to float16; empty where it measured something else.
    """

    label: str
    placement: Placement
    seeds: tuple[int, ...]
    targets: NDArray[Any]
    predicted: NDArray[Any]
    confidence: NDArray[Any]
    probabilities: NDArray[Any] | None
    stated: Mapping[int, float] = field(default_factory=dict)

    @property
    def has_labels(self) -> bool:
        """Whether an image may have several labels."""
        return self.targets.ndim == 2

    def by_seed(self, values: Values) -> dict[int, Values]:
        """Return the rows of a matrix by seed."""
        return dict(zip(self.seeds, values, strict=True))


def judged_arms(run: RunRecord, arms: Sequence[Arm]) -> list[Judged]:
    """Return the arms with predictions, all for the same images; an arm with predictions for others is left out."""
    known = [judged for arm in arms if (judged := _judged(run, arm)) is not None]
    return [judged for judged in known if np.array_equal(judged.targets, known[0].targets)]


def _judged(run: RunRecord, arm: Arm) -> Judged | None:
    found: dict[int, Predictions] = {}
    for row in run.retrain:
        is_of_arm = row.label == RANDOM if RANDOM in arm.names else row.placement == arm.placement
        stored = run.predictions.get((row.key, row.seed, row.epochs))
        if is_of_arm and is_measured(row) and stored is not None and len(stored):
            found[row.seed] = stored
    every = [found[seed] for seed in sorted(found)]
    if not every or any(not np.array_equal(one.targets, every[0].targets) for one in every):
        return None
    labels, targets, seeds = _stacked(every, "probabilities"), every[0].targets, tuple(sorted(found))
    predicted, confidence = _stacked(every, "predicted"), _stacked(every, "of_predicted")
    if targets.ndim == 2 and labels is not None:
        stated = {} if run.config.get("train") else {seed: arm.by_seed[seed] for seed in seeds if seed in arm.by_seed}
        return Judged(arm.label, arm.placement, seeds, targets, labels > THRESHOLD, labels, labels, stated)
    if predicted is None or confidence is None:
        return None
    return Judged(arm.label, arm.placement, seeds, targets, predicted, confidence, labels)


def _stacked(every: Sequence[Predictions], name: str) -> NDArray[Any] | None:
    arrays = [getattr(one, name) for one in every]
    return None if any(array is None for array in arrays) else np.stack(arrays)


@dataclass(frozen=True)
class Metric:
    """One metric of the table.

    Args:
        of: Contribution of each image, (n, N); None where the predictions do not allow it.
        covers_images: Whether its interval is for new images too.
        is_stated: Whether its values are those that the training measured, where there are any.
    """

    name: str
    scale: Scale
    of: ByImage
    covers_images: bool = True
    is_stated: bool = False


@dataclass(frozen=True)
class MetricRow:
    """One metric of several arms, by label.

    Args:
        differences: Each arm minus the baseline, without the baseline itself.
    """

    name: str
    scale: Scale
    summaries: Mapping[str, Summary]
    differences: Mapping[str, Contrast]


def metric_rows(arms: Sequence[Judged], baseline: str) -> tuple[MetricRow, ...]:
    """Return the metrics that the predictions allow, each with the differences to the arm with the label `baseline`."""
    metrics = OF_LABELS if any(arm.has_labels for arm in arms) else OF_CLASSES
    rows = (_row(metric, arms, baseline) for metric in metrics)
    return tuple(row for row in rows if row.summaries)


def _row(metric: Metric, arms: Sequence[Judged], baseline: str) -> MetricRow:
    images = {arm.label: arm.by_seed(values) for arm in arms if (values := metric.of(arm)) is not None}
    stated = {arm.label: arm.stated for arm in arms if metric.is_stated and arm.stated}
    means = {label: stated.get(label, _means(by_image)) for label, by_image in images.items()}
    shown = images if metric.covers_images else {}
    others, other_images = means.get(baseline), shown.get(baseline)
    summaries = {label: found for label, one in means.items() if (found := arm_summary(one, shown.get(label)))}
    differences = {
        label: contrast(label, one, baseline, others, by_image=shown.get(label), others_by_image=other_images)
        for label, one in means.items()
        if others is not None and label != baseline
    }
    return MetricRow(metric.name, metric.scale, summaries, differences)


def difference(arm: tuple[str, Mapping[int, Values]], baseline: tuple[str, Mapping[int, Values]]) -> Contrast:
    """Return one arm minus another, each a label with its values per image by seed."""
    (label, ours), (other, theirs) = arm, baseline
    return contrast(label, _means(ours), other, _means(theirs), by_image=ours, others_by_image=theirs)


def _means(by_image: Mapping[int, Values]) -> dict[int, float]:
    return {seed: float(values.mean()) for seed, values in by_image.items()}


def right(judged: Judged) -> Values:
    """Return 1 where the predicted class is the true one, else 0; for labels the share that is right. Shape: (n, N)."""
    if judged.has_labels:
        return np.asarray((judged.predicted == judged.targets).mean(2))
    return contributions.accuracy(judged.predicted, judged.targets)


def roc_auc(judged: Judged) -> Values | None:
    """Return contributions to the mean ROC AUC of all classes or labels; None without all probabilities."""
    is_known = any(both(judged)) if judged.has_labels else len(np.unique(judged.targets)) > 1
    if judged.probabilities is None or not is_known:
        return None
    return contributions.mean_roc_auc(judged.probabilities, judged.targets)


def both(judged: Judged) -> list[bool]:
    """Return for each label whether some but not all images have it."""
    return [0 < int(n) < len(judged.targets) for n in judged.targets.sum(0)]


def _balanced(judged: Judged) -> Values | None:
    if not judged.has_labels:
        return contributions.balanced_accuracy(judged.predicted, judged.targets)
    return _mean(contributions.balanced_accuracy(said, true) for said, true in _known_labels(judged))


def _macro_f1(judged: Judged) -> Values | None:
    if not judged.has_labels:
        return contributions.macro_f1(judged.predicted, judged.targets)
    return _mean(contributions.f1(said, true == 1) for said, true in _known_labels(judged))


def _known_labels(judged: Judged) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield prediction, (n, N), and truth, (N,), of every label that some but not all images have."""
    for at, is_known in enumerate(both(judged)):
        if is_known:
            yield judged.predicted[:, :, at], judged.targets[:, at]


def _mean(every: Iterator[Values]) -> Values | None:
    found = list(every)
    return np.asarray(sum(found) / len(found)) if found else None


def calibration_error(judged: Judged) -> Values:
    """Return contributions to the expected calibration error: |share right - mean confidence| of a bin, by its images.

    For labels the share of images that have the label against its probability, then the mean over the labels. The mean
    of a row is the error itself; its spread is no measure of the sampling error (see the head of this module).

    Source: Guo et al., ICML 2017, arXiv:1706.04599.

    Shape: (n, N).
    """
    if not judged.has_labels:
        return _bin_gaps(right(judged), judged.confidence)
    n_labels, shape = judged.targets.shape[1], judged.confidence.shape[:2]
    truth = (np.broadcast_to(judged.targets[:, at], shape) for at in range(n_labels))
    gaps = [_bin_gaps(np.asarray(true, np.float64), judged.confidence[:, :, at]) for at, true in enumerate(truth)]
    return np.asarray(sum(gaps) / n_labels)


def _bin_gaps(is_right: Values, confidence: NDArray[Any]) -> Values:
    gaps = is_right - confidence
    bins = bins_of(confidence) + N_BINS * np.arange(len(gaps))[:, None]
    sums = np.bincount(bins.ravel(), gaps.ravel(), N_BINS * len(gaps))
    return np.asarray(np.sign(sums)[bins] * gaps)


def bins_of(confidence: NDArray[Any]) -> NDArray[np.int64]:
    """Return the bin of each probability, from 0; a bin contains its upper end. Shape: any -> the same."""
    bins = np.ceil(np.asarray(confidence, np.float64) * N_BINS).astype(np.int64) - 1
    return bins.clip(0, N_BINS - 1)


OF_CLASSES = (
    Metric("accuracy", PER_CENT, right),
    Metric("balanced accuracy", PER_CENT, _balanced),
    Metric("macro F1", PER_CENT, _macro_f1),
    Metric("ROC AUC", ROC_AUC, roc_auc),
    Metric("calibration error", PER_CENT, calibration_error, covers_images=False),
)
OF_LABELS = (
    Metric("ROC AUC", ROC_AUC, roc_auc, is_stated=True),
    Metric("accuracy of the labels", PER_CENT, right),
    Metric("balanced accuracy", PER_CENT, _balanced),
    Metric("macro F1", PER_CENT, _macro_f1),
    Metric("calibration error", PER_CENT, calibration_error, covers_images=False),
)
