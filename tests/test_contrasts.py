"""An arm's value and the comparison of two arms: intervals, words, and the sentences where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nas_attn.comparison.contrasts import Contrast, arm_summary, as_family, at_confidence, contrast
from nas_attn.comparison.crossed import crossed, share_interval, t_interval
from nas_attn.statistics import SEEDS_AND_IMAGES, SEEDS_ONLY


def by_image(share: float, seed: int, n: int = 5, n_images: int = 500) -> dict[int, np.ndarray]:
    """Return correctness by seed, the images' difficulty being the same for every `seed` of this function."""
    hard = np.random.default_rng(0).standard_normal(n_images)
    noise = np.random.default_rng(seed).standard_normal((n, n_images))
    limit = stats.norm.ppf(share)
    return {k: (0.8 * hard + 0.6 * row < limit).astype(float) for k, row in enumerate(noise)}


def means(rows: dict[int, np.ndarray]) -> dict[int, float]:
    return {seed: float(row.mean()) for seed, row in rows.items()}


def compared(first: dict[int, np.ndarray], second: dict[int, np.ndarray], **options: float) -> Contrast:
    return contrast("a", means(first), "b", means(second), by_image=first, others_by_image=second, **options)


def test_arm_s_interval_covers_new_seeds_and_images_if_the_images_are_known():
    rows = by_image(0.9, 1)
    found, bare = arm_summary(means(rows), rows), arm_summary(means(rows))
    assert found.interval == share_interval(crossed(np.stack(list(rows.values()))))
    assert (found.covers, bare.covers) == (SEEDS_AND_IMAGES, SEEDS_ONLY)
    assert (found.n, found.mean, found.sd) == (bare.n, bare.mean, bare.sd)
    values = list(means(rows).values())
    assert bare.interval == pytest.approx(stats.t.interval(0.95, 4, np.mean(values), stats.sem(values)))
    assert bare.high - bare.low < found.high - found.low


def test_a_seed_without_images_leaves_the_interval_over_seeds():
    rows = by_image(0.9, 1)
    values = means(rows)
    del rows[3]
    assert arm_summary(values, rows).covers == SEEDS_ONLY
    assert contrast("a", values, "b", dict.fromkeys(values, 0.9), by_image=rows).summary.covers == SEEDS_ONLY


@pytest.mark.parametrize(
    ("values", "rows", "why"),
    [
        ({0: 0.9, 1: 0.8}, None, "fewer than 3 seeds allow no interval"),
        ({0: 0.9, 1: 0.8}, {0: np.ones(9), 1: np.zeros(9)}, "fewer than 3 seeds allow no interval"),
        (
            dict.fromkeys(range(3), 0.3),
            None,
            "the values of all seeds are equal, so that the noise between seeds is unknown",
        ),
        (
            dict.fromkeys(range(3), 1.0),
            dict.fromkeys(range(3), np.ones(99)),
            "all images of all seeds have the same value, so that the noise is unknown",
        ),
        (
            dict.fromkeys(range(3), 0.5),
            dict.fromkeys(range(3), np.arange(100.0) % 2),
            "all seeds agree on every image, so that the noise between seeds is unknown",
        ),
        (
            dict.fromkeys(range(3), 0.99),
            {k: np.arange(300) != k % 2 for k in range(3)},
            "fewer than 3 images show an error, too few for an interval",
        ),
    ],
    ids=["two seeds", "two seeds with images", "equal values", "no error", "equal networks", "few errors"],
)
def test_where_an_arm_has_no_interval_a_sentence_says_why(values, rows, why: str):
    found = arm_summary(values, rows)
    assert (found.interval, found.covers, found.why) == (None, "", why)
    assert found.n == len(values)


def test_an_arm_without_a_finite_value_has_no_summary():
    assert arm_summary({}) is None
    assert arm_summary({0: math.nan}) is None


def test_comparison_is_paired_by_seed_and_image():
    first, second = by_image(0.9, 1), by_image(0.86, 2)
    found = compared(first, second)
    expected = crossed(np.stack([first[k] - second[k] for k in range(5)]))
    assert found.crossed == expected
    assert found.summary.interval == pytest.approx(t_interval(expected))
    assert found.summary.mean == pytest.approx(expected.mean)
    assert (found.word, found.summary.covers) == ("better", SEEDS_AND_IMAGES)
    assert compared(second, first).word == "worse"


def test_comparison_without_images_is_the_paired_t_test():
    values, others = {1: 0.95, 2: 0.94, 3: 0.96, 4: 0.93}, {4: 0.94, 3: 0.93, 2: 0.92, 1: 0.94, 9: 0.1}
    found = contrast("a", values, "b", others)
    differences = [values[k] - others[k] for k in values]
    assert found.p_value == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=1e-9)
    assert found.summary.interval == pytest.approx(
        stats.t.interval(0.95, 3, np.mean(differences), stats.sem(differences))
    )
    assert (found.word, found.summary.covers, found.by_seed) == (
        "undecided",
        SEEDS_ONLY,
        dict(zip(values, np.round(differences, 12), strict=True)),
    )


@pytest.mark.parametrize(
    ("differences", "margin", "word"),
    [
        ([0.010, 0.012, 0.011], None, "better"),
        ([-0.010, -0.012, -0.011], 0.005, "worse"),
        ([0.001, -0.001, 0.0005, 0.0], 0.005, "equal"),
        ([0.001, -0.001, 0.0005, 0.0], None, "undecided"),
        ([0.001, -0.001, 0.0005, 0.0], 0.0, "undecided"),
        ([0.02, -0.02, 0.01], 0.005, "undecided"),
        ([0.0010, 0.0012, 0.0011], 0.005, "better"),
    ],
)
def test_words(differences: list[float], margin: float | None, word: str):
    values = {k: 0.9 + one for k, one in enumerate(differences)}
    found = contrast("a", values, "b", dict.fromkeys(values, 0.9), margin=margin)
    assert (found.word, found.why) == (word, "")
    assert (found.p_equal is None) == (margin is None)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({}, "no seed in common"),
        ({0: math.nan}, "no seed in common"),
        ({0: 0.9, 1: 0.91}, "fewer than 3 seeds allow no interval"),
        ({0: 0.9, 1: 0.9, 2: 0.9}, "the values of all seeds are equal, so that the noise between seeds is unknown"),
    ],
)
def test_where_nothing_is_known_a_sentence_says_why(values: dict[int, float], why: str):
    found = contrast("a", values, "b", dict.fromkeys(range(3), 0.8), margin=0.01)
    assert (found.word, found.why, found.p_value, found.p_equal) == ("not known", why, None, None)
    assert found.summary is None or (found.summary.interval is None and found.summary.why == why)
    assert at_confidence(found, 0.9).word == "not known"


def test_arms_that_agree_on_all_but_a_few_images_are_not_compared():
    first = by_image(0.9, 1)
    second = {k: row.copy() for k, row in first.items()}
    assert compared(first, second).why == "all images of all seeds have the same value, so that the noise is unknown"
    for k in range(4):
        second[k][k % 2] = 1 - second[k][k % 2]
    found = compared(first, second)
    assert found.why == "fewer than 3 images show a difference, too few for an interval"
    assert found.crossed is not None


def test_another_confidence_moves_interval_and_word():
    values = {0: 0.93, 1: 0.91, 2: 0.96, 3: 0.92}
    found = contrast("a", values, "b", dict.fromkeys(values, 0.9), margin=0.005)
    assert 0.01 < found.p_value < 0.1
    wide, narrow = at_confidence(found, 0.999), at_confidence(found, 1 - found.p_value - 1e-9)
    assert (wide.word, narrow.word) == ("undecided", "better")
    assert wide.summary.low < 0.0 < narrow.summary.low
    assert wide.p_value == narrow.p_value == found.p_value
    assert at_confidence(wide, found.confidence) == found


def test_family_takes_back_what_only_one_of_many_tests_would_show():
    noise = [0.006, -0.002, 0.005, 0.004, 0.003]
    one = contrast("a", {k: 0.9 + x for k, x in enumerate(noise)}, "b", dict.fromkeys(range(5), 0.9))
    sure = contrast("c", {k: 0.95 + x for k, x in enumerate(noise)}, "b", dict.fromkeys(range(5), 0.9))
    alone = contrast("d", {0: 0.9}, "b", {0: 0.9})
    assert 0.05 < 2 * one.p_value < 0.2
    found = as_family([one, sure, alone], 2 * one.p_value - 1e-9)
    assert [one.word for one in found] == ["better", "better", "not known"], "the larger p-value counts once"
    found = as_family([one, one, sure, alone], 2 * one.p_value - 1e-9)
    assert [one.word for one in found] == ["undecided", "undecided", "better", "not known"]
    assert found[0].p_value == pytest.approx(2 * one.p_value)
    assert found[0].summary == one.summary


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_comparison_turns_around_with_its_arms(seed: int):
    first, second = by_image(0.9, seed, 3, 60), by_image(0.88, seed + 1, 3, 60)
    forth, back = compared(first, second, margin=0.1), compared(second, first, margin=0.1)
    assert back.word == {"better": "worse", "worse": "better"}.get(forth.word, forth.word)
    assert (back.p_value, back.p_equal, back.why) == (forth.p_value, forth.p_equal, forth.why)
    if forth.summary.interval:
        assert back.summary.low == pytest.approx(-forth.summary.high)
