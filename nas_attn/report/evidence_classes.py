"""The test predictions class by class, or label by label: accuracy, confusions, and how calibrated they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.comparison import contributions
from nas_attn.comparison.contrasts import Contrast
from nas_attn.report.evidence_metrics import N_BINS, Judged, Values, bins_of, both, calibration_error, difference, right

MOST_ROWS = 30
"""A longer list of classes is cut to those that differ most."""

MOST_CONFUSIONS = 8
"""Rows of the list of confusions."""

FEWEST_IN_BIN = 30
"""A bin of the reliability diagram is drawn from so many predictions on, of all seeds together."""


@dataclass(frozen=True)
class ClassRow:
    """One class, or one label, in several arms.

    Args:
        n_images: Test images of the class, or with the label.
        values: Mean over the seeds by arm: accuracy of the class, or ROC AUC of the label.
        differences: Arm minus the baseline, without the baseline itself; intervals are for this class alone.
        rates: For labels, by arm: how they are predicted at a probability of one half.
    """

    name: str
    n_images: int
    values: Mapping[str, float]
    differences: Mapping[str, Contrast]
    rates: Mapping[str, LabelRates]


@dataclass(frozen=True)
class LabelRates:
    """One label at a threshold of one half, as means over the seeds.

    Args:
        sensitivity, specificity: Share of the images with the label that it is predicted for; without it, of the
            images that it is not predicted for. With their complements they are the label's confusion matrix.
        f1: F1 of the label.
        error: Calibration error of its probability.
    """

    sensitivity: float
    specificity: float
    f1: float
    error: float


@dataclass(frozen=True)
class Confusion:
    """Images of one class that are predicted as another.

    Args:
        n_images: Test images of the true class.
        shares: Share of them by arm, as a mean over the seeds.
        differences: Arm minus the baseline, without the baseline itself.
    """

    true: str
    predicted: str
    n_images: int
    shares: Mapping[str, float]
    differences: Mapping[str, Contrast]


@dataclass(frozen=True)
class Reliability:
    """How often predictions of a certain probability are right: 15 bins of all seeds together.

    Args:
        confidence, right: Mean probability and share that is right, of the bins with at least 30 predictions.
        shares: Share of the predictions in every bin.
    """

    confidence: tuple[float, ...]
    right: tuple[float, ...]
    shares: tuple[float, ...]


def class_rows(arms: Sequence[Judged], baseline: str, names: Sequence[str]) -> tuple[ClassRow, ...]:
    """Return the classes or labels, from the one that the last arm raises most to the one that it lowers most.

    Without a second arm they go from the lowest value to the highest. A class without test images has no row, and so
    has a label that no image or every image has.
    """
    if not arms:
        return ()
    if arms[0].has_labels:
        known = [at for at, is_known in enumerate(both(arms[0])) if is_known]
        rows = [_label_row(arms, baseline, at, names[at]) for at in known]
    else:
        rows = _rows_of_classes(arms, baseline, names)
    leading = next((arm.label for arm in arms if arm.label != baseline), None)
    if leading is None:
        return tuple(sorted(rows, key=lambda row: row.values[arms[0].label]))
    return tuple(sorted(rows, key=lambda row: -gain(row, leading)))


def gain(row: ClassRow, arm: str) -> float:
    """Return the difference of an arm to the baseline, 0 without one."""
    found = row.differences.get(arm)
    return found.summary.mean if found is not None and found.summary is not None else 0.0


def shortened(rows: Sequence[ClassRow], arm: str | None) -> tuple[tuple[ClassRow, ...], tuple[ClassRow, ...]]:
    """Return the rows that differ most, at most `MOST_ROWS`, and the rest, both in their order."""
    if len(rows) <= MOST_ROWS or arm is None:
        return tuple(rows[:MOST_ROWS]), tuple(rows[MOST_ROWS:])
    by_size = sorted(rows, key=lambda row: -abs(gain(row, arm)))
    kept = {row.name for row in by_size[:MOST_ROWS]}
    return tuple(row for row in rows if row.name in kept), tuple(row for row in rows if row.name not in kept)


def _rows_of_classes(arms: Sequence[Judged], baseline: str, names: Sequence[str]) -> list[ClassRow]:
    is_right, rows = {arm.label: right(arm) for arm in arms}, []
    order = np.argsort(arms[0].targets, kind="stable")
    present, starts = np.unique(arms[0].targets[order], return_index=True)
    for at, images in zip(present.tolist(), np.split(order, starts[1:]), strict=True):
        values = {label: found[:, images] for label, found in is_right.items()}
        rows.append(ClassRow(names[at], len(images), _mean_of(values), _differences(arms, values, baseline), {}))
    return rows


def _label_row(arms: Sequence[Judged], baseline: str, at: int, name: str) -> ClassRow:
    one = arms[0].targets[:, [at]]
    values = {arm.label: contributions.mean_roc_auc(arm.confidence[:, :, [at]], one) for arm in arms}
    rates = {arm.label: _rates(arm, at) for arm in arms}
    return ClassRow(name, int(one.sum()), _mean_of(values), _differences(arms, values, baseline), rates)


def _rates(judged: Judged, at: int) -> LabelRates:
    positive, said = judged.targets[:, at] == 1, judged.predicted[:, :, at]
    alone = Judged(
        judged.label, judged.placement, judged.seeds, judged.targets[:, [at]], said[:, :, None],
        judged.confidence[:, :, [at]], None,
    )  # fmt: skip
    f1, error = contributions.f1(said, positive), calibration_error(alone)
    return LabelRates(said[:, positive].mean(), 1.0 - said[:, ~positive].mean(), f1.mean(), error.mean())


def _mean_of(values: Mapping[str, Values]) -> dict[str, float]:
    return {label: float(found.mean()) for label, found in values.items()}


def _differences(arms: Sequence[Judged], values: Mapping[str, Values], baseline: str) -> dict[str, Contrast]:
    by_seed = {arm.label: arm.by_seed(values[arm.label]) for arm in arms}
    if baseline not in by_seed:
        return {}
    other = (baseline, by_seed[baseline])
    return {label: difference((label, found), other) for label, found in by_seed.items() if label != baseline}


def confusion_matrix(judged: Judged, n_classes: int) -> Values:
    """Return the share of the images of each true class (row) that are predicted as each class: mean over the seeds.

    A class without test images has a row of zeros. Shape: (K, K).
    """
    counts = np.zeros(n_classes * n_classes)
    for predicted in judged.predicted:
        counts += np.bincount(judged.targets * n_classes + predicted, minlength=len(counts))
    matrix = counts.reshape(n_classes, n_classes)
    return np.asarray(matrix / np.maximum(matrix.sum(1, keepdims=True), 1.0))


def confusions(arms: Sequence[Judged], baseline: str, names: Sequence[str]) -> tuple[Confusion, ...]:
    """Return the most frequent confusions, by the number of images in the mean over the arms."""
    if not arms or arms[0].has_labels:
        return ()
    n_classes, sizes = len(names), np.bincount(arms[0].targets, minlength=len(names))
    counts = np.mean([confusion_matrix(arm, n_classes) for arm in arms], 0) * sizes[:, None]
    np.fill_diagonal(counts, 0.0)
    order = np.argsort(-counts, axis=None, kind="stable")[:MOST_CONFUSIONS]
    pairs = [(int(at) // n_classes, int(at) % n_classes) for at in order if counts.flat[at] > 0.0]
    return tuple(_confusion(arms, baseline, pair, names) for pair in pairs)


def _confusion(arms: Sequence[Judged], baseline: str, pair: tuple[int, int], names: Sequence[str]) -> Confusion:
    true, predicted = pair
    of_class = arms[0].targets == true
    values = {arm.label: np.asarray(arm.predicted[:, of_class] == predicted, np.float64) for arm in arms}
    n_images = int(of_class.sum())
    found = _differences(arms, values, baseline)
    return Confusion(names[true], names[predicted], n_images, _mean_of(values), found)


def reliability(judged: Judged) -> Reliability:
    """Return the reliability of the predicted class, or of all labels together."""
    is_right: NDArray[Any] = right(judged)
    if judged.has_labels:
        is_right = np.broadcast_to(judged.targets, judged.confidence.shape)
    confidence, bins = np.asarray(judged.confidence, np.float64).ravel(), bins_of(judged.confidence).ravel()
    counts = np.bincount(bins, minlength=N_BINS)
    known = counts >= FEWEST_IN_BIN
    of_bins, of_right = (
        np.bincount(bins, values.ravel(), N_BINS)[known] / counts[known] for values in (confidence, is_right)
    )
    return Reliability(tuple(of_bins.tolist()), tuple(of_right.tolist()), tuple((counts / counts.sum()).tolist()))
