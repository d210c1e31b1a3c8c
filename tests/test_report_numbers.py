"""The numbers of the report as text: scales, signs, counts, ticks."""

from __future__ import annotations

import doctest
import importlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import everywhere, make_run, resnet_table

from nas_attn.placement import Placement
from nas_attn.report.figures import log_ticks
from nas_attn.report.words import PER_CENT, placement_words, scale_of


def test_values_outside_0_to_1_are_shown_unscaled():
    run = make_run()
    assert scale_of(run) == PER_CENT
    scale = scale_of(replace(run, search=(replace(run.search[0], value=37.5), *run.search[1:])))
    assert (scale.value(37.5), scale.difference(-0.5)) == ("37.5000", "-0.5000")


def test_rounded_zero_has_no_minus():
    assert PER_CENT.signed(-0.00001) == "+0.00"
    assert PER_CENT.signed(-0.0012) == "-0.12"


def test_many_sites_are_written_as_counts():
    table = resnet_table()
    sites = tuple(site.name for site in table.sites if site.kind == "branch")
    assert placement_words(everywhere("se", sites), table, 16) == "se at 16 sites (of 16)"
    assert placement_words(Placement(), table) == "no attention"


@given(st.floats(1, 1e12), st.floats(5, 1e6))
def test_log_axis_has_up_to_three_round_ticks(low: float, ratio: float):
    ticks = log_ticks(low, low * ratio)
    assert 1 <= len(ticks) <= 3
    assert all(low <= tick <= low * ratio for tick in ticks)
    assert {f"{tick:.0e}"[0] for tick in ticks} <= {"1", "2", "5"}


@pytest.mark.parametrize(
    "name",
    ["report.figures", "report.trials", "report.words", "statistics", "comparison.answer", "comparison.looks"],
)
def test_examples_in_docstrings_are_true(name: str):
    outcome = doctest.testmod(importlib.import_module(f"nas_attn.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0
