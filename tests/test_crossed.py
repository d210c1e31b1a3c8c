"""Means over seeds and images: the analysis of variance by hand, limits that are known, and a small simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nas_attn.comparison.crossed import (
    crossed,
    expected,
    from_mean_squares,
    probability_best,
    share_interval,
    t_interval,
)


def test_components_are_those_of_the_analysis_of_variance():
    values = np.array([[1.0, 2.0, 6.0], [3.0, 4.0, 11.0]])
    found = crossed(values)
    # means: seeds 3 and 6, images 2, 3 and 8.5, all 4.5; squares: seeds 13.5, images 49, rest 3 over 2 degrees
    assert (found.mean, found.n_seeds, found.n_images) == (4.5, 2, 3)
    assert found.rest == pytest.approx(1.5)
    assert found.seeds == pytest.approx((13.5 - 1.5) / 3)
    assert found.images == pytest.approx((24.5 - 1.5) / 2)
    assert found.variance == pytest.approx((13.5 + 24.5 - 1.5) / 6)
    assert found.error == pytest.approx(math.sqrt(found.variance))
    assert found.image_error == pytest.approx(math.sqrt(11.5 / 3))


def test_seeds_that_do_not_differ_leave_the_error_of_the_images():
    image = np.array([0.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    found = crossed(np.stack([image] * 4))
    assert found.variance == pytest.approx(stats.sem(image) ** 2)
    assert (found.seeds, found.rest) == (0.0, 0.0)


def test_images_that_do_not_differ_leave_the_error_of_the_seeds():
    seed = np.array([[0.1], [0.4], [0.2]])
    found = crossed(np.repeat(seed, 9, axis=1))
    assert found.variance == pytest.approx(stats.sem(seed[:, 0]) ** 2)
    assert found.degrees == pytest.approx(2.0)
    assert t_interval(found) == pytest.approx(stats.t.interval(0.95, 2, seed.mean(), stats.sem(seed[:, 0])))


def test_rounding_is_no_spread():
    image = np.random.default_rng(0).random(501) / 3 + 0.1
    found = crossed(np.stack([image] * 3))
    assert (found.seeds, found.rest) == (0.0, 0.0)
    assert found.images > 0.0
    assert crossed(np.full((3, 501), 0.1)).variance == 0.0
    assert crossed(np.full((3, 501), 0.1) + 1e-9 * np.eye(3, 501)).variance > 0.0


def test_variance_is_never_below_a_quarter_of_that_of_the_rest():
    # each seed errs once and each image is missed once: no mean square but that of the rest
    found = crossed(np.eye(4))
    assert found.rest > 0.0
    assert (found.seeds, found.images) == (0.0, 0.0)
    assert found.variance == pytest.approx(found.rest / 64)


def test_degrees_lie_between_those_of_the_seeds_and_those_of_the_images():
    found = from_mean_squares(0.0, (50.0, 60.0, 10.0), (3, 500), 500 / 3)
    assert found.variance == pytest.approx(100.0 / 1_500)
    assert found.degrees == pytest.approx(1 / (0.49 / 2 + 0.25 / 499))
    rare = from_mean_squares(0.0, (50.0, 60.0, 10.0), (3, 500), 5.0)
    assert rare.degrees == pytest.approx(1 / (0.49 / 2 + 0.25 * (1 / 5 - 1 / 500) / 2))


def test_active_images_counts_where_rare_errors_lie():
    values = np.zeros((3, 2_000))
    values[:, :12] = 1.0
    assert crossed(values).active_images == pytest.approx(12, rel=0.02)
    normal = np.random.default_rng(0).standard_normal((3, 6_000))
    assert crossed(normal).active_images == pytest.approx(2_000, rel=0.1)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.zeros(5), r"must have the shape \(seeds, images\), at least 2 of each, but have \(5,\)"),
        (np.zeros((1, 5)), r"at least 2 of each, but have \(1, 5\)"),
        (np.array([[0.0, math.nan], [1.0, 1.0]]), "must be finite"),
    ],
)
def test_values_of_another_shape_are_refused(values: np.ndarray, match: str):
    with pytest.raises(ValueError, match=match):
        crossed(values)


def test_share_interval_is_wilson_s_where_seeds_agree():
    values = np.zeros((3, 400))
    values[:, :360] = 1.0
    found = crossed(values)
    low, high = share_interval(found)
    wilson = stats.binomtest(360, 400).proportion_ci(method="wilson")
    # the sample variance has N - 1 below, and Student's quantile is a little above the normal one
    assert (low, high) == (pytest.approx(wilson.low, abs=5e-4), pytest.approx(wilson.high, abs=5e-4))
    assert 0.9 - low > high - 0.9, "near 1 the interval reaches further down"


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_share_interval_stays_between_0_and_1_and_holds_the_share(seed: int, share: float):
    values = (np.random.default_rng(seed).random((3, 50)) < share).astype(float)
    found = crossed(values)
    if found.variance > 0.0:
        low, high = share_interval(found)
        assert 0.0 <= low <= found.mean <= high <= 1.0


def test_expected_components_at_the_same_size_are_the_same():
    random = np.random.default_rng(1)
    found = crossed(random.random((5, 300)) + np.linspace(0.1, 0.9, 300) + random.random((5, 1)))
    assert expected(found, n_seeds=5, n_images=300).variance == pytest.approx(found.variance)
    more = expected(found, n_seeds=500, n_images=300)
    assert more.variance == pytest.approx(found.images / 300 + found.seeds / 500 + found.rest / 150_000)


def test_interval_covers_seeds_and_images_where_the_t_interval_over_seeds_does_not():
    random = np.random.default_rng(0)
    draws, covered, by_seeds = 400, 0, 0
    for _ in range(draws):
        hard, seed = random.standard_normal((1, 200)), random.standard_normal((5, 1))
        found = crossed(hard + 0.05 * seed + random.standard_normal((5, 200)))
        low, high = t_interval(found)
        covered += low <= 0.0 <= high
        seeds_error = math.sqrt(found.variance - found.images / 200)
        by_seeds += abs(found.mean) <= stats.t.ppf(0.975, 4) * seeds_error
    assert 0.92 <= covered / draws <= 0.985
    assert by_seeds / draws < 0.9


def test_probability_best_shares_between_equal_arms_and_sees_a_clear_gain():
    random = np.random.default_rng(2)
    base = (random.random((5, 400)) < 0.8).astype(float)
    worse = base.copy()
    worse[:, :60] = 0.0
    found = probability_best({"a": base, "b": base, "c": worse})
    assert found["a"] == pytest.approx(0.5)
    assert found["b"] == pytest.approx(0.5)
    assert found["c"] == pytest.approx(0.0, abs=0.001)
    assert found == probability_best({"a": base, "b": base, "c": worse}), "the draws are seeded"


def test_probability_best_of_two_arms_is_the_posterior_of_their_difference():
    random = np.random.default_rng(3)
    hard = random.standard_normal((1, 300))
    first, second = (hard + random.standard_normal((9, 1)) * 0.1 + random.standard_normal((9, 300)) for _ in range(2))
    found = probability_best({"first": first, "second": second})
    difference = crossed(first - second)
    assert found["first"] == pytest.approx(stats.norm.cdf(difference.mean / difference.error), abs=0.06)
    assert sum(found.values()) == pytest.approx(1.0)


def test_probability_best_needs_one_shape():
    with pytest.raises(ValueError, match="matrices must have one shape"):
        probability_best({"a": np.zeros((1, 5))})
