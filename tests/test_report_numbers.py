"""The numbers of the report: a planted effect, marginal means."""

from __future__ import annotations

import doctest
import importlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import FAMILIES, densenet_table, everywhere, make_run, resnet_table

from nas_attn.placement import Attention, Placement
from nas_attn.records import RunRecord
from nas_attn.report.figures import log_ticks
from nas_attn.report.importance import marginals, option_marginals, rows_of, searched_sites
from nas_attn.report.words import PER_CENT, placement_words, scale_of

SITES = ("denseblock1", "transition1", "denseblock2", "transition2", "denseblock3")


def test_planted_effect_is_found_and_nothing_else_is_as_strong():
    run = make_run(effects={("denseblock2", "se"): 0.012}, n_trials=120, noise=0.001, messy=False)
    found = marginals(rows_of(run.search), searched_sites(run))
    effects = {(m.sites, m.attention): m for m in found if m.effect is not None}
    planted = effects.pop((("denseblock2",), "se"))
    assert planted.is_clear
    assert planted.effect is not None
    assert planted.effect.low < 0.012 < planted.effect.high
    assert all(abs(m.effect.mean) < planted.effect.mean / 2 for m in effects.values() if m.effect)
    assert planted.summary.n == sum(
        t.placement.attentions.get("denseblock2", Attention("none")).name == "se" for t in run.search
    )


def test_marginal_means_cover_every_placement_once_per_site():
    run = make_run(n_trials=40)
    rows = rows_of(run.search)
    for site in SITES:
        own = [m for m in marginals(rows, SITES) if site in m.sites]
        assert sum(m.summary.n for m in own) == len(rows)
        assert {m.attention for m in own} == {"none", *FAMILIES}


def test_repeated_placement_counts_once_with_its_mean():
    run = make_run(messy=False)
    again = replace(run.search[1], number=99, seed=1, value=0.5)
    rows = dict(rows_of((*run.search, again)))
    assert len(rows) == len(rows_of(run.search))
    assert rows[again.placement] == pytest.approx((run.search[1].value + 0.5) / 2)


def test_sites_with_equal_attentions_are_one_row():
    placement = everywhere("se", ("a", "b"))
    found = marginals([(placement, 0.9), (Placement(), 0.8), (Placement({"c": Attention("se")}), 0.7)], ("a", "b", "c"))
    assert {m.sites for m in found} == {("a", "b"), ("c",)}


def test_searched_options_are_listed_and_fixed_ones_are_not():
    found = option_marginals(rows_of(make_run(n_trials=60).search))
    assert {(row.attention, row.option) for row in found} >= {("cbam", "kernel_size"), ("se", "reduction")}
    assert ("triple", "parts") not in {(row.attention, row.option) for row in found}  # one value only
    reductions = [row.value for row in found if (row.attention, row.option) == ("se", "reduction")]
    assert reductions == ["4", "8", "16"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["denseblock*"], {"denseblock1", "denseblock2", "denseblock3"}),
        (["denseblock2.*"], {f"denseblock2.layer{n}" for n in range(1, 5)}),
        (["**"], {site.name for site in densenet_table().sites}),
        ("transition1", {"transition1"}),
    ],
)
def test_searched_sites_follow_the_patterns_of_the_space(patterns: object, expected: set[str]):
    run = make_run()
    config = {"space": {"sites": [{"match": patterns}]}}
    assert set(searched_sites(RunRecord(run.folder, config, run.table, (), (), ()))) == expected


def test_searched_sites_are_those_that_the_run_lists_whatever_its_patterns_say():
    run = make_run()
    config = {"space": {"sites": [{"match": ["every block"]}]}, "searched_sites": [SITES[2], SITES[0]]}
    assert searched_sites(RunRecord(run.folder, config, run.table, (), (), ())) == (SITES[0], SITES[2])


def test_searched_sites_are_those_of_the_trials_if_the_space_is_unknown():
    assert searched_sites(make_run()) == SITES


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


@pytest.mark.parametrize("name", ["report.figures", "report.tables", "report.words", "statistics"])
def test_examples_in_docstrings_are_true(name: str):
    outcome = doctest.testmod(importlib.import_module(f"nas_attn.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0
