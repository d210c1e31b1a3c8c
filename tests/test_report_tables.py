"""The tables of the report: arms, history, failures; independence of names, and invalid values."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import FAMILIES, assert_finite, everywhere, failed, make_run, with_predictions

from nas_attn.comparison.looks import next_look
from nas_attn.placement import Attention, Placement
from nas_attn.records import FOUND, RunRecord
from nas_attn.report.csv_files import ARM_COLUMNS, TRIAL_COLUMNS, arms_csv, trials_csv
from nas_attn.report.importance import effects_of
from nas_attn.report.tables import (
    answer_of,
    arm_called,
    arms_of,
    best_probabilities,
    found_placement,
    leader,
    main_families,
    rival,
)
from nas_attn.report.trials import counts_of, failures_of, history_of, pareto

SITES = ("denseblock1", "transition1", "denseblock2", "transition2", "denseblock3")


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


def test_name_goes_to_the_newest_placement_of_an_extended_run():
    old, new = make_run(), make_run(found=everywhere("cbam", SITES[:2]))
    later = [replace(t, number=t.number + 100) for t in new.retrain if t.label == FOUND]
    both = replace(old, retrain=(*old.retrain, *later))
    labels = {arm.label: arm.placement for arm in arms_of(both)}
    assert labels[FOUND] == everywhere("cbam", SITES[:2])
    assert labels["found #1 (earlier)"] == old.retrain[0].placement
    looks = {old.retrain[0].key: (next_look([], 5, 0.04),)}
    assert arm_called(arms_of(replace(both, looks=looks)), FOUND).placement == old.retrain[0].placement


def test_random_controls_are_one_arm():
    run = make_run()
    controls = [everywhere("cbam", SITES[n : n + 2]) for n in range(3)]
    rows = [
        replace(run.retrain[0], number=900 + n, placement=controls[n % 3], key=controls[n % 3].key, seed=200 + n,
                label="random")
        for n in range(5)
    ]  # fmt: skip
    arm = arm_called(arms_of(replace(run, retrain=(*run.retrain, *rows))), "random")
    assert sorted(arm.by_seed) == [200, 201, 202, 203, 204]
    assert (arm.n_parameters, arm.summary.n) == (None, 5)


def test_failed_seed_is_reported_until_it_succeeds():
    run = make_run()
    rows = (failed(run.retrain[0], "oom"), *run.retrain[1:])
    arm = arms_of(replace(run, retrain=rows))[0]
    assert (len(arm.by_seed), len(arm.failures)) == (4, 1)
    arm = arms_of(replace(run, retrain=(*rows, replace(run.retrain[0], number=999))))[0]
    assert (len(arm.by_seed), len(arm.failures)) == (5, 0)


def test_rival_is_the_family_with_the_most_sites_and_of_a_tie_the_best():
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


def test_interrupted_seed_does_not_count_as_failed():
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
    assert (confirmed.stage, confirmed.summary.n) == ("confirm", 2)
    searched = leader(replace(run, confirm=()))
    assert searched is not None
    assert searched.summary.mean == max(t.value for t in run.search if len(t.placement))
    assert leader(replace(run, confirm=(), search=run.search[:1])) is None


def test_found_placement_falls_back_stage_by_stage():
    run = make_run()
    found = run.retrain[0].placement
    assert found_placement(run) == found
    assert found_placement(replace(run, retrain=())) == leader(run).placement
    assert found_placement(replace(run, retrain=(), confirm=(), search=(), best=None)) is None


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=30))
def test_pareto_front_has_exactly_the_points_that_no_other_dominates(points: list[tuple[int, int]]):
    front = pareto(points)
    for cost, value in set(points):
        beaten = any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)
        assert ((cost, value) in front) == (not beaten)


def test_tables_do_not_depend_on_names():
    run = make_run(n_trials=40)
    names = dict(zip(FAMILIES, ("zeta", "alpha", "mid", "beta"), strict=True))
    places = {site: f"x{9 - index}" for index, site in enumerate(SITES)}
    renamed = _renamed(run, names, places)
    plain = {arm.label: (arm.summary, _word(run, arm.label)) for arm in arms_of(run)}
    other = {arm.label: (arm.summary, _word(renamed, arm.label)) for arm in arms_of(renamed)}
    assert other == {_replaced(label, names): found for label, found in plain.items()}
    effects = {(e.sites[0], e.attention): (e.mean, e.low, e.high, e.is_clear) for e in effects_of(run).effects}
    found = {(e.sites[0], e.attention): (e.mean, e.low, e.high, e.is_clear) for e in effects_of(renamed).effects}
    assert len(found) == len(effects)
    for (site, name), numbers in effects.items():
        assert found[places[site], names[name]] == pytest.approx(numbers, abs=1e-6)
    assert rival(arms_of(renamed)[0], arms_of(renamed), renamed.table)[0] == _replaced(
        rival(arms_of(run)[0], arms_of(run), run.table)[0], names
    )


def _word(run: RunRecord, label: str) -> str:
    pair = answer_of(run).between(FOUND, label)
    return pair.word if pair else ""


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


def test_values_that_are_not_finite_never_reach_a_table():
    run = make_run()
    rows = [replace(t, value=value) for t, value in zip(run.search, [math.nan, math.inf, None], strict=False)]
    broken = replace(
        run, search=(*rows, *run.search[3:]), retrain=tuple(replace(t, value=math.nan) for t in run.retrain)
    )
    assert all(arm.summary is None and not arm.by_seed for arm in arms_of(broken))
    for found in (effects_of(broken), leader(broken)):
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


def test_csv_reason_with_quotes_and_lines_is_read_back_unchanged():
    run = make_run()
    reason = 'said "no", then\na second line; =1+1'
    text = trials_csv(replace(run, search=(failed(run.search[0], "error", reason),)))
    assert next(csv.DictReader(io.StringIO(text)))["reason"] == reason


def test_the_probability_to_be_the_best_needs_predictions_and_leaves_out_what_cannot_be_chosen():
    assert best_probabilities(arms_of(make_run())) == {}
    found = best_probabilities(arms_of(with_predictions(make_run())))
    assert sum(found.values()) == pytest.approx(1.0)
    assert "gam everywhere" not in found, "it is over the limit"
    assert found["found #1"] > found["none"]
    assert best_probabilities(arms_of(with_predictions(make_run(n_seeds=2)))) == {}
