"""The numbers of the report: intervals by hand, a planted effect, names that do not matter, nothing divided by zero."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import fields, is_dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from synthetic_run import FAMILIES, densenet_table, everywhere, failed, make_run, resnet_table

from nas_attn.placement import Attention, Placement
from nas_attn.records import RunRecord
from nas_attn.report.csv_files import ARM_COLUMNS, TRIAL_COLUMNS, arms_csv, trials_csv
from nas_attn.report.importance import marginals, option_marginals, rows_of, searched_sites
from nas_attn.report.intervals import compare, difference_of_means, summarize
from nas_attn.report.scales import cost_axis, linear_axis, round_steps
from nas_attn.report.tables import (
    FOUND,
    against,
    arm_called,
    arms_of,
    counts_of,
    failures_of,
    found_placement,
    history_of,
    leader,
    main_families,
    pareto,
    rival,
)
from nas_attn.report.words import PER_CENT, placement_words, scale_of

SITES = ("denseblock1", "transition1", "denseblock2", "transition2", "denseblock3")
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


def test_comparison_is_paired_by_seed_whatever_the_seeds_share():
    # the seeds differ by 10 points, the arms by 1.0, 1.2, 0.8: unpaired this drowns, paired it does not
    arm = {7: 0.510, 8: 0.612, 9: 0.708}
    baseline = {9: 0.700, 7: 0.500, 8: 0.600, 10: 0.1}
    found = compare("a", arm, "b", baseline)
    assert found.by_seed == {7: 0.01, 8: 0.012, 9: 0.008}
    assert found.summary is not None
    assert found.summary.mean == pytest.approx(0.01)
    assert found.summary.low == pytest.approx(0.01 - 4.3026527 * 0.002 / math.sqrt(3), rel=1e-6)
    assert found.word == "better"
    assert compare("b", baseline, "a", arm).word == "worse"


@pytest.mark.parametrize(
    ("differences", "word", "why"),
    [
        ([0.01, -0.01, 0.002], "within noise", ""),
        ([0.0, 0.0, 0.0], "within noise", ""),
        ([0.01], "not known", "one seed gives no interval"),
        ([0.01, 0.01, 0.01], "not known", "every seed gives the same difference, so noise cannot be judged"),
        ([], "not known", "no seed in common"),
    ],
)
def test_verdict_where_it_is_not_clear(differences: list[float], word: str, why: str):
    found = compare("a", {n: 0.9 + d for n, d in enumerate(differences)}, "b", dict.fromkeys(range(9), 0.9))
    assert (found.word, found.why) == (word, why)


@given(values, values)
def test_comparison_turns_around_with_its_arms(left: list[float], right: list[float]):
    forth = compare("a", dict(enumerate(left)), "b", dict(enumerate(right)))
    back = compare("b", dict(enumerate(right)), "a", dict(enumerate(left)))
    turned = {"better": "worse", "worse": "better"}
    assert back.word == turned.get(forth.word, forth.word)
    if forth.summary and back.summary:
        assert back.summary.mean == pytest.approx(-forth.summary.mean)
        assert_finite(forth)


def test_welch_interval_agrees_with_scipy_stats():
    left, right = [0.91, 0.93, 0.92, 0.95], [0.90, 0.90, 0.91]
    found = difference_of_means(left, right)
    expected = stats.ttest_ind(left, right, equal_var=False).confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


@given(values, values)
def test_welch_never_divides_by_zero(left: list[float], right: list[float]):
    found = difference_of_means(left, right)
    assert (found is None) == (not left or not right)
    assert_finite(found)


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


def test_marginal_means_cover_every_placement_once_a_site():
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


def test_sites_decided_together_are_one_row():
    placement = everywhere("se", ("a", "b"))
    found = marginals([(placement, 0.9), (Placement(), 0.8), (Placement({"c": Attention("se")}), 0.7)], ("a", "b", "c"))
    assert {m.sites for m in found} == {("a", "b"), ("c",)}


def test_options_that_were_searched_are_told_and_fixed_ones_are_not():
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


def test_searched_sites_are_those_that_trials_filled_when_nothing_else_is_known():
    assert searched_sites(make_run()) == SITES


def test_arms_are_ordered_found_none_then_by_mean():
    arms = arms_of(make_run())
    assert [arm.label for arm in arms[:2]] == ["found #1", "none"]
    means = [arm.summary.mean for arm in arms[2:] if arm.summary]
    assert means == sorted(means, reverse=True)
    assert all(sorted(arm.by_seed) == [200, 201, 202, 203, 204] for arm in arms)


def test_arm_over_a_limit_is_marked():
    over = {arm.label: arm.over for arm in arms_of(make_run())}
    assert over["gam everywhere"] == "over max_params: 142,310 > 120,000"
    assert over["se everywhere"] == ""


def test_tightest_limit_counts():
    run = make_run()
    run = replace(run, config={**run.config, "engine": {"max_params": 74_000, "max_macs": None}})
    assert "> 74,000" in arms_of(run)[-1].over


def test_identical_arms_are_one():
    arms = arms_of(make_run(found=everywhere("se", SITES)))
    assert arms[0].names == ("found #1", "se everywhere")
    assert arm_called(arms, "se everywhere") is arm_called(arms, FOUND)
    assert len(arms) == 5


def test_identical_arms_are_one_even_if_stored_under_two_labels():
    run = make_run(found=everywhere("se", SITES), n_seeds=4)
    rows = [replace(t, label=FOUND if t.seed % 2 else "se everywhere") if "se" in t.label else t for t in run.retrain]
    arms = arms_of(replace(run, retrain=tuple(rows)))
    assert set(arms[0].names) == {"found #1", "se everywhere"}
    assert len(arms[0].by_seed) == 4


def test_extended_run_gives_the_name_to_what_is_exported():
    old, new = make_run(), make_run(found=everywhere("cbam", SITES[:2]))
    later = [replace(t, number=t.number + 100) for t in new.retrain if t.label == FOUND]
    both = replace(old, retrain=(*old.retrain, *later))
    assert arm_called(arms_of(both), FOUND).placement == old.retrain[0].placement
    extended = replace(both, best=new.best)
    labels = {arm.label: arm.placement for arm in arms_of(extended)}
    assert labels[FOUND] == everywhere("cbam", SITES[:2])
    assert labels["found #1 (earlier)"] == old.retrain[0].placement
    assert labels[FOUND] == arms_of(replace(both, best=None))[0].placement  # without best.json: the one retrained last


def test_failed_seed_is_told_until_it_succeeds():
    run = make_run()
    rows = (failed(run.retrain[0], "oom"), *run.retrain[1:])
    arm = arms_of(replace(run, retrain=rows))[0]
    assert (len(arm.by_seed), len(arm.failures)) == (4, 1)
    arm = arms_of(replace(run, retrain=(*rows, replace(run.retrain[0], number=999))))[0]
    assert (len(arm.by_seed), len(arm.failures)) == (5, 0)


def test_rival_is_the_family_of_most_sites_and_of_equals_the_hardest():
    run = make_run()
    table, arms = run.table, arms_of(run)
    mixed = {"denseblock1": Attention("cbam"), "transition1": Attention("se"), "denseblock3": Attention("cbam")}
    assert main_families(Placement(mixed), table) == ("cbam",)
    del mixed["denseblock3"]
    assert main_families(Placement(mixed), table) == ("cbam", "se")
    name, arm = rival(replace(arms[0], placement=Placement(mixed)), arms, table)
    assert name == "se everywhere"  # se was planted, so its arm is the better one
    assert arm is arm_called(arms, name)
    assert rival(arms[0], arms[:2], table)[1] is None


def test_history_keeps_every_state_and_only_complete_trials_make_the_best():
    run = make_run()
    steps = history_of(run.search)
    states = {step.trial.state for step in steps}
    assert states == {"complete", "pruned", "fail", "running"}
    assert sum(step.trial.answered_from is not None for step in steps) == 1
    complete = [t.value for t in run.search if t.state == "complete" and t.answered_from is None]
    assert steps[-1].best == max(complete)
    pruned = next(step for step in steps if step.trial.state == "pruned")
    assert pruned.value == pruned.trial.curve[8]
    assert all(step.value is None for step in steps if step.trial.state in ("fail", "running"))
    best = [step.best for step in steps if step.best is not None]
    assert best == sorted(best)


def test_counts_put_every_trial_into_one_state():
    run = make_run()
    counts = counts_of((*run.search, failed(run.search[5], "interrupted")))
    assert vars(counts) == {"complete": 20, "pruned": 2, "fail": 2, "running": 1, "cut_off": 1, "answered": 1}
    assert counts.ended == 24


def test_interrupted_seed_is_no_failure_of_its_arm():
    run = make_run()
    rows = (failed(run.retrain[0], "interrupted"), *run.retrain[1:])
    assert arms_of(replace(run, retrain=rows))[0].failures == ()


def test_failures_are_grouped_by_stage_and_cause():
    run = make_run()
    groups = {(g.stage, g.cause): len(g.trials) for g in failures_of(replace(run, confirm=(failed(run.confirm[0]),)))}
    assert groups == {("search", "oom"): 1, ("search", "nan"): 1, ("confirm", "error"): 1}


def test_leader_is_the_best_confirmed_mean_else_the_best_trial():
    run = make_run(messy=False)
    confirmed = leader(run)
    assert confirmed is not None
    assert (confirmed[0].stage, confirmed[1].n) == ("confirm", 2)
    searched = leader(replace(run, confirm=()))
    assert searched is not None
    assert searched[1].mean == max(t.value for t in run.search if len(t.placement))
    assert leader(replace(run, confirm=(), search=run.search[:1])) is None


def test_found_placement_falls_back_stage_by_stage():
    run = make_run()
    found = run.retrain[0].placement
    assert found_placement(run) == found
    assert found_placement(replace(run, retrain=())) == found
    assert found_placement(replace(run, retrain=(), confirm=(), search=(), best=None)) is None


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=30))
def test_pareto_keeps_exactly_what_nothing_beats(points: list[tuple[int, int]]):
    front = pareto(points)
    for cost, value in set(points):
        beaten = any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)
        assert ((cost, value) in front) == (not beaten)


def test_tables_do_not_care_about_names():
    run = make_run(n_trials=40)
    names = dict(zip(FAMILIES, ("zeta", "alpha", "mid", "beta"), strict=True))
    places = {site: f"x{9 - index}" for index, site in enumerate(SITES)}
    renamed = _renamed(run, names, places)
    plain = {arm.label: (arm.summary, against(arms_of(run)[0], arm).word) for arm in arms_of(run)}
    other = {arm.label: (arm.summary, against(arms_of(renamed)[0], arm).word) for arm in arms_of(renamed)}
    assert other == {_replaced(label, names): found for label, found in plain.items()}
    effects = {(m.sites[0], m.attention): (m.summary, m.effect) for m in marginals(rows_of(run.search), SITES)}
    found = marginals(rows_of(renamed.search), tuple(places.values()))
    assert {(m.sites[0], m.attention): (m.summary, m.effect) for m in found} == {
        (places[site], names.get(name, name)): numbers for (site, name), numbers in effects.items()
    }
    assert rival(arms_of(renamed)[0], arms_of(renamed), renamed.table)[0] == _replaced(
        rival(arms_of(run)[0], arms_of(run), run.table)[0], names
    )


def _renamed(run: RunRecord, names: dict[str, str], places: dict[str, str]) -> RunRecord:
    def placement(old: Placement) -> Placement:
        return Placement({places[s]: Attention(names[a.name], a.options) for s, a in old.attentions.items()})

    def trials(stage):
        return tuple(
            replace(t, placement=placement(t.placement), label=_replaced(t.label, names) if t.label else None)
            for t in stage
        )

    assert run.table is not None
    assert run.best is not None
    sites = tuple(replace(site, name=places.get(site.name, site.name)) for site in run.table.sites)
    best = {**run.best, "placement": placement(Placement.from_dict(run.best["placement"])).to_dict()}
    table = replace(run.table, sites=sites)
    return replace(run, table=table, search=trials(run.search), confirm=(), retrain=trials(run.retrain), best=best)


def _replaced(text: str, names: dict[str, str]) -> str:
    return " ".join(names.get(word, word) for word in text.split(" "))


def assert_finite(found: object) -> None:
    """Walk through records, and refuse any number that is not finite."""
    if is_dataclass(found):
        for field in fields(found):
            assert_finite(getattr(found, field.name))
    elif isinstance(found, dict):
        for value in found.values():
            assert_finite(value)
    elif isinstance(found, tuple | list):
        for value in found:
            assert_finite(value)
    elif isinstance(found, float):
        assert math.isfinite(found)


def test_broken_values_never_reach_a_table():
    run = make_run()
    rows = [replace(t, value=value) for t, value in zip(run.search, [math.nan, math.inf, None], strict=False)]
    broken = replace(
        run, search=(*rows, *run.search[3:]), retrain=tuple(replace(t, value=math.nan) for t in run.retrain)
    )
    assert all(arm.summary is None and not arm.by_seed for arm in arms_of(broken))
    for found in (marginals(rows_of(broken.search), SITES), leader(broken)):
        assert_finite(found)
    assert_finite([(step.value, step.best) for step in history_of(broken.search)])


def test_csv_files_have_every_trial_and_every_arm():
    run = make_run()
    trials = list(csv.DictReader(io.StringIO(trials_csv(run))))
    assert tuple(trials[0]) == TRIAL_COLUMNS
    assert len(trials) == len(run.search) + len(run.confirm) + len(run.retrain)
    assert {row["split"] for row in trials if row["stage"] == "retrain"} == {"test"}
    assert {row["split"] for row in trials if row["stage"] != "retrain"} == {"val"}
    assert Placement.from_json(trials[5]["placement"]) == run.search[5].placement
    assert json.loads(trials[0]["curve"])["30"] == run.search[0].curve[30]
    arms = list(csv.DictReader(io.StringIO(arms_csv(run))))
    assert tuple(arms[0]) == ARM_COLUMNS
    assert [row["arm"] for row in arms] == [arm.label for arm in arms_of(run)]
    none = next(row for row in arms if row["arm"] == "none")
    found = arms[0]
    assert none["against_none_verdict"] == found["found_against_this_verdict"] == ""
    assert none["found_against_this_difference"] == found["against_none_difference"]
    assert float(found["mean"]) == arms_of(run)[0].summary.mean


def test_csv_reason_with_quotes_and_lines_comes_back_whole():
    run = make_run()
    reason = 'said "no", then\na second line; =1+1'
    text = trials_csv(replace(run, search=(failed(run.search[0], "error", reason),)))
    assert next(csv.DictReader(io.StringIO(text)))["reason"] == reason


def test_values_outside_an_accuracy_are_shown_as_they_are():
    run = make_run()
    assert scale_of(run) == PER_CENT
    scale = scale_of(replace(run, search=(replace(run.search[0], value=37.5), *run.search[1:])))
    assert (scale.value(37.5), scale.difference(-0.5)) == ("37.5000", "-0.5000")


def test_rounded_zero_has_no_minus():
    assert PER_CENT.signed(-0.00001) == "+0.00"
    assert PER_CENT.signed(-0.0012) == "-0.12"


def test_many_sites_are_told_by_counts():
    table = resnet_table()
    sites = tuple(site.name for site in table.sites if site.kind == "branch")
    assert placement_words(everywhere("se", sites), table, 16) == "se at 16 sites (of 16)"
    assert placement_words(Placement(), table) == "no attention"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_axis_holds_all_values(sample: list[float]):
    axis = linear_axis(sample, str)
    assert all(0 <= axis.at(value) <= 100 for value in sample)
    assert all(-0.1 <= tick.at <= 100.1 for tick in axis.ticks)


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=8))
def test_cost_axis_holds_all_values_and_has_ticks(sample: list[int]):
    axis = cost_axis(sample, str)
    assert all(0 <= axis.at(value) <= 100 for value in sample)
    assert axis.ticks


def test_round_steps_are_round():
    assert round_steps(94.23, 96.98, 5) == [94.5, 95.0, 95.5, 96.0, 96.5]
