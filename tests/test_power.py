"""Seeds and images that would tell a difference: against the formula with known variances, and their limits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nas_attn.comparison.crossed import Crossed, from_mean_squares
from nas_attn.comparison.power import images_to_tell, power, seeds_to_tell, smallest_told, usual


def components(seeds: float, images: float, rest: float, n: int = 5, n_images: int = 1_000) -> Crossed:
    """Return the record that estimates these variance components."""
    squares = (n_images * seeds + rest, n * images + rest, rest)
    return from_mean_squares(0.002, squares, (n, n_images), n_images / 3)


def test_many_seeds_need_what_the_normal_formula_says():
    found = components(seeds=0.01**2, images=0.0, rest=0.0)
    exact = (0.01 * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / 0.002) ** 2
    assert seeds_to_tell(found, 0.002) == pytest.approx(exact, abs=4)
    assert seeds_to_tell(found, 0.02) == pytest.approx(5, abs=1), "few seeds pay for the unknown spread"


def test_the_answer_has_the_power_and_one_less_has_not():
    found = components(seeds=0.005**2, images=0.05**2, rest=0.15**2)
    n = seeds_to_tell(found, 0.006)
    assert 3 < n < 100
    reached = [power(found, 0.006, n_seeds=k, n_images=1_000) for k in (n - 1, n)]
    assert reached[0] < 0.8 <= reached[1]
    n_images = images_to_tell(found, 0.012)
    reached = [power(found, 0.012, n_seeds=5, n_images=k) for k in (n_images - 1, n_images)]
    assert reached[0] < 0.8 <= reached[1]


def test_none_where_the_images_or_the_seeds_alone_forbid_it():
    found = components(seeds=0.01**2, images=0.2**2, rest=0.1**2)
    assert found.image_error == pytest.approx(0.2 / np.sqrt(1_000))
    assert seeds_to_tell(found, 2 * found.image_error) is None
    assert seeds_to_tell(found, 3 * found.image_error) is not None
    assert images_to_tell(found, 0.005) is None, "five seeds are too few, however many images there are"


def test_a_smaller_level_a_smaller_difference_and_more_power_need_more_seeds():
    found = components(seeds=0.01**2, images=0.01**2, rest=0.05**2)
    plain = seeds_to_tell(found, 0.005)
    assert seeds_to_tell(found, 0.005, 0.01) > plain
    assert seeds_to_tell(found, 0.004) > plain
    assert seeds_to_tell(found, 0.005, wanted=0.9) > plain
    assert seeds_to_tell(found, -0.005) == plain
    assert seeds_to_tell(found, 0.005, at_most=plain - 1) is None


def test_no_difference_is_never_told():
    found = components(seeds=0.01**2, images=0.01**2, rest=0.05**2)
    assert seeds_to_tell(found, 0.0) is None
    assert power(components(0.0, 0.0, 0.0), 0.0, n_seeds=5, n_images=10) == 0.0


def test_the_smallest_told_difference_has_the_power_and_shrinks_with_seeds_and_images():
    found = usual(n_seeds=5, n_images=1_000)
    smallest = smallest_told(found)
    assert power(found, smallest, n_seeds=5, n_images=1_000) == pytest.approx(0.8, abs=1e-3)
    assert smallest_told(usual(n_seeds=20, n_images=1_000)) < smallest
    assert smallest_told(usual(n_seeds=5, n_images=10_000)) < smallest
    assert smallest_told(found, wanted=0.9) > smallest
