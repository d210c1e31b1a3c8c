"""Looks: what they spend, and that no more than the total is spent wherever one stops."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nas_attn.comparison.looks import FAMILY, TOTAL, Look, at_once, boundary, by_schedule, next_look

MAX_SEEDS = 20


def scheduled(*sizes: int) -> list[Look]:
    """Return looks on the way to 20 seeds."""
    looks: list[Look] = []
    for size in sizes:
        looks.append(next_look(looks, size, by_schedule(looks, size, MAX_SEEDS)))
    return looks


def test_first_look_of_a_default_run_decides_at_four_per_cent():
    look = next_look([], 5, at_once([]))
    assert look.spent == pytest.approx(0.04)
    assert look.level == pytest.approx(0.04, rel=1e-6)
    assert look.family_level == pytest.approx(0.008, rel=1e-6)
    assert look.open_level == pytest.approx(0.048, rel=1e-6)
    assert look.confidence == pytest.approx(0.96, rel=1e-6)


def test_schedule_spends_in_proportion_to_the_seeds_and_keeps_a_part():
    looks = scheduled(5, 10, 15, 20)
    assert [look.spent for look in looks] == pytest.approx([0.012] * 4)
    unplanned = next_look(looks, 30, by_schedule(looks, 30, MAX_SEEDS))
    assert unplanned.spent == pytest.approx(0.8 * 0.002)


def test_later_looks_get_back_what_they_share_with_the_earlier():
    looks = scheduled(5, 10, 15, 20)
    assert all(look.level > look.spent for look in looks[1:])
    assert [look.level for look in looks] == sorted(look.level for look in looks)
    assert all(look.family_level < look.level < look.open_level for look in looks)


def test_a_run_of_five_seeds_may_go_on_by_schedule():
    looks = [next_look([], 5, at_once([]))]
    looks.append(next_look(looks, 10, by_schedule(looks, 10, MAX_SEEDS)))
    assert looks[1].spent == pytest.approx((0.048 - 0.04) * 5 / 15)


def test_a_schedule_has_something_left_whatever_was_spent_before():
    looks: list[Look] = []
    for size in (5, 6, 7):
        looks.append(next_look(looks, size, at_once(looks)))
    assert 0.0 < by_schedule(looks, 20, MAX_SEEDS) < TOTAL - math.fsum(look.spent for look in looks)
    look = next_look(looks, 20, by_schedule(looks, 20, MAX_SEEDS))
    assert 0.0 < look.spent < look.level < 0.01


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=6))
def test_no_path_spends_more_than_the_total(steps: list[tuple[int, bool]]):
    looks: list[Look] = []
    size = 2
    for more, planned in steps:
        size += more
        spending = by_schedule(looks, size, MAX_SEEDS) if planned else at_once(looks)
        assert spending >= 0.0
        looks.append(Look(size, spending, spending, FAMILY * spending, (1 + FAMILY) * spending))
    assert math.fsum(look.spent for look in looks) < TOTAL


def test_boundary_agrees_with_the_bivariate_normal_distribution():
    level = boundary((5, 10), (0.02, 0.03))
    first, second = (stats.norm.isf(one / 2) for one in (0.02, level))
    both = stats.multivariate_normal([0, 0], [[1, math.sqrt(0.5)], [math.sqrt(0.5), 1]])
    inside = both.cdf([first, second], lower_limit=[-first, -second])
    assert 1.0 - inside == pytest.approx(0.05, abs=1e-5)


def test_boundary_spends_what_it_should_in_a_random_walk():
    sizes, spends = (4, 6, 12), (0.02, 0.03, 0.05)
    levels = [boundary(sizes[: k + 1], spends[: k + 1]) for k in range(3)]
    walk = np.random.default_rng(0).standard_normal((40_000, 12)).cumsum(1)[:, [4 - 1, 6 - 1, 12 - 1]]
    outside = np.abs(walk) / np.sqrt(sizes) > stats.norm.isf(np.array(levels) / 2)
    first = np.where(outside.any(1), outside.argmax(1), -1)
    assert [np.mean(first == k) for k in range(3)] == pytest.approx(spends, abs=0.004)


@pytest.mark.parametrize("sizes", [(5, 10, 15, 20), (3, 6, 9, 12)])
def test_t_tests_at_all_looks_together_keep_the_total(sizes: tuple[int, ...]):
    looks = scheduled(*sizes)
    values = np.random.default_rng(1).standard_normal((20_000, sizes[-1]))
    wrong = {"level": False, "family_level": False, "open_level": False}
    for look in looks:
        p = stats.ttest_1samp(values[:, : look.n_seeds], 0.0, axis=1).pvalue
        wrong = {name: found | (p <= getattr(look, name)) for name, found in wrong.items()}
    rates = {name: float(np.mean(found)) for name, found in wrong.items()}
    assert rates["level"] < 0.053
    assert rates["family_level"] < 0.0125
    assert rates["open_level"] < 0.063
    assert rates["level"] > sum(look.spent for look in looks) - 0.007


def test_a_look_is_stored_as_json():
    look = scheduled(5, 10)[1]
    assert Look(**json.loads(json.dumps(asdict(look)))) == look


def test_a_look_needs_a_new_seed():
    with pytest.raises(ValueError, match="a look needs more seeds than the one before, 10, but got 10"):
        next_look(scheduled(5, 10), 10, 0.01)
