"""The analysis scripts that compare runs: a search beside a random one, and arms over several runs."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from analysis_scripts import Runs, at_seed, load, named, rows_in, start
from scipy import stats
from synthetic_run import make_run, with_predictions

from nas_attn.placement import Attention, Placement
from nas_attn.report.tables import arm_called, arms_of
from nas_attn.statistics import summarize

SE = Placement({"denseblock2": Attention("se", {"reduction": 4})})


# search_vs_random


def pairs(n: int = 1, n_images: int = 0, gain: float = 0.02) -> Runs:
    """Pairs of a run whose winner has an effect that the random one's winner lacks."""
    runs: Runs = {}
    for seed in range(n):
        for sampler, effect in (("tpe", gain), ("random", 0.0)):
            run = make_run(effects={("denseblock2", "se"): effect}, found=SE, noise=0.001, seed=7 * seed + 1)
            name = f"{sampler}{seed}"
            run = at_seed(name, run, 1000 * seed, sampler)
            runs[name] = with_predictions(run, n_images) if n_images else run
    return runs


def test_better_winner_is_told_by_seed_and_image(tmp_path):
    runs = pairs(n_images=500)
    code, out, _ = start("search_vs_random", runs, *runs, "--csv", tmp_path / "s.csv", "--figure", tmp_path / "s.svg")
    assert code == 0
    test = next(row for row in rows_in(tmp_path / "s.csv") if row["measure"] == "test, found #1")
    means = [np.mean(list(arm_called(arms_of(run), "found #1").by_seed.values())) for run in runs.values()]
    assert float(test["difference"]) == pytest.approx(means[0] - means[1])
    assert (test["word"], test["n"]) == ("better", "5")
    assert float(test["low"]) < 0.02 < float(test["high"])
    assert re.search(r"^tpe0 - random0 .* 5 +better$", out, re.MULTILINE)
    assert "all" not in out
    assert "accuracy" in (tmp_path / "s.svg").read_text()


def test_best_so_far_counts_trained_trials_only_and_never_falls():
    module, run = load("search_vs_random"), make_run(n_trials=24)
    best = module.best_so_far(run)
    assert len(run.search) == 26  # one answered and one running beside the 24
    assert len(best) == 24
    assert list(best) == sorted(best)
    complete = [t.value for t in run.search if t.state == "complete" and t.answered_from is None]
    assert (best[0], best[-1]) == (complete[0], max(complete))
    assert module.best_so_far(replace(run, search=run.search[-1:])) == ()


def test_number_of_trials_to_match_is_the_first_that_reaches_the_random_best():
    module = load("search_vs_random")
    pair = module.Pair("a", "b", (0.1, 0.5, 0.7, 0.9), (0.2, 0.3, 0.6, 0.6), None, None, (4, 4))
    assert pair.n_to_match == 3
    assert module.matched(pair) == "a has the best validation value of b, of 4 trials, after 3."
    assert replace(pair, best=(0.1, 0.6, 0.6, 0.6)).n_to_match == 2
    late = replace(pair, best=(0.1, 0.1, 0.1, 0.5))
    assert module.matched(late) == "a has not reached the best validation value of b after 4 trials."


def test_each_pair_counts_once_and_repeated_retraining_seeds_are_told():
    runs = pairs(3, n_images=400)
    code, out, _ = start("search_vs_random", runs, *runs)
    assert code == 0
    assert re.search(r"^all 3 pairs +\+\d\.\d\d +\S+ to \S+ +3 ", out, re.MULTILINE)
    assert "Interval of all pairs: new runs and new images of this kind." in out
    assert "Not independent" not in out
    close = pairs()
    close["tpe1"] = at_seed("tpe1", close["tpe0"], 2)  # of the seeds 200 to 204 now 202 to 206
    close["random1"] = at_seed("random1", close["random0"], 0, "random")
    _, out, _ = start("search_vs_random", close, *close)
    assert "Not independent: tpe0 and tpe1 retrain with 3 seeds in common" in out
    assert "Interval of all pairs: fewer than 3 runs allow no interval." in out
    assert re.search(r"^tpe1 - random1 .* 3 ", out, re.MULTILINE)  # the seeds that both have


def test_winners_that_are_one_placement_are_told():
    runs = pairs()
    runs["random0"] = at_seed("random0", runs["tpe0"], 0, "random")
    code, out, _ = start("search_vs_random", runs, *runs)
    assert code == 0
    assert out.endswith("\ntpe0 - random0: both found the same placement.\n")


def test_searches_of_unequal_length_are_told_and_compared_over_the_shorter_one(tmp_path):
    runs = pairs()
    runs["random0"] = replace(runs["random0"], search=runs["random0"].search[:15])
    code, out, _ = start("search_vs_random", runs, *runs, "--csv", tmp_path / "s.csv")
    assert code == 0
    assert out.startswith("Unequal cost: tpe0 has 24 trials and random0 15; the winners come from all of them.\n")
    assert len([row for row in rows_in(tmp_path / "s.csv") if row["n_trials"]]) == 15


def test_runs_that_are_no_fair_pair_are_refused():
    runs = pairs()
    code, _, err = start("search_vs_random", runs, "random0", "tpe0")
    assert code == 2
    assert err.endswith("but the first one of a pair, random0, has --sampler random.\n")
    code, _, err = start("search_vs_random", runs, "tpe0")
    assert (code, err.split(", but ")[1]) == (2, "got 1 runs.\n")
    facts = runs["tpe0"].config["data"]["facts"]
    for key, value, shown in (
        ("recipe", {"epochs": 99}, "recipe.epochs: 30 in tpe0, 99 in other"),
        ("data", {"facts": facts | {"fingerprint": "00"}}, "data.fingerprint: 9f3c"),
        ("engine", {"scheduler": "asha"}, "engine.scheduler: none in tpe0, asha in other"),
        ("space", {"title": "Another"}, "space.title: Attention in a small DenseNet in tpe0, Another in other"),
    ):
        run = named("other", runs["random0"])
        other = replace(run, config={**run.config, key: {**run.config[key], **value}})
        code, out, err = start("search_vs_random", runs | {"other": other}, "tpe0", "other")
        assert (code, out) == (2, "")
        assert err.startswith("Searches are compared on one space, data and recipe")
        assert shown in err


def test_searches_without_winners_still_show_their_curves_and_without_trials_are_refused():
    runs = pairs()
    runs = {name: replace(run, retrain=()) for name, run in runs.items()}
    code, out, _ = start("search_vs_random", runs, *runs)
    assert code == 0
    assert re.search(r"^tpe0 - random0 +0 +not known$", out, re.MULTILINE)
    assert "\ntpe0 - random0: found #1 has no test value in both.\n" in out
    runs["random0"] = replace(runs["random0"], search=())
    code, _, err = start("search_vs_random", runs, *runs)
    assert (code, err) == (2, "A comparison of searches needs complete trials, but random0 has none: run its search.\n")


# compare_runs


def several(n: int = 4, n_images: int = 0) -> Runs:
    runs: Runs = {}
    for seed in range(n):
        run = make_run(effects={("denseblock2", "se"): 0.012}, found=SE, noise=0.002, seed=seed + 1)
        run = at_seed(f"r{seed}", run, 1000 * seed)
        runs[f"r{seed}"] = with_predictions(run, n_images) if n_images else run
    return runs


def test_gain_over_runs_is_the_mean_of_the_runs_with_their_t_interval(tmp_path):
    runs = several()
    code, out, _ = start("compare_runs", runs, *runs, "--csv", tmp_path / "c.csv", "--figure", tmp_path / "c.svg")
    assert code == 0
    gains = []
    for run in runs.values():
        found, none = (arm_called(arms_of(run), name).by_seed for name in ("found #1", "none"))
        gains.append(np.mean([found[seed] - none[seed] for seed in none]))
    wanted = summarize(gains)
    rows = rows_in(tmp_path / "c.csv")
    row = next(row for row in rows if (row["run"], row["arm"]) == ("all", "found #1"))
    assert [float(row[name]) for name in ("gain", "low", "high")] == pytest.approx([wanted.mean, *wanted.interval])
    assert (row["won"], row["n"], row["word"], row["covers"]) == ("4", "4", "better", "new runs only")
    of_runs = [float(row["gain"]) for row in rows if row["run"] != "all" and row["arm"] == "found #1"]
    assert of_runs == pytest.approx(gains)
    for row in (row for row in rows if row["run"] == "all"):
        of_runs = [float(one["gain"]) for one in rows if one["run"] != "all" and one["arm"] == row["arm"]]
        assert int(row["won"]) == sum(gain > 0 for gain in of_runs)
    assert {row["won"] for row in rows if row["run"] == "all"} >= {"4", "2"}
    assert re.search(r"^found #1 +4 of 4 +\+1\.", out, re.MULTILINE)
    assert "found #1 of r3: se at denseblock2" in out
    assert "minus that of none" in (tmp_path / "c.svg").read_text()


def test_stored_predictions_of_one_test_set_add_its_images_to_the_interval():
    module, pooling, runs = load("compare_runs"), load("pooling"), several(3, n_images=500)
    arms = module.arms_by_name(list(runs), list(runs.values()))
    both, seeds = (module.gains_of(arms, "none", same_images=same)[0].pooled for same in (True, False))
    assert pooling.covers_of(both) == "new runs and new images of this kind"
    assert pooling.covers_of(seeds) == "new runs only"
    assert both.summary.mean == pytest.approx(seeds.summary.mean)
    assert both.error > seeds.error
    facts = {**runs["r2"].config["data"]["facts"], "fingerprint": "other"}
    other = replace(runs["r2"], config={**runs["r2"].config, "data": {"name": "digits", "facts": facts}})
    _, out, _ = start("compare_runs", runs | {"r2": other}, *runs)
    assert out.startswith("The runs have other data or another split: values can be compared within a run only.\n")
    assert "Interval of found #1: new runs only." in out


def test_arms_beside_found_are_one_family():
    module, runs = load("compare_runs"), several()
    gains = module.gains_of(module.arms_by_name(list(runs), list(runs.values())), "none", same_images=False)
    assert gains[0].arm == "found #1"
    others = gains[1:]
    raw = {gain.arm: stats.ttest_1samp(list(gain.by_run.values()), 0).pvalue for gain in others}
    smallest = min(raw, key=raw.get)
    adjusted = next(gain.pooled.p_value for gain in others if gain.arm == smallest)
    assert adjusted == pytest.approx(min(1.0, len(others) * raw[smallest]))
    assert gains[0].pooled.p_value == pytest.approx(stats.ttest_1samp(list(gains[0].by_run.values()), 0).pvalue)


def test_overlapping_retraining_seeds_and_too_few_runs_are_told():
    runs = several(2)
    runs["r1"] = at_seed("r1", several(1)["r0"], 1)
    code, out, _ = start("compare_runs", runs, *runs)
    assert code == 0
    assert out.startswith("Not independent: r0 and r1 retrain with 4 seeds in common, so that intervals over runs")
    assert "Interval of found #1: fewer than 3 runs allow no interval." in out


def test_baseline_is_any_arm_and_what_cannot_be_compared_is_refused():
    runs = several(2)
    code, out, _ = start("compare_runs", runs, *runs, "--baseline", "cbam everywhere")
    assert code == 0
    assert re.search(r"^arm +above cbam everywhere ", out, re.MULTILINE)
    assert not re.search(r"^cbam everywhere +\d of", out, re.MULTILINE)
    code, _, err = start("compare_runs", runs, *runs, "--baseline", "cbam everywere")
    assert code == 2
    assert err.startswith("Unknown arm with test values 'cbam everywere': did you mean 'cbam everywhere'?")
    code, _, err = start("compare_runs", runs, "r0")
    assert (code, err) == (2, "At least 2 runs are compared, but got r0.\n")
    empty = {
        name: replace(run, retrain=tuple(row for row in run.retrain if row.label == "none"))
        for name, run in runs.items()
    }
    code, _, err = start("compare_runs", empty, *empty)
    assert (code, err.split(", but ")[1]) == (2, "r0 and r1 have none: finish the searches.\n")
