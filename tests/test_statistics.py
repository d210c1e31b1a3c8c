"""Means, intervals and comparisons: against values computed by hand, by scipy.stats, and by an earlier version."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas_attn.statistics import Summary, equality_p_value, holm, p_value, summarize

values = st.lists(st.floats(0, 1, allow_nan=False), min_size=0, max_size=6)


def test_t_interval_is_the_one_computed_by_hand():
    found = summarize([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found is not None
    assert (found.n, found.mean) == (5, 3.0)
    assert found.sd == pytest.approx(1.5811388)
    assert found.high == pytest.approx(3 + 2.7764451 * 1.5811388 / math.sqrt(5), rel=1e-6)
    assert found.low == pytest.approx(3 - 1.9632432, rel=1e-6)


def test_t_interval_of_two_values_uses_one_degree_of_freedom():
    found = summarize([0.0, 2.0])
    assert found is not None
    assert found.high == pytest.approx(1 + 12.7062047, rel=1e-6)


def test_one_value_has_no_spread_and_no_value_no_summary():
    found = summarize([0.25])
    assert found is not None
    assert (found.n, found.mean, found.sd, found.low, found.high) == (1, 0.25, None, None, None)
    assert summarize([]) is None
    assert summarize([math.nan, math.inf]) is None


def test_an_interval_is_cut_where_nothing_can_be_measured():
    free, cut = summarize([0.9, 1.0]), summarize([0.9, 1.0], within=(0.0, 1.0))
    assert free.high > 1.0 == cut.high
    assert cut.low == free.low > 0.0
    assert (cut.mean, cut.sd) == (free.mean, free.sd)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_t_interval_agrees_with_scipy_stats(sample: list[float]):
    found = summarize(sample)
    assert found is not None
    assert found.sd is not None
    if found.sd > 1e-6:
        low, high = stats.t.interval(0.95, len(sample) - 1, found.mean, found.sd / math.sqrt(len(sample)))
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            summarize([0.9513, 0.9472, 0.9611, 0.9538]),
            Summary(4, 0.95335, 0.005839235109726805, 0.9440584738996836, 0.9626415261003165),
        ),
    ],
    ids=["one sample"],
)
def test_figures_are_those_of_the_first_release(found: Summary, expected: Summary):
    assert (found.n, found.mean, found.sd) == (expected.n, expected.mean, expected.sd)
    assert (found.low, found.high) == (pytest.approx(expected.low, rel=1e-13), pytest.approx(expected.high, rel=1e-13))


def test_confidence_is_the_caller_s_choice():
    sample = [0.91, 0.93, 0.92, 0.95]
    found = summarize(sample, confidence=0.9)
    assert found.interval == pytest.approx(
        stats.t.interval(0.9, 3, found.mean, found.sd / math.sqrt(4)),
    )


@pytest.mark.parametrize(
    ("summary", "excludes"),
    [
        (Summary(1, 0.5), False),
        (Summary(3, 0.5, 0.1, -0.1, 1.1), False),
        (Summary(3, 0.5, 0.1, 0.0, 1.0), False),
        (Summary(3, 0.5, 0.1, 0.1, 0.9), True),
        (Summary(3, -0.5, 0.1, -0.9, -0.1), True),
    ],
)
def test_interval_that_touches_zero_does_not_exclude_it(summary: Summary, excludes: bool):
    assert summary.excludes_zero is excludes


def test_module_loads_without_scipy(root: Path):
    code = "import sys; import nas_attn.statistics; print([m for m in ('scipy', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_p_value_agrees_with_scipy_stats_and_with_the_interval():
    sample = [0.3, -0.1, 0.5, 0.4]
    mean, variance = sum(sample) / 4, stats.sem(sample) ** 2
    found = p_value(mean, variance, 3)
    assert found == pytest.approx(stats.ttest_1samp(sample, 0.0).pvalue, rel=1e-10)
    assert p_value(-mean, variance, 3) == found
    assert summarize(sample, confidence=1 - found).low == pytest.approx(0.0, abs=1e-12)


def test_equality_takes_the_worse_of_two_one_sided_tests():
    sample = [0.3, -0.1, 0.5, 0.4]
    mean, variance = sum(sample) / 4, stats.sem(sample) ** 2
    sides = [
        stats.ttest_1samp(sample, 0.8, alternative="less").pvalue,
        stats.ttest_1samp(sample, -0.8, alternative="greater").pvalue,
    ]
    assert equality_p_value(mean, variance, 3, 0.8) == pytest.approx(max(sides), rel=1e-10)
    assert equality_p_value(0.0, 0.1, 3, 0.0) == 0.5, "without a margin nothing is shown to be equal"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_rejects_what_the_stepwise_procedure_rejects(p_values: list[float]):
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.3):
        rejected = 0  # the stepwise form: the smallest against level / m, the next against level / (m - 1), ...
        for rank, p in enumerate(sorted(p_values)):
            if p * (len(p_values) - rank) > level:
                break
            rejected += 1
        assert sum(p <= level for p in adjusted) == rejected
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))


def test_holm_leaves_out_what_was_not_tested():
    assert holm([None, 0.03, None]) == [None, 0.03, None]
    assert holm([]) == []
