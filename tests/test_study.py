"""The ledger and the search over it: true states, an exact budget, answers instead of repeats, and resuming."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import optuna
import pytest
from engine import TABLE, OpenRun, score, small_space, work

from nas_attn.errors import RunError, RunStopped
from nas_attn.placement import NONE, Placement
from nas_attn.records import Outcome, Task, TrialRecord
from nas_attn.run.folder import TrialFiles
from nas_attn.space.search_space import SearchSpace
from nas_attn.study.failures import FAILURES_IN_A_ROW
from nas_attn.study.ledger import SEARCH, Ledger, close_storage, open_storage
from nas_attn.study.sampling import MAX_CRASHES, MAX_RUNS, ranking


def done_keys(rows: tuple[TrialRecord, ...]) -> list[str]:
    """Return the keys of the rows that were trained to a result."""
    return [row.key for row in rows if row.state in ("complete", "pruned") and row.answered_from is None]


def test_the_budget_counts_distinct_placements(tmp_path: Path) -> None:
    with OpenRun(tmp_path, trials=40) as stages:
        work(stages)
        rows = stages.search.records()
    assert len(set(done_keys(rows))) == 40
    assert max(Counter(done_keys(rows)).values()) <= MAX_RUNS


def test_priors_come_first_and_none_is_among_them(tmp_path: Path) -> None:
    with OpenRun(tmp_path) as stages:
        tasks = work(stages)
    bound = small_space()
    assert [task.placement for task in tasks[: len(bound.priors())]] == [placement for _, placement in bound.priors()]
    assert tasks[0].placement == Placement()


def test_a_known_proposal_is_answered_from_the_ledger_or_gets_a_new_seed(tmp_path: Path) -> None:
    with OpenRun(tmp_path, small_space(sites=[{"match": ["denseblock3"], "attentions": ["se", "cbam"]}])) as stages:
        work(stages)
        rows = stages.search.records()
    trained = [row for row in rows if row.answered_from is None]
    assert len({row.key for row in trained}) == 7, "the space has seven placements, fewer than the budget"
    seeds = {}
    for row in trained:
        seeds.setdefault(row.key, []).append(row.seed)
    assert all(len(set(found)) == len(found) <= MAX_RUNS for found in seeds.values())
    for row in rows:
        if row.answered_from is not None:
            source = rows[row.answered_from]
            assert (row.key, row.value, row.state) == (source.key, source.value, source.state)
            assert source.answered_from is None


def test_a_space_that_is_exhausted_ends_the_search(tmp_path: Path) -> None:
    rules = [{"match": ["denseblock3"], "attentions": ["se"]}]
    bound = small_space(sites=rules, attentions={"se": {"reduction": [4, 8]}})
    with OpenRun(tmp_path, bound, trials=1000) as stages:
        work(stages)
        assert stages.search.n_done == bound.n_placements == 3
        assert stages.winner is not None


def test_the_same_seed_gives_the_same_trials(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with OpenRun(tmp_path / name, trials=20) as stages:
            found.append([(task.stage, task.placement, task.seed) for task in work(stages)])
    assert found[0] == found[1]


def test_stages_share_no_seed_and_every_arm_gets_the_same(tmp_path: Path) -> None:
    with OpenRun(tmp_path, seeds=3) as stages:
        tasks = work(stages)
        arms = stages.arms()
    seeds = {stage: {task.seed for task in tasks if task.stage == stage} for stage in ("search", "confirm", "retrain")}
    assert not seeds["search"] & seeds["confirm"]
    assert not (seeds["search"] | seeds["confirm"]) & seeds["retrain"]
    assert (min(seeds["confirm"]), min(seeds["retrain"])) == (10_000, 20_000), (
        "a resumed run of an older version goes on"
    )
    assert len(seeds["retrain"]) == 3
    retrained = Counter((task.placement.key, task.seed) for task in tasks if task.stage == "retrain")
    assert set(retrained) == {(placement.key, seed) for _, placement in arms for seed in seeds["retrain"]}
    assert set(retrained.values()) == {1}, "identical arms are trained once"


def test_every_state_is_what_happened(tmp_path: Path) -> None:
    def scored(task: Task) -> Outcome:
        if task.stage == "search" and task.number == 3:
            return Outcome("fail", cause="oom", reason="Out of memory on cuda.")
        if task.stage == "search" and task.number == 5:
            return Outcome(
                "fail", cause="nan", reason="Training diverged: the loss is nan in epoch 1 of 2. Try a smaller --lr."
            )
        return score(task)

    with OpenRun(tmp_path) as stages:
        work(stages, scored)
    study = optuna.load_study(study_name=SEARCH, storage=f"sqlite:///{tmp_path / 'study.db'}")
    states = [trial.state.name for trial in study.trials]
    assert states[3] == states[5] == "FAIL"
    assert study.trials[3].user_attrs["reason"] == "Out of memory on cuda."
    assert study.trials[0].intermediate_values == pytest.approx({1: 0.225, 2: 0.45, 3: 0.675, 4: 0.9})
    assert set(states) == {"COMPLETE", "FAIL"}
    assert {"placement", "n_parameters", "n_macs", "key"} <= set(study.trials[1].user_attrs)
    keys = [trial.user_attrs["key"] for trial in study.trials]
    assert keys.count(keys[3]) == keys.count(keys[5]) == 1, "what failed by memory or NaN is never proposed again"


@pytest.mark.parametrize("cause", ["interrupted", "crashed"])
def test_what_was_cut_off_is_run_again_and_does_not_count(tmp_path: Path, cause: str) -> None:
    failed: list[str] = []

    def scored(task: Task) -> Outcome:
        if task.stage == "search" and task.number == 4:
            failed.append(task.placement.key)
            return Outcome("fail", cause=cause, reason="Cut off.")
        return score(task)

    with OpenRun(tmp_path) as stages:
        work(stages, scored)
    with OpenRun(tmp_path, trials=13) as stages:
        work(stages)
        rows = stages.search.records()
    assert len(set(done_keys(rows))) == 13
    assert failed[0] in done_keys(rows)


def test_a_placement_that_kills_its_worker_each_time_is_given_up(tmp_path: Path) -> None:
    deadly = small_space().everywhere("se").key
    runs: list[str] = []

    def scored(task: Task) -> Outcome:
        if task.stage == "search" and task.placement.key == deadly:
            runs.append(deadly)
            return Outcome("fail", cause="crashed", reason="The worker process died.")
        return score(task)

    with OpenRun(tmp_path) as stages:
        work(stages, scored)
        assert stages.search.n_done == 12
    assert len(runs) == MAX_CRASHES


def test_an_exception_is_tried_again_by_the_next_command_only(tmp_path: Path) -> None:
    wrong = small_space().everywhere("se").key

    def scored(task: Task) -> Outcome:
        if task.placement.key == wrong:
            return Outcome("fail", cause="error", reason="ValueError: no.")
        return score(task)

    with OpenRun(tmp_path) as stages:
        tasks = work(stages, scored)
        assert sum(task.placement.key == wrong and task.stage == "search" for task in tasks) == 1
        assert stages.search.n_done == 12
    with OpenRun(tmp_path, trials=13) as stages:
        again = work(stages)
    assert again[0].placement.key == wrong


def test_failures_in_a_row_of_one_cause_stop_the_run(tmp_path: Path) -> None:
    with OpenRun(tmp_path) as stages:
        tasks = work(stages, lambda task: Outcome("fail", cause="error", reason="ValueError: broken data."))
        assert len(tasks) == FAILURES_IN_A_ROW
        with pytest.raises(RunStopped, match=r"5 trials in a row failed .* ValueError: broken data\."):
            raise stages.error or AssertionError("the run went on")


def test_asha_stops_search_trials_only_and_remembers_its_rungs(tmp_path: Path) -> None:
    def scored(task: Task) -> Outcome:
        return score(task)

    random = {"scheduler": "asha", "sampler": "random", "epochs": 8}  # the default sampler proposes too few poor ones
    with OpenRun(tmp_path, trials=20, **random) as stages:
        tasks = work(stages, scored)
        search, final = stages.search.records(), stages.final.records()
    assert len(tasks) == len([row for row in search if row.answered_from is None]) + len(final)
    pruned = [row for row in search if row.state == "pruned" and row.answered_from is None]
    assert pruned, "of twenty trials, some are worse than the better half"
    assert all(0 < max(row.curve) < 8 and row.value == row.curve[max(row.curve)] for row in pruned)
    assert {row.state for row in final} == {"complete"}
    assert all(len(row.curve) == 8 for row in final)
    best = {key for key, _ in ranking(search)}
    assert best.isdisjoint(row.key for row in pruned), "a stopped trial is never among the best"
    n_before = len(search)
    with OpenRun(tmp_path, trials=30, **random) as stages:
        work(stages, scored)
        later = stages.search.records()[n_before:]
    assert any(row.state == "pruned" for row in later[:6]), "the rungs of the earlier session still judge"


def test_a_kill_at_any_moment_loses_and_repeats_nothing(tmp_path: Path) -> None:
    few = {"trials": 6, "epochs": 2, "top": 1}
    with OpenRun(tmp_path, **few) as stages:
        whole = len(work(stages))
    for moment in range(0, whole, 4):
        folder = tmp_path / str(moment)
        folder.mkdir()
        stages = (opened := OpenRun(folder, **few)).__enter__()
        work(stages, stop_after=moment)
        opened.storage.remove_session()
        opened.storage.engine.dispose()  # no clean end: the row that runs stays as it is
        with OpenRun(folder, **few) as stages:
            work(stages)
            search, final = stages.search.records(), stages.final.records()
        assert "running" not in {row.state for row in (*search, *final)}
        assert len(set(done_keys(search))) == 6
        finished = Counter((row.stage, row.key, row.seed) for row in final if row.state == "complete")
        assert set(finished.values()) == {1}
        assert sum(row.cause == "interrupted" for row in (*search, *final)) == 1


def test_a_larger_budget_extends_and_a_finished_job_has_nothing_to_do(tmp_path: Path) -> None:
    with OpenRun(tmp_path) as stages:
        work(stages)
    with OpenRun(tmp_path) as stages:
        assert stages.is_finished
        assert stages.ask() is None
    with OpenRun(tmp_path, trials=20, seeds=3) as stages:
        tasks = work(stages)
        assert stages.search.n_done == 20
        assert {task.stage for task in tasks} >= {"search", "retrain"}
        assert all(len(stages.final.values("retrain", placement, 4)) == 3 for _, placement in stages.arms())


def test_lost_weights_of_the_winner_are_trained_again(tmp_path: Path) -> None:
    with OpenRun(tmp_path) as stages:
        work(stages)
        assert stages.winner is not None
        assert stages.winner.placement is not None
        weights = TrialFiles(tmp_path / "weights", ".safetensors")
        path = weights.path(stages.winner.placement.key, stages.seeds[0], stages.retrain_epochs)
    path.unlink()
    with OpenRun(tmp_path) as stages:
        tasks = work(stages)
    assert [task.artifacts for task in tasks] == [("predictions", "weights")]
    assert path.read_bytes() == b"weights"


def test_a_copy_of_the_database_without_its_log_is_whole(tmp_path: Path) -> None:
    stages = (opened := OpenRun(tmp_path)).__enter__()
    work(stages, stop_after=6)
    copy = tmp_path / "copy.db"
    shutil.copy(tmp_path / "study.db", copy)
    opened.storage.engine.dispose()
    storage = open_storage(copy)
    rows = Ledger(storage, SEARCH, create=False).records()
    close_storage(storage)
    assert len([row for row in rows if row.state == "complete"]) == 6


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("not a database, but long enough to be taken for one" * 50)
    with pytest.raises(RunError, match=r"must be a database that this version can read, but: .*choose another --out\."):
        open_storage(tmp_path / "study.db")


def test_limits_are_known_before_training(tmp_path: Path) -> None:
    bound = SearchSpace.from_dict({**small_space().space.to_dict()}, where="test.toml").bind(TABLE, max_params=10_400)
    with OpenRun(tmp_path, bound, trials=15) as stages:
        tasks = work(stages)
        labels = [label for label, _ in stages.arms()]
    searched = [task for task in tasks if task.stage == "search"]
    assert all(bound.cost(task.placement).n_parameters <= 10_400 for task in searched)
    assert bound.check(bound.everywhere("cbam")), "what is over a limit is an arm all the same, under its own name"
    assert "cbam everywhere" in labels


def test_the_winner_is_the_best_with_attention_however_good_no_attention_is(tmp_path: Path) -> None:
    def scored(task: Task) -> Outcome:
        return Outcome("complete", 0.9 - 0.01 * len(task.placement), seconds=1.0)

    with OpenRun(tmp_path) as stages:
        work(stages, scored)
        assert stages.winner is not None
        assert stages.winner.placement is not None
        assert len(stages.winner.placement) == 1
        assert stages.winner.confirmed[stages.winner.placement.key] < stages.winner.confirmed[NONE.key]


def test_a_report_that_is_not_finite_is_no_point_of_the_curve(tmp_path: Path) -> None:
    with OpenRun(tmp_path) as stages:
        task = stages.ask()
        assert task is not None
        assert not stages.report(task, 1, 0.5)
        assert not stages.report(task, 2, float("nan"))
        stages.finish(
            task,
            Outcome(
                "fail", cause="nan", reason="Training diverged: the loss is nan in epoch 1 of 2. Try a smaller --lr."
            ),
        )
        assert stages.search.records()[0].curve == {1: 0.5}


def test_an_answer_for_a_stopped_trial_is_stopped_too(tmp_path: Path) -> None:
    bound = small_space(sites=[{"match": ["denseblock3"], "attentions": ["se", "cbam"]}])
    with OpenRun(tmp_path, bound, scheduler="asha", epochs=8, trials=7, sampler="random") as stages:
        work(stages)
        rows = stages.search.records()
    for row in rows:
        if row.answered_from is not None:
            assert row.state == rows[row.answered_from].state
