"""Metrics, classes, confusions, calibration and learning curves of the arms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evidence_runs import (
    FOUND_HERE,
    N_CLASSES,
    SITES,
    charts_of,
    evidence,
    many_labels,
    one_class_each,
    page_of,
    section_of,
    shown,
    with_data,
)
from sklearn import metrics
from synthetic_run import everywhere, failed, make_run, with_predictions

from nas_attn.comparison.predictions import Predictions
from nas_attn.placement import Placement
from nas_attn.records import RunRecord
from nas_attn.report.evidence import class_names, drawn_of, learning_curves, main_arms
from nas_attn.report.evidence_classes import FEWEST_IN_BIN, MOST_ROWS, confusion_matrix, gain, reliability
from nas_attn.report.evidence_metrics import N_BINS, Judged, bins_of, calibration_error, judged_arms, metric_rows
from nas_attn.report.tables import arms_of
from nas_attn.statistics import SEEDS_AND_IMAGES, SEEDS_ONLY


def stored(run: RunRecord, arm: str) -> list[Predictions]:
    rows = [row for row in run.retrain if row.label == arm]
    return [run.predictions[row.key, row.seed, row.epochs] for row in sorted(rows, key=lambda row: row.seed)]


def judged(run: RunRecord, arm: str) -> Judged:
    return next(one for one in judged_arms(run, arms_of(run)) if one.label == arm)


def area(one: Predictions, number: int) -> float:
    truth = one.targets[:, number] if one.targets.ndim == 2 else one.targets == number
    return metrics.roc_auc_score(truth, one.probabilities[:, number].astype(np.float64))


OF_CLASSES = {
    "accuracy": lambda one: metrics.accuracy_score(one.targets, one.predicted),
    "balanced accuracy": lambda one: metrics.recall_score(one.targets, one.predicted, labels=range(4), average="macro"),
    "macro F1": lambda one: metrics.f1_score(one.targets, one.predicted, labels=range(4), average="macro"),
    "ROC AUC": lambda one: np.mean([area(one, number) for number in range(N_CLASSES)]),
}
OF_LABELS = {
    "ROC AUC": lambda one: np.mean([area(one, number) for number in (0, 1)]),
    "accuracy of the labels": lambda one: np.mean((one.probabilities > 0.5) == one.targets),
    "balanced accuracy": lambda one: np.mean(
        [metrics.balanced_accuracy_score(one.targets[:, k], one.probabilities[:, k] > 0.5) for k in (0, 1)]
    ),
    "macro F1": lambda one: np.mean(
        [metrics.f1_score(one.targets[:, k], one.probabilities[:, k] > 0.5) for k in (0, 1)]
    ),
}


@pytest.mark.parametrize(
    ("make", "name"), [*((one_class_each, name) for name in OF_CLASSES), *((many_labels, name) for name in OF_LABELS)]
)
def test_metrics_are_those_of_scikit_learn(make, name: str):
    run = make()
    row = next(row for row in evidence(run).metrics if row.name == name)
    theirs = OF_CLASSES[name] if make is one_class_each else OF_LABELS[name]
    expected = {arm: [theirs(one) for one in stored(run, arm)] for arm in ("none", "found #1", "se everywhere")}
    rounding = 2e-3 if make is many_labels and name == "ROC AUC" else 0.0  # the probabilities are float16
    for arm, values in expected.items():
        assert row.summaries[arm].mean == pytest.approx(np.mean(values), abs=1e-9 + rounding)
        assert row.summaries[arm].sd == pytest.approx(np.std(values, ddof=1), abs=1e-9 + rounding)
        assert row.summaries[arm].covers == SEEDS_AND_IMAGES
    assert "none" not in row.differences
    difference = row.differences["found #1"]
    assert difference.summary.mean == pytest.approx(
        np.mean(expected["found #1"]) - np.mean(expected["none"]), abs=1e-9 + rounding
    )
    assert difference.summary.covers == SEEDS_AND_IMAGES
    assert difference.confidence == 0.95
    assert difference.summary.low < difference.summary.mean < difference.summary.high


def test_the_value_of_a_run_with_labels_is_the_one_that_was_measured():
    run = many_labels()
    row = next(row for row in evidence(run).metrics if row.name == "ROC AUC")
    measured = [row.value for row in run.retrain if row.label == "none"]
    assert row.summaries["none"].mean == pytest.approx(np.mean(measured), abs=1e-12)
    own = next(arm for arm in arms_of(run) if arm.label == "none")
    assert row.summaries["none"].interval == pytest.approx(own.summary.interval)
    custom = evidence(with_data(run, ["a", "b", "c", "d"], train="mine:train")).metrics[0]
    assert custom.summaries["none"].mean == pytest.approx(
        np.mean([OF_LABELS["ROC AUC"](one) for one in stored(run, "none")])
    )


def plain_error(right: np.ndarray, confidence: np.ndarray) -> float:
    """Return the expected calibration error of one network, bin by bin."""
    total = 0.0
    for number in range(N_BINS):
        inside = (confidence > number / N_BINS) & (confidence <= (number + 1) / N_BINS)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def test_calibration_error_is_the_distance_of_confidence_and_share_right():
    run = one_class_each()
    expected = [
        plain_error(one.predicted == one.targets, one.of_predicted.astype(np.float64)) for one in stored(run, "none")
    ]
    assert calibration_error(judged(run, "none")).mean(1) == pytest.approx(expected, abs=1e-9)
    row = evidence(run).metrics[-1]
    assert row.name == "calibration error"
    assert row.summaries["none"].covers == row.differences["found #1"].summary.covers == SEEDS_ONLY


def test_calibration_error_of_labels_is_their_mean():
    run = many_labels()
    expected = [
        np.mean([plain_error(one.targets[:, k], one.probabilities[:, k].astype(np.float64)) for k in range(4)])
        for one in stored(run, "found #1")
    ]
    assert calibration_error(judged(run, "found #1")).mean(1) == pytest.approx(expected, abs=1e-9)


def test_a_bin_contains_its_upper_end():
    assert bins_of(np.array([0.0, 1e-6, 1 / 15, 0.0667, 14 / 15 + 1e-9, 1.0])).tolist() == [0, 0, 0, 1, 14, 14]


def test_classes_have_their_recall_and_are_sorted_by_the_difference():
    run = one_class_each()
    rows = evidence(run).classes
    assert {row.name for row in rows} == {"ant", "bee", "cat", "dog"}, "a class without test images has no row"
    names = class_names(run, judged_arms(run, arms_of(run)))
    for row in rows:
        number = names.index(row.name)
        recalls = {
            arm: np.mean([np.mean(one.predicted[one.targets == number] == number) for one in stored(run, arm)])
            for arm in ("none", "found #1")
        }
        assert row.values == pytest.approx(recalls)
        assert row.n_images == (stored(run, "none")[0].targets == number).sum()
        assert gain(row, "found #1") == pytest.approx(recalls["found #1"] - recalls["none"], abs=1e-9)
    gains = [gain(row, "found #1") for row in rows]
    assert gains == sorted(gains, reverse=True)
    assert max(gains) > 0.0 > min(gains)


def test_labels_have_their_area_and_their_confusions_as_rates():
    run = many_labels()
    rows = {row.name: row for row in evidence(run).classes}
    assert set(rows) == {"edema", "mass"}, "labels that no image or every image has say nothing"
    assert rows["mass"].values["none"] == pytest.approx(np.mean([area(one, 1) for one in stored(run, "none")]))
    rates = rows["mass"].rates["none"]
    tables = [metrics.confusion_matrix(one.targets[:, 1], one.probabilities[:, 1] > 0.5) for one in stored(run, "none")]
    assert rates.sensitivity == pytest.approx(np.mean([table[1, 1] / table[1].sum() for table in tables]))
    assert rates.specificity == pytest.approx(np.mean([table[0, 0] / table[0].sum() for table in tables]))
    f1 = [metrics.f1_score(one.targets[:, 1], one.probabilities[:, 1] > 0.5) for one in stored(run, "none")]
    assert rates.f1 == pytest.approx(np.mean(f1))


def test_confusion_matrix_is_that_of_scikit_learn():
    run = one_class_each()
    counts = sum(metrics.confusion_matrix(one.targets, one.predicted, labels=range(5)) for one in stored(run, "none"))
    found = confusion_matrix(judged(run, "none"), 5)
    assert found[:4] == pytest.approx(counts[:4] / counts[:4].sum(1, keepdims=True))
    assert found[4].tolist() == [0.0] * 5, "a class without test images"


def test_the_most_frequent_confusions_come_first():
    run = one_class_each()
    rows = evidence(run).confusions
    counts = [row.n_images * (row.shares["none"] + row.shares["found #1"]) for row in rows]
    assert counts == sorted(counts, reverse=True)
    names = ["ant", "bee", "cat", "dog", "elk"]
    matrix = confusion_matrix(judged(run, "none"), 5)
    for row in rows:
        assert row.true != row.predicted
        share = matrix[names.index(row.true), names.index(row.predicted)]
        assert row.shares["none"] == pytest.approx(share)


def test_a_long_list_of_classes_is_cut_to_those_that_differ_most():
    run = with_data(
        with_predictions(make_run(n_trials=8, found=FOUND_HERE), 2_000, 60), [f"class {number}" for number in range(60)]
    )
    found = evidence(run)
    assert (len(found.classes), len(found.other_classes)) == (MOST_ROWS, 30)
    smallest = min(abs(gain(row, "found #1")) for row in found.classes)
    assert smallest >= max(abs(gain(row, "found #1")) for row in found.other_classes)
    assert "confusion" not in {chart.name for chart in charts_of(run)}
    assert all(one.matrix is None for one in drawn_of(run)[0])
    text = section_of(shown(run))
    assert "Of 60 classes, these 30 differ most." in text
    assert "The most frequent confusions" in text


def test_reliability_compares_probability_and_truth_bin_by_bin():
    run = one_class_each()
    found, all_of = reliability(judged(run, "none")), stored(run, "none")
    confidence = np.concatenate([one.of_predicted.astype(np.float64) for one in all_of])
    right = np.concatenate([one.predicted == one.targets for one in all_of])
    bins = [(confidence > k / N_BINS) & (confidence <= (k + 1) / N_BINS) for k in range(N_BINS)]
    filled = [inside for inside in bins if inside.sum() >= FEWEST_IN_BIN]
    assert found.confidence == pytest.approx([confidence[inside].mean() for inside in filled])
    assert found.right == pytest.approx([right[inside].mean() for inside in filled])
    assert found.shares == pytest.approx([inside.mean() for inside in bins])
    assert sum(found.shares) == pytest.approx(1.0)
    assert len(found.shares) == N_BINS > len(found.right), "bins with few predictions are left out"


def test_short_predictions_have_no_area_and_the_page_says_why():
    run = one_class_each()
    short = replace(run, predictions={key: found.short() for key, found in run.predictions.items()})
    assert [row.name for row in evidence(short).metrics] == [
        "accuracy",
        "balanced accuracy",
        "macro F1",
        "calibration error",
    ]
    assert "There is no ROC AUC" in section_of(shown(short))
    assert "There is no ROC AUC" not in section_of(page_of(one_class_each))


def test_the_random_arm_has_a_placement_for_each_seed():
    run = one_class_each()
    others = [Placement({site: everywhere("se", SITES)[site]}) for site in SITES[:3]]
    rows = [
        replace(row, placement=other, key=other.key, label="random")
        for row, other in zip([row for row in run.retrain if row.label == "none"], others, strict=True)
    ]
    kept = {(row.key, row.seed, row.epochs): one for row, one in zip(rows, stored(run, "none"), strict=True)}
    both = replace(run, retrain=(*run.retrain, *rows), predictions={**run.predictions, **kept})
    row = metric_rows(judged_arms(both, arms_of(both)), "none")[0]
    assert row.summaries["random"].mean == pytest.approx(row.summaries["none"].mean)
    assert judged(both, "random").seeds == judged(both, "none").seeds


def test_predictions_for_other_images_are_left_out():
    run = one_class_each()
    kept = dict(run.predictions)
    for row in run.retrain:
        if row.label == "se everywhere":
            one = kept[row.key, row.seed, row.epochs]
            kept[row.key, row.seed, row.epochs] = Predictions.of(one.probabilities[::-1], one.targets[::-1])
    labels = {one.label for one in judged_arms(replace(run, predictions=kept), arms_of(run))}
    assert "se everywhere" not in labels
    assert {"none", "found #1", "cbam everywhere"} <= labels


def test_an_attention_everywhere_that_is_recommended_is_a_main_arm():
    run = make_run(n_trials=8, effects={(s, "se"): 0.008 for s in SITES}, found=FOUND_HERE)
    assert [arm.label for arm in main_arms(run, arms_of(run))] == ["none", "found #1", "se everywhere"]
    stored_run = with_predictions(run, 400)
    text = section_of(shown(stored_run))
    assert "se everywhere minus none" in text
    assert evidence(stored_run).others == ("found #1", "se everywhere")


def test_without_found_or_none_there_are_values_and_no_differences():
    run = one_class_each()
    bare = replace(run, retrain=tuple(row for row in run.retrain if row.label == "none"))
    found = evidence(bare)
    assert (found.arms, found.others, found.reasons) == (("none",), (), ())
    values = [row.values["none"] for row in found.classes]
    assert values == sorted(values)
    alone = evidence(replace(run, retrain=tuple(row for row in run.retrain if row.label == "found #1")))
    assert (alone.arms, alone.others) == (("found #1",), ())
    assert alone.metrics[0].differences == {}


def test_curves_are_means_over_the_seeds_with_their_range():
    run = make_run(n_trials=8, found=FOUND_HERE)
    training, validation = learning_curves(run)
    assert (training.title, validation.title) == ("Training batches", "Validation images")
    assert [(curve.label, curve.n_seeds) for curve in training.curves] == [("none", 5), ("found #1", 5)]
    assert [(curve.label, curve.n_seeds) for curve in validation.curves] == [("none", 2), ("found #1", 2)]
    rows = [row for row in run.retrain if row.label == "found #1"]
    curve = training.curves[1]
    assert curve.epochs == tuple(range(1, 31))
    assert curve.mean[9] == pytest.approx(np.mean([row.curve[10] for row in rows]))
    assert curve.low[9] == min(row.curve[10] for row in rows)
    assert curve.high[9] == max(row.curve[10] for row in rows)


def test_curves_of_runs_with_other_schedules_or_failures_are_left_out():
    run = make_run(n_trials=8, found=FOUND_HERE)
    longest = [replace(row, epochs=40, curve=dict.fromkeys(range(1, 41), 0.5)) for row in run.retrain[:1]]
    mixed = replace(run, retrain=(*longest, *run.retrain[1:]))
    curve = next(curve for curve in learning_curves(mixed)[0].curves if curve.label == "found #1")
    assert (curve.n_seeds, curve.epochs[-1]) == (1, 40)
    broken = replace(run, retrain=tuple(failed(row) if row.seed == 200 else row for row in run.retrain))
    assert {curve.n_seeds for curve in learning_curves(broken)[0].curves} == {4}


def test_validation_curves_come_from_the_search_where_an_arm_was_not_confirmed():
    run = replace(make_run(n_trials=8, found=FOUND_HERE), confirm=())
    validation = learning_curves(run)[1]
    assert (validation.stage, {curve.n_seeds for curve in validation.curves}) == ("search", {1})
    assert "the trials of the search, one seed each" in section_of(shown(run))


def test_a_custom_training_reports_its_own_values():
    run = make_run(n_trials=8, found=FOUND_HERE)
    own = replace(run, config={**run.config, "train": "mine:train"})
    assert learning_curves(own)[0].title == "Final training, as reported"
    text = section_of(shown(own))
    assert "Training batches" not in text
    assert "the values that the training reported" in text


def test_classes_without_names_are_numbered():
    run = one_class_each()
    unnamed = with_data(run, [])
    assert {row.name for row in evidence(unnamed).classes} == {"0", "1", "2", "3"}
    unknown = replace(run, config={})
    assert {row.name for row in evidence(unknown).classes} == {"0", "1", "2", "3"}
