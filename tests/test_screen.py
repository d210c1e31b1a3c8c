"""`--screen`: its training before the search, what the search makes of its ranking, its refusals and its report."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from engine import TABLE, score, small_space, storage_in, work
from runs import SETTINGS, tiny_space
from scripted import Files, by_stage
from synthetic_run import make_run

from nas_attn.cli.dashboard_studies import copy_run
from nas_attn.comparison.ranking import RANKED, Ranking, agreement
from nas_attn.config import Budget, Engine, Recipe
from nas_attn.errors import ConfigError
from nas_attn.placement import Attention, Placement
from nas_attn.records import Outcome, Paths, RunRecord, Task, TrialRecord
from nas_attn.report.csv_files import screen_csv, trials_csv
from nas_attn.report.page import render
from nas_attn.report.screen import screen_of
from nas_attn.run.extent import runs_and_epochs
from nas_attn.run.folder import RunFolder
from nas_attn.run.opened import OpenLedger
from nas_attn.run.progress import SilentDisplay
from nas_attn.run.provenance import describe_run
from nas_attn.run.request import Request, bind, read_settings
from nas_attn.run.status import status_of
from nas_attn.space.side_by_side import why_not_side_by_side
from nas_attn.study.ledger import FINAL, SCREEN, SEARCH, Ledger, close_storage
from nas_attn.study.planned import PlannedRuns
from nas_attn.study.sampling import N_BEST, SearchStudy
from nas_attn.study.screen import SCREEN_OFFSET, Screening, ScreenPlan, paths_of
from nas_attn.study.stages import Stages

PLAN = ScreenPlan(price=4, epochs=6, n_ranked=100)


@contextmanager
def stages_in(folder: Path, *, trials: int = 16) -> Iterator[Stages]:
    """Open the stages of a run with a screen, as a driver does."""
    storage, bound = storage_in(folder), small_space()
    ledgers = {name: Ledger(storage, name) for name in (SEARCH, SCREEN, FINAL)}
    for ledger in ledgers.values():
        ledger.sweep()
    search = SearchStudy(ledgers[SEARCH], bound, Engine(), budget=trials - PLAN.price, epochs=2, top=1)
    screening = Screening(PlannedRuns(ledgers[SCREEN], bound), search, bound, PLAN, 0)
    files = {"weights": Files(), "predictions": Files()}
    budget = Budget(trials=trials, seeds=2, top=1, controls=0)
    final, recipe = PlannedRuns(ledgers[FINAL], bound), Recipe(epochs=2)
    yield Stages(search, final, bound, budget=budget, recipe=recipe, seed=0, screening=screening, **files)
    close_storage(storage)


def cbam_first(task: Task) -> Outcome:
    """Return the outcome of a trial; a screen ranks by the number of sites with CBAM."""
    if task.paths is None:
        return score(task)
    placements = map(task.paths.placement, task.paths.ranked)
    values = [sum(found.name == "cbam" for found in placement.attentions.values()) / 9 for placement in placements]
    return Outcome("complete", 0.5, seconds=8.0, artifacts={"ranking": json.dumps(values).encode()})


def test_a_search_follows_the_ranking_of_its_screen(tmp_path: Path):
    with stages_in(tmp_path) as stages:
        assert stages.stage == "screen"
        tasks = work(stages, cbam_first)
        ranking, labels = stages.screening.ranking, [row.label for row in stages.search.records()]
        (row,) = stages.screening.records()
        n_first = len(small_space().priors())
        assert stages.search.n_done == 12
    assert [task.stage for task in tasks[:2]] == ["screen", "search"]
    assert (row.stage, row.state, row.seed, row.epochs, row.seconds) == ("screen", "complete", SCREEN_OFFSET, 6, 8.0)
    ranked = [label for label in labels[n_first:] if label is not None]
    assert ranked == sorted(label for label in ranked if label.startswith("screen #"))
    assert len(ranked) > 2
    assert {placement.key for placement in ranking.best(N_BEST)} <= {task.placement.key for task in tasks[1:]}
    proposed = [task.placement for task, label in zip(by_stage(tasks, "search"), labels, strict=True) if label is None]
    assert not any(map(ranking.is_poor, proposed))
    assert sum(map(ranking.is_poor, small_space().enumerate())) > 0


def test_no_poor_placement_is_proposed_while_there_are_others(tmp_path: Path):
    with stages_in(tmp_path, trials=60) as stages:
        tasks = work(stages, cbam_first)
        rows = stages.search.records()
        poor = {row.label for row in rows if stages.screening.ranking.is_poor(row.placement)}
    assert len(by_stage(tasks, "screen")) == 1
    assert sum(row.label is None for row in rows) > 30
    assert None not in poor


def test_other_workers_train_the_first_placements_and_arms_while_it_runs(tmp_path: Path):
    with stages_in(tmp_path) as stages:
        screen, others = stages.ask(), []
        while (task := stages.ask()) is not None:
            others.append(task)
        n_first = len(small_space().priors())
        assert screen.stage == "screen"
        assert [task.stage for task in others[:n_first]] == ["search"] * n_first
        assert {task.stage for task in others[n_first:]} == {"retrain"}
        stages.finish(screen, cbam_first(screen))
        assert stages.ask().stage == "search"


def test_a_finished_screen_is_not_trained_again_and_an_interrupted_one_is(tmp_path: Path):
    with stages_in(tmp_path) as stages:
        first = work(stages, cbam_first, stop_after=0)
    with stages_in(tmp_path) as stages:
        again = work(stages, cbam_first, stop_after=3)
        ranking = stages.screening.ranking
    with stages_in(tmp_path) as stages:
        assert stages.screening.ranking == ranking
        rest = work(stages, cbam_first)
    assert [len(by_stage(tasks, "screen")) for tasks in (first, again, rest)] == [1, 1, 0]
    assert first[0].paths == again[0].paths


def test_a_ranking_that_was_lost_is_made_again(tmp_path: Path):
    with stages_in(tmp_path) as stages:
        work(stages, cbam_first, stop_after=1)
        stages.screening._runs.set_note(RANKED, {"price": 4, "decisions": [], "ranked": [[1]], "values": []})
    with stages_in(tmp_path) as stages:
        assert stages.ask().stage == "screen"


@pytest.mark.parametrize(("cause", "n_tried"), [("nan", 1), ("oom", 1), ("crashed", 3)])
def test_a_search_goes_on_without_a_screen_that_failed(cause: str, n_tried: int, tmp_path: Path):
    def failing(task: Task) -> Outcome:
        return score(task) if task.paths is None else Outcome("fail", cause=cause, reason="It failed.")

    with stages_in(tmp_path) as stages:
        tasks = work(stages, failing)
        assert stages.screening.ranking is None
        assert stages.search.n_done == 12
        run = as_run(stages)
    assert len(by_stage(tasks, "screen")) == n_tried
    assert screen_of(run).verdict.endswith("and the search went on without it.")


def as_run(stages: Stages) -> RunRecord:
    """Return the record of a run with the rows of these stages."""
    return replace(make_run(), screen=stages.screening.records(), search=stages.search.records())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"trials": 7},
            r"--screen must cost at most half of --trials, but got --screen 4 of 7: raise --trials to 8, or",
        ),
        (
            {"objective": "accuracy,params"},
            r"--screen ranks by one objective, but the search has accuracy,params: leave",
        ),
        (
            {"sampler": "brute", "space": "lenet_attn"},
            r"but the sampler 'brute' tries every placement: leave --screen out",
        ),
        (
            {"trials": 10**6, "space": "lenet_attn"},
            r"but --trials 1000000 tries all of the [\d,]+ placements: leave --screen out",
        ),
        ({"trial_timeout": "5m"}, r"but --trial-timeout limits each training to that of one: leave --screen out"),
        (
            {"train": lambda model, run: 0.5, "num_classes": 10, "in_channels": 1, "image_size": 8},
            r"by the built-in training, but --train has its own: leave --screen out",
        ),
        ({"screen": 0}, r"'screen' in the settings must be a whole number from 1 to 1,000, but got 0"),
    ],
)
def test_a_screen_that_has_no_place_is_refused_in_a_sentence(settings, message, tmp_path: Path):
    stated = {"space": "densenet_attn", "out": str(tmp_path / "run"), "screen": 4, **settings}
    with pytest.raises(ConfigError, match=message) as refused:
        bind(read_settings({**stated, "executor": "local"}))
    assert refused.value.exit_code == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "wiring", "reason"),
    [
        ("merge", "gate", "at 'denseblock2', of kind 'merge', an attention takes the place of a module"),
        ("head", "gate", "at 'denseblock2', of kind 'head', an attention takes the place of a module"),
        (
            "shortcut",
            "concat_three",
            "at 'denseblock2', the wiring 'concat_three' takes the place of a block's addition",
        ),
        ("shortcut", "concat", None),
        ("branch", "residual", None),
    ],
)
def test_what_takes_the_place_of_a_module_cannot_stand_side_by_side(kind, wiring, reason, tmp_path, monkeypatch):
    site = replace(TABLE.sites[1], kind=kind)
    table = replace(TABLE, sites=(TABLE.sites[0], site, TABLE.sites[2]))
    placed = [("denseblock1", Attention("se")), ("denseblock2", Attention("se", wiring=wiring))]
    assert why_not_side_by_side(table, placed) == reason
    if reason is not None:
        monkeypatch.setattr("nas_attn.run.screening.why_not_side_by_side", lambda *found: reason)
        with pytest.raises(
            ConfigError, match=f"--screen needs choices that can .* at a site, but {reason}: leave --scre"
        ):
            bind(read_settings({"space": "densenet_attn", "out": str(tmp_path), "screen": 4, "executor": "local"}))


def test_its_price_pays_for_training_and_ranking():
    plan = ScreenPlan.of(6, epochs=30, n_train=1_000, n_val=800)
    assert (plan.price, plan.epochs) == (6, 120)
    assert plan.n_ranked == round(4 * 60 * 1_000 / (500 + 256))
    assert ScreenPlan.of(1, epochs=1, n_train=50, n_val=800) == ScreenPlan(1, 1, 20)


def test_ranked_placements_are_within_the_limits_and_distinct_the_first_ones_among_them():
    bound = small_space(limits={"max_params": 11_200})
    found = paths_of(bound, 60, seed=1)
    placements = [found.placement(numbers) for numbers in found.ranked]
    assert len({placement.key for placement in placements}) == 60
    assert all(bound.check(placement) is None for placement in placements)
    assert {placement.key for _, placement in bound.priors()} <= {placement.key for placement in placements}
    assert [found.numbers(placement) for placement in placements] == list(found.ranked)
    assert found.numbers(Placement.from_dict({"elsewhere": {"name": "se"}})) is None
    assert found == paths_of(bound, 60, seed=1) != paths_of(bound, 60, seed=2)


def planted(found: Paths, numbers: tuple[int, ...]) -> float:
    """Return a value that the choices add up to."""
    return 0.5 + sum(0.01 * number * (site + 1) for site, number in enumerate(numbers))


def test_an_unranked_placement_has_the_sum_of_its_choices_effects():
    every = paths_of(small_space(), 1_000, seed=0)
    found = replace(every, ranked=every.ranked[:120])
    ranking = Ranking(found, tuple(planted(found, numbers) for numbers in found.ranked), 4)
    scores = [ranking.score(every.placement(numbers)) for numbers in every.ranked]
    worth = [planted(every, numbers) for numbers in every.ranked]
    assert agreement(zip(scores[:120], worth[:120], strict=True)).tau == pytest.approx(1)
    assert agreement(zip(scores[120:], worth[120:], strict=True)).tau > 0.85
    assert 0 <= min(scores[:120]) < max(scores[:120]) < 1
    broken = replace(ranking, values=(-100.0, *ranking.values[1:]))
    assert broken.score(every.placement(every.ranked[200])) == pytest.approx(scores[200], abs=0.05)
    assert ranking.best(1) == (found.placement(max(found.ranked, key=lambda numbers: planted(found, numbers))),)
    poor = sum(ranking.is_poor(every.placement(numbers)) for numbers in found.ranked)
    assert poor in (23, 24, 25)
    assert not any(ranking.is_poor(every.placement(numbers)) for numbers in every.ranked[120:])
    assert Ranking.from_note(json.loads(json.dumps(ranking.to_dict()))) == ranking


def test_agreement_is_kendalls_tau_with_an_interval():
    from scipy.stats import kendalltau

    generator = np.random.default_rng(3)
    first = generator.integers(0, 9, 40) / 9
    second = first + generator.normal(size=40) / 2
    found = agreement(zip(first, second, strict=True))
    assert found.tau == pytest.approx(kendalltau(first, second).statistic)
    assert found.n == 40
    assert 0 < found.low < found.tau < found.high < 1
    assert not agreement(zip(generator.normal(size=30), generator.normal(size=30), strict=True)).is_clear
    assert agreement([(1, 2)] * 4) is None
    assert agreement([(1, 2)] * 9) is None


def screened(sign: float) -> RunRecord:
    """Return a run whose screen has the order of the trials (1), the reverse (-1) or none (0)."""
    run = make_run(messy=False)
    sites = list(dict.fromkeys(site for row in run.search for site in row.placement))
    parts = [[(), *sorted({((site, row.placement[site]),) for row in run.search if site in row.placement}, key=str)]
             for site in sites]  # fmt: skip
    paths = Paths(tuple(map(tuple, parts)), ())
    numbers = tuple(dict.fromkeys(paths.numbers(row.placement) for row in run.search))
    known = {paths.numbers(row.placement): row.value for row in run.search}
    noise = np.random.default_rng(0).normal(size=len(numbers))
    values = tuple(sign * known[found] if sign else float(noise[index]) for index, found in enumerate(numbers))
    row = TrialRecord(0, "screen", "complete", Placement(), Placement().key, 0, 60, value=0.5, seconds=90.0)
    return replace(run, screen=(row,), ranking=Ranking(replace(paths, ranked=numbers), values, 4))


@pytest.mark.parametrize(
    ("sign", "words"),
    [(1, "The ranking agrees with what followed"), (-1, "The screen misled the search"), (0, "The screen was useless")],
)
def test_a_verdict_says_whether_the_screen_was_of_use(sign: float, words: str):
    found = screen_of(screened(sign))
    assert found.verdict.startswith(words)
    assert found.about.startswith(
        "A network with shared weights ranked 24 placements before the search, for 4 trainings"
    )
    assert found.about.count("(it took 1 min 30 s, as long as 13.2 trials)") == 1
    assert len(found.rows) == 5


def test_the_page_has_a_part_on_the_screen_where_there_was_one():
    page = unescape(re.sub("</?span[^>]*>", "", render(screened(0))))
    assert "<h2>The screen</h2>" in page
    assert (
        "The screen was useless as far as can be seen: Kendall's tau between its ranking and the 24 placements" in page
    )
    assert screen_of(make_run()) is None


def begun(folder: Path, **settings: object) -> tuple[Request, RunFolder]:
    """Return the request of a run with a screen, and its folder as a driver begins it."""
    stated = {**SETTINGS, "executor": "local", "trials": 8, "screen": 2, "seeds": 1, "controls": 0, **settings}
    request = bind(read_settings({"space": str(tiny_space(folder)), "out": str(folder / "run"), **stated}))
    files = RunFolder(folder / "run")
    with files.locked():
        files.write_config(describe_run(request, None))
    return request, files


def test_a_run_has_its_screen_in_ledger_record_tables_and_dashboard(tmp_path: Path):
    request, files = begun(tmp_path)
    with OpenLedger(request, files, SilentDisplay()) as ledger:
        tasks = work(ledger.stages, cbam_first)
        run = ledger.record()
    assert [task.stage for task in tasks[:2]] == ["screen", "search"]
    assert [(row.state, row.label) for row in run.screen] == [("complete", "shared weights")]
    assert len({row.key for row in run.search}) == 6
    assert (run.ranking.price, len(run.ranking.values)) == (2, 20)
    assert trials_csv(run).splitlines()[1].startswith("screen,0,shared weights,complete")
    assert len(screen_csv(run.ranking).splitlines()) == 21
    assert "shared weights" in [study.study_name for study in copy_run(files.path).storage.get_all_studies()]
    assert status_of(files.path).counts["screen"].done == 1
    assert status_of(files.path).asked == 6
    with OpenLedger(request, files, SilentDisplay()) as ledger:
        assert ledger.record().ranking == run.ranking
        assert ledger.stages.is_finished


def test_a_screen_counts_in_the_plan(tmp_path: Path):
    request, _ = begun(tmp_path)
    assert runs_and_epochs(request)["screen"] == (1, 3)
    assert runs_and_epochs(request)["search"] == (6, 2)
