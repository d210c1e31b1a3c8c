"""The analysis scripts: what all of them do, the rank correlation by epoch, and the noise."""

from __future__ import annotations

import argparse
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from analysis_scripts import FOLDER, SCRIPTS, SHARED, load, named, rows_in, start
from code_blocks import blocks_of
from matplotlib.figure import Figure
from scipy import stats
from synthetic_run import make_run, with_predictions

from nas_attn.comparison.power import POWER, power
from nas_attn.config import Budget
from nas_attn.errors import Refused
from nas_attn.records import TrialRecord
from nas_attn.report.tables import arms_of
from nas_attn.study.confirm import rounds_of


def trials(finals: Sequence[float], curves: Sequence[Sequence[float]], epochs: int) -> tuple[TrialRecord, ...]:
    """Complete search trials with these final values and curves."""
    model = make_run(n_trials=6, messy=False).search[0]
    return tuple(
        replace(model, number=n, value=final, epochs=epochs, curve=dict(enumerate(curve, 1)))
        for n, (final, curve) in enumerate(zip(finals, curves, strict=True))
    )


# every script


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_asks_the_question_and_names_the_options(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        load(name).main(["--help"])
    out = capsys.readouterr().out
    assert load(name).__doc__.splitlines()[0] in out
    assert all(option in out for option in ("--csv FILE", "--figure FILE", "RUN"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_folder_that_is_no_run_is_refused_by_the_public_api_in_one_sentence(name, capsys, tmp_path):
    assert load(name).main([str(tmp_path), str(tmp_path / "other")]) == 2
    out, err = capsys.readouterr()
    assert err == f"{tmp_path} must be a run folder with a config.json, but there is none.\n"
    assert not out


@pytest.mark.parametrize("name", SCRIPTS)
def test_run_that_is_stated_twice_is_refused(name):
    code, _, err = start(name, {"a": make_run()}, "a", "a")
    assert (code, err) == (2, "A run counts once, but a is stated 2 times.\n")


def test_every_file_that_is_asked_for_is_written_and_named(capsys, tmp_path):
    script = load("script")
    result = script.Result("table", [{"arm": "none", "mean": 0.5}, {"arm": "se", "sd": 0.1}], Figure)
    for suffix, begin in ((".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")):
        figure, table = tmp_path / f"new{suffix}" / f"f{suffix}", tmp_path / f"{suffix}.csv"
        words = ["--csv", str(table), "--figure", str(figure)]
        assert script.run_script(script.parser_of("about"), lambda _: result, words) == 0
        assert capsys.readouterr().out == f"table\n{table}\n{figure}\n"
        assert figure.read_bytes().startswith(begin)
        assert table.read_text() == "arm,mean,sd\nnone,0.5,\nse,,0.1\n"


def test_file_that_cannot_be_written_is_refused_and_a_figure_of_another_kind_before_any_work(capsys, tmp_path):
    script = load("script")
    result = script.Result("table", [{"arm": "none"}], Figure)
    assert script.run_script(script.parser_of("about"), lambda _: result, ["--csv", str(tmp_path)]) == 2
    assert re.fullmatch(rf"{tmp_path} must be writable, but: .*\.\n", capsys.readouterr().err)

    def never(chosen: argparse.Namespace) -> None:
        raise AssertionError("the figure is checked first")

    assert script.run_script(script.parser_of("about"), never, ["--figure", "a.jpg"]) == 2
    assert capsys.readouterr().err == "A figure is a .svg, .png or .pdf file, but got a.jpg.\n"


def test_runs_with_other_metrics_are_refused():
    script, run = load("script"), make_run()
    auc = replace(run, config={**run.config, "task": "multi-label"})
    with pytest.raises(Refused, match=r"but the runs have several \(accuracy in a, ROC AUC in b\)"):
        script.one_scale(["a", "b"], [run, auc])
    assert script.one_scale(["b", "c"], [auc, auc]).noun == "ROC AUC"


def test_a_long_word_is_cut_in_the_table():
    lines = load("script").text_table(["arm", "n"], [["x" * 60, "1"]]).splitlines()
    assert lines[1] == "x" * 43 + "…  1"


def test_every_command_of_the_page_is_understood_and_every_script_is_on_it(root, monkeypatch):
    text = (root / "docs" / "analysis.md").read_text(encoding="utf-8")
    lines = [line for block in blocks_of(text) for line in block.text.splitlines() if "analysis/" in line]
    called = {re.search(r"analysis/(\w+)\.py", line)[1] for line in lines}
    assert called == {"site_importance", *SCRIPTS}
    assert called | set(SHARED) == {path.stem for path in FOLDER.glob("*.py")}
    for line in lines:
        words = shlex.split(line, comments=True)
        module = load(Path(words[1]).stem)
        if hasattr(module, "run_script"):
            monkeypatch.setattr(module, "run_script", lambda parser, _, given: len(parser.parse_args(given).runs))
            assert module.main(words[2:]) >= 1


# rung_correlation


def test_tau_is_that_of_scipy_also_for_ties_and_for_drawn_copies():
    module, random = load("rung_correlation"), np.random.default_rng(3)
    values, final = random.integers(6, size=15).astype(float), random.integers(5, size=15).astype(float)
    weights = random.multinomial(15, np.full(15, 1 / 15), size=4).astype(float)
    found = module.kendall(values, final, np.vstack([np.ones(15), weights]))
    wanted = [stats.kendalltau(values, final).statistic]
    for row in weights.astype(int):
        wanted.append(stats.kendalltau(np.repeat(values, row), np.repeat(final, row)).statistic)
    assert found == pytest.approx(wanted, abs=1e-12)
    assert np.isnan(module.kendall(np.ones(15), final, np.ones((1, 15)))).all()


def test_rungs_lose_what_their_values_hide():
    module = load("rung_correlation")
    finals = [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    curves = [[0.0] * 8 for _ in finals]
    for at, (second, fourth) in enumerate([(8, 1), (2, 0), (7, 5), (6, 6), (5, 7), (1, 0), (3, 0), (4, 0)]):
        curves[at][1], curves[at][3], curves[at][7] = second, fourth, finals[at]
    run = replace(make_run(), search=trials(finals, curves, 8))
    rungs = module.rungs_of(module.curves_of("a", run), 2)
    # at epoch 2 the trials 0, 2, 3, 4 go on: trial 1 of the top two is lost; at epoch 4 the trials 4, 3: trial 0 too
    assert [(r.epoch, r.n_running, r.n_kept, r.n_wrong, r.n_lost, r.n_left, r.has_best) for r in rungs] == [
        (2, 8, 4, 1, 1, 1, True),
        (4, 4, 2, 2, 1, 0, False),
    ]
    assert module.share_of_epochs(rungs, module.curves_of("a", run)) == (8 * 2 + 4 * 2 + 2 * 4) / 64


def test_perfect_early_ranks_have_tau_one_and_lose_no_trial_wrongly(tmp_path):
    run = make_run(n_trials=30, messy=False)
    code, out, _ = start(
        "rung_correlation", {"a": run}, "a", "--csv", tmp_path / "a.csv", "--figure", tmp_path / "a.svg"
    )
    assert code == 0
    assert "densenet_attn: 30 complete search trials of 30 epochs" in out
    rows = rows_in(tmp_path / "a.csv")
    by_epoch = [row for row in rows if not row["reduction"]]
    assert [int(row["epoch"]) for row in by_epoch] == list(range(1, 31))
    assert {float(row["tau"]) for row in by_epoch} == {1.0}
    rungs = [row for row in rows if row["reduction"]]
    assert [(row["reduction"], row["epoch"], row["kept"], row["kept_wrongly"]) for row in rungs] == [
        ("2", "8", "15", "0"),
        ("2", "15", "7", "0"),
        ("4", "2", "7", "0"),
        ("4", "8", "1", "0"),
    ]
    assert (
        "Reduction 2 trains 50 % of the epochs and loses 0 of the top 7 trials; the best one goes on to the end." in out
    )
    assert "Not ranked" not in out
    assert b"Kendall" in (tmp_path / "a.svg").read_bytes()


def test_reversed_early_ranks_stop_the_best_trial_and_noise_has_an_interval_around_zero():
    module, random = load("rung_correlation"), np.random.default_rng(0)
    finals = [at / 40 for at in range(40)]
    curves = [[1 - value, random.random(), math.nan, value] for value in finals]
    found = module.curves_of("a", replace(make_run(), search=trials(finals, curves, 4)))
    taus = module.correlations(found, draws=300)
    assert taus[0] == pytest.approx((-1.0, -1.0, -1.0))
    assert taus[1][1] < 0.0 < taus[1][2]
    assert taus[1][1] < taus[1][0] < taus[1][2]
    assert all(math.isnan(one) for one in taus[2])  # every trial is NaN there: one tie
    first = module.rungs_of(found, 2)[0]
    assert (first.epoch, first.n_lost, first.has_best) == (1, 10, False)
    assert not any(rung.n_left for rung in module.rungs_of(found, 2))


def test_interval_of_tau_covers_the_true_one():
    module, random = load("rung_correlation"), np.random.default_rng(5)
    tau, covered = 2 / math.pi * math.asin(0.6), 0
    for _ in range(100):
        early, rest = random.normal(size=(2, 24))
        final = 0.6 * early + 0.8 * rest
        curves = module.Curves("a", (1, 2), np.stack([early, final], 1), final, 2, 0)
        _, low, high = module.correlations(curves, draws=200)[0]
        covered += low <= tau <= high
    assert 89 <= covered < 100


def test_stopped_trials_are_told_and_too_few_are_refused():
    code, out, _ = start("rung_correlation", {"a": make_run(n_trials=40)}, "a")
    assert code == 0
    assert "\nNot ranked: 4 trials that early stopping ended, mostly poor ones.\n" in out
    few = named("few", make_run(n_trials=6, messy=False))
    code, out, err = start("rung_correlation", {"few": few}, "few")
    assert (code, out) == (2, "")
    assert err.endswith("but few has 6 with 30: run more trials, or longer ones.\n")


# noise_floor


def test_smallest_difference_is_the_one_that_has_the_power():
    module = load("noise_floor")
    floors = module.floors_of(with_predictions(make_run(noise=0.004), 800))
    floor = next(one for one in floors if one.is_difference and one.found is not None and not one.why)
    for n in (3, 5, 20):
        told = power(floor.found, floor.tells(n), n_seeds=n, n_images=floor.found.n_images)
        assert told == pytest.approx(POWER, abs=1e-6)
    assert floor.tells(5) > floor.tells(10) > floor.tells(20)
    assert floor.error == pytest.approx(floor.found.error)
    assert 0.0 <= floor.image_share <= 1.0


def test_values_without_images_tell_by_their_seeds_alone():
    module = load("noise_floor")
    floors = module.floors_of(make_run())
    arm, difference = floors[0], next(one for one in floors if one.is_difference)
    assert (arm.arm, arm.is_difference, arm.n_seeds, arm.image_share) == ("found #1", False, 5, None)
    assert arm.error == pytest.approx(arm.sd / math.sqrt(5))
    quantiles = stats.t.ppf(0.975, 9) + stats.t.ppf(0.8, 9)
    assert difference.tells(10) == pytest.approx(difference.sd / math.sqrt(10) * quantiles)


def test_noise_of_the_search_is_what_placements_and_seeds_do_not_explain():
    module, run = load("noise_floor"), make_run(n_trials=20, messy=False)
    model = run.search[0]
    values = {("a", 0): 0.90, ("a", 1): 0.92, ("b", 0): 0.94, ("b", 1): 0.98}  # interaction: 0.005 in every cell
    confirm = tuple(replace(model, stage="confirm", key=k, seed=s, value=v) for (k, s), v in values.items())
    longer = tuple(replace(row, epochs=60, value=row.value - 0.1 * row.seed) for row in confirm[:3])
    found = module.search_noise(replace(run, confirm=(*confirm, *longer)))  # trials of another length are others
    assert (found.degrees, found.n_trials) == (1, 20)
    assert ", from 1 degree of freedom: " in module.search_words(found, load("script").scale_of(run))
    assert found.noise_sd == pytest.approx(0.01)  # 4 * 0.005² on one degree of freedom
    searched = [trial.value for trial in run.search]
    assert found.sd == pytest.approx(np.std(searched, ddof=1))
    assert found.best == pytest.approx(max(searched) - np.mean(searched))
    low, high = found.noise_interval
    assert (0.01 / low) ** 2 == pytest.approx(stats.chi2.ppf(0.975, 1))
    assert (0.01 / high) ** 2 == pytest.approx(stats.chi2.ppf(0.025, 1))
    assert found.lucky == pytest.approx(0.01 * 1.8675, abs=1e-5)  # the expected maximum of 20
    share, least, most = found.share
    assert share == pytest.approx(min(1.0, (0.01 / found.sd) ** 2))
    assert least == pytest.approx((0.01 / found.sd) ** 2 / stats.f.ppf(0.975, 1, 19))
    assert least < share <= most <= 1.0


def test_noise_of_a_confirm_stage_in_rounds_is_not_that_of_the_lucky_ones():
    module, run = load("noise_floor"), make_run(n_trials=20, messy=False)
    model = next(row for row in run.search if len(row.placement))
    random, rounds = np.random.default_rng(0), rounds_of(Budget(), 100, several=False)
    variances = []
    for _ in range(300):
        values = random.normal(0.9, 0.01, (rounds[0].n_placements, rounds[-1].n_seeds))
        means = np.zeros(len(values))
        trained: set[tuple[int, int]] = set()
        for each in rounds:
            left = np.argsort(-means)[: each.n_placements]
            trained |= {(int(row), seed) for row in left for seed in range(each.n_seeds)}
            means[:] = -np.inf
            means[left] = values[left, : each.n_seeds].mean(axis=1)
        rows = tuple(
            replace(model, stage="confirm", key=str(row), seed=seed, value=float(values[row, seed]))
            for row, seed in trained
        )
        found = module.search_noise(replace(run, confirm=rows))
        assert found.degrees == 1
        variances.append(found.noise_sd**2)
    assert np.mean(variances) == pytest.approx(0.01**2, rel=0.25)  # one degree of freedom: +-8 % by chance


def test_share_of_noise_is_near_one_where_nothing_matters_and_small_where_much_does():
    module = load("noise_floor")
    found = {}
    for gain in (0.0, 0.05):
        run = make_run(effects={("denseblock2", "se"): gain}, n_trials=40, messy=False, noise=0.002)
        model = run.search[0]
        random = np.random.default_rng(0)
        confirm = tuple(
            replace(model, stage="confirm", key=str(n % 10), seed=n // 10, value=0.95 + float(random.normal(0, 0.002)))
            for n in range(40)
        )
        found[gain] = module.search_noise(replace(run, confirm=confirm))
    assert found[0.0].share[1] < 1.0 <= found[0.0].share[2]
    assert found[0.0].share[0] > 0.6
    assert found[0.05].share[2] < 0.1


@pytest.mark.parametrize(("n", "wanted"), [(1, 0.0), (2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.sqrt(math.pi))])
def test_expected_maximum_of_normal_values(n, wanted):
    assert load("noise_floor").expected_maximum(n) == pytest.approx(wanted, abs=1e-9)


def test_table_names_every_arm_and_what_is_unknown(tmp_path):
    run = make_run(n_seeds=2)
    code, out, _ = start("noise_floor", {"a": run}, "a")
    assert code == 0
    assert "fewer than 3 seeds allow no interval." in out
    full = with_predictions(make_run(), 600)
    words = ["--seeds", 3, 50, "--csv", tmp_path / "n.csv", "--figure", tmp_path / "n.svg"]
    code, out, _ = start("noise_floor", {"a": full}, "a", *words)
    assert code == 0
    assert re.search(r"^arm .* 3 seeds +50 seeds$", out, re.MULTILINE)
    assert re.search(r"from \d+ degrees of freedom: \d+ % of the search's variance", out)
    rows = rows_in(tmp_path / "n.csv")
    arms = [arm.label for arm in arms_of(full)]
    assert [row["arm"] for row in rows if row["kind"] == "arm"] == arms
    assert [row["arm"] for row in rows if row["kind"] == "minus none"] == [arm for arm in arms if arm != "none"]
    search = next(row for row in rows if row["kind"] == "search")
    assert 0.0 < float(search["noise_share"]) <= 1.0
    assert "Smallest difference told" in (tmp_path / "n.svg").read_text()


def test_runs_without_repeated_values_are_refused():
    run = replace(named("empty", make_run()), search=(), confirm=(), retrain=())
    code, out, err = start("noise_floor", {"empty": run}, "empty")
    assert (code, out) == (2, "")
    assert "but empty has no arm with 3 seeds and fewer than 2 search trials: finish its search." in err
    code, _, err = start("noise_floor", {"empty": run}, "empty", "--seeds", 2)
    assert (code, err) == (2, "--seeds must be 3 or more, but got 2.\n")
    unconfirmed = replace(make_run(), confirm=())
    _, out, _ = start("noise_floor", {"a": unconfirmed}, "a")
    assert "no placements were confirmed with the same seeds, so that the noise in it is unknown." in out
