"""The rules of the ledger and of the queue of planned runs."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from engine import small_space
from scripted import at, ledger_in
from sqlalchemy import event

from nas_attn.placement import NONE, Placement
from nas_attn.records import Outcome, Stage
from nas_attn.space.fit import Cost
from nas_attn.study.ledger import FINAL, SEARCH, Ledger, close_storage, open_storage
from nas_attn.study.planned import PlannedRun, PlannedRuns
from nas_attn.study.sampling import MAX_CRASHES

COST = Cost(12_345, 678_900)


def run(stage: Stage = "retrain", placement: Placement = NONE, seed: int = 1, label: str = "none") -> PlannedRun:
    """Return a planned run of four epochs that keeps no files."""
    return PlannedRun(stage, label, placement, seed, 4)


def seeds_left(queue: PlannedRuns) -> list[int]:
    """Run all that waits, and return the seeds in their order."""
    seeds = []
    while (task := queue.ask()) is not None:
        seeds.append(task.seed)
        queue.finish(task.number, Outcome("complete", 0.5))
    return seeds


def test_a_row_is_read_back_with_all_that_was_written(tmp_path):
    bound = small_space()
    params = bound.params(at(1, "cbam", kernel_size=7))
    facts = {"images_per_second": 12.5}
    with ledger_in(tmp_path) as ledger:
        begun = ledger.begin("search", at(1), 7, 4, COST, label="se", params=params, choices=bound.choices)
        assert (begun.number, begun.state, begun.value) == (0, "running", None)
        for epoch, value in ((2, 0.4), (1, 0.3)):
            ledger.report(0, epoch, value)
        ended = ledger.finish(0, Outcome("complete", 0.4, seconds=1.23456, facts=facts))
    with ledger_in(tmp_path) as ledger:
        (row,) = ledger.records()
    assert (row.stage, row.state, row.placement, row.key) == ("search", "complete", at(1), at(1).key)
    assert (row.seed, row.epochs, row.label, row.params) == (7, 4, "se", params)
    assert (row.n_parameters, row.n_macs) == (12_345, 678_900)
    assert (row.value, list(row.curve.items())) == (0.4, [(1, 0.3), (2, 0.4)]), "a curve is read in order of the epochs"
    assert (row.seconds, row.facts) == (1.235, facts), "seconds are kept to the millisecond"
    assert (row.cause, row.reason, row.answered_from) == (None, None, None)
    assert (ended.value, ended.curve, ended.facts) == (row.value, row.curve, row.facts)


def test_a_failure_keeps_its_cause_and_reason_and_no_value(tmp_path):
    with ledger_in(tmp_path) as ledger:
        number = ledger.begin("search", NONE, 0, 4, COST).number
        ledger.finish(number, Outcome("fail", cause="oom", reason="Out of memory."))
        attributes = optuna.load_study(study_name=SEARCH, storage=ledger._storage).trials[0].user_attrs
        (row,) = ledger.records()
    assert (row.state, row.value, row.cause, row.reason) == ("fail", None, "oom", "Out of memory.")
    assert {"label", "answered_from", "facts"}.isdisjoint(attributes), "what is unknown is left out"


def test_a_stopped_trial_has_the_last_value_of_its_curve(tmp_path):
    with ledger_in(tmp_path) as ledger:
        number = ledger.begin("search", NONE, 0, 4, COST).number
        ledger.report(number, 1, 0.3)
        ledger.report(number, 2, 0.2)
        ended = ledger.finish(number, Outcome("pruned"))
        (stored,) = ledger.records()
        trial = optuna.load_study(study_name=SEARCH, storage=ledger._storage).trials[0]
    assert (ended.state, ended.value) == (stored.state, stored.value) == ("pruned", 0.2)
    assert trial.value == 0.2


def test_a_stopped_trial_of_an_older_version_has_the_last_value_of_its_curve(tmp_path):
    with ledger_in(tmp_path) as ledger:
        number = ledger.begin("search", NONE, 0, 4, COST).number
        ledger.report(number, 3, 0.4)
        ledger._storage.set_trial_state_values(ledger._ids[number], optuna.trial.TrialState.PRUNED, None)
        (stored,) = ledger.records()
    assert (stored.state, stored.value) == ("pruned", 0.4)


def test_a_trial_that_another_program_stopped_without_a_report_has_no_value(tmp_path):
    with ledger_in(tmp_path) as ledger:
        number = ledger.begin("search", NONE, 0, 4, COST).number
        ledger._storage.set_trial_state_values(ledger._ids[number], optuna.trial.TrialState.PRUNED, None)
        (stored,) = ledger.records()
    assert (stored.state, stored.value, stored.curve) == ("pruned", None, {})


def test_a_trial_that_another_program_queued_is_left_out_and_ended(tmp_path):
    with ledger_in(tmp_path) as ledger:
        study = optuna.load_study(study_name=SEARCH, storage=ledger._storage)
        study.enqueue_trial({"x": 1})
        assert ledger.records() == ()
        assert ledger.sweep() == 1
        assert study.trials[0].state == optuna.trial.TrialState.FAIL
    with ledger_in(tmp_path) as ledger:
        assert ledger.begin("search", NONE, 0, 4, COST).number == 1, "its number is taken"


def test_sweeping_marks_what_a_dead_driver_left_running(tmp_path):
    with ledger_in(tmp_path) as ledger:
        for _ in range(3):
            ledger.begin("search", NONE, 0, 4, COST)
        ledger.finish(1, Outcome("complete", 0.5))
    with ledger_in(tmp_path) as ledger:
        assert ledger.sweep() == 2
        assert ledger.sweep() == 0
        rows = ledger.records()
    assert [row.state for row in rows] == ["fail", "complete", "fail"]
    assert {row.cause for row in rows} == {"interrupted", None}
    assert rows[0].reason == "The run ended while this trial was running; it is run again."


def test_a_ledger_that_is_only_read_makes_no_study(tmp_path):
    storage = open_storage(tmp_path / "study.db")
    ledger = Ledger(storage, FINAL, create=False)
    assert ledger.records() == ()
    assert ledger.note("arms") == {}
    with pytest.raises(AssertionError, match="cannot be written"):
        ledger.begin("confirm", NONE, 0, 4, COST)
    with pytest.raises(AssertionError, match="cannot be written"):
        ledger.set_note("arms", {})
    assert storage.get_all_studies() == []
    Ledger(storage, FINAL).set_note("arms", {"key": "none"})
    assert Ledger(storage, FINAL, create=False).note("arms") == {"key": "none"}
    close_storage(storage)


def test_an_end_is_written_so_that_it_survives_a_loss_of_power(tmp_path):
    statements: list[str] = []
    with ledger_in(tmp_path) as ledger:
        engine = ledger._storage.engine
        event.listen(engine, "before_cursor_execute", lambda *words: statements.append(words[2]))
        with engine.connect() as connection:
            mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
            quick = connection.exec_driver_sql("PRAGMA synchronous").scalar()
        ledger.begin("search", NONE, 0, 4, COST)
        statements.clear()
        ledger.finish(0, Outcome("complete", 0.5))
        order = [words for words in statements if words.startswith(("PRAGMA", "UPDATE trials"))]
        with engine.connect() as connection:
            after = connection.exec_driver_sql("PRAGMA synchronous").scalar()
    assert (mode, quick, after) == ("wal", 1, 1), "1 is NORMAL"
    assert order[0] == "PRAGMA synchronous=FULL"
    assert order[1].startswith("UPDATE trials")
    assert order[2:] == ["PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA synchronous=NORMAL"]


def test_closing_folds_the_log_into_the_database(tmp_path):
    storage = open_storage(tmp_path / "study.db")
    Ledger(storage, SEARCH)
    log = tmp_path / "study.db-wal"
    assert log.stat().st_size > 0
    close_storage(storage)
    assert not log.exists() or log.stat().st_size == 0


def test_runs_wait_in_their_order_and_first_goes_ahead(tmp_path):
    with ledger_in(tmp_path, FINAL) as ledger:
        queue = PlannedRuns(ledger, small_space())
        queue.plan([run(seed=1), run(seed=2), run(seed=1)])
        queue.plan([run(seed=2), run(seed=3)])
        queue.plan([run(seed=5), run(seed=4)], first=True)
        assert seeds_left(queue) == [5, 4, 1, 2, 3]
        assert queue.ask() is None


def test_a_run_is_trained_once_unless_it_is_asked_for_again(tmp_path):
    with ledger_in(tmp_path, FINAL) as ledger:
        queue = PlannedRuns(ledger, small_space())
        queue.plan([run(seed=1), run(seed=2)])
        task = queue.ask()
        queue.plan([run(seed=1)], again=True)
        assert queue.n_waiting("retrain") == 2, "one runs, one waits; what runs is not queued again"
        assert queue.n_waiting("confirm") == 0
        assert not queue.is_done(run(seed=1))
        queue.finish(task.number, Outcome("complete", 0.5))
        assert queue.is_done(run(seed=1))
        assert not queue.is_done(run(seed=2))
        queue.plan([run(seed=1)])
        assert seeds_left(queue) == [2]
        queue.plan([run(seed=1)], again=True)
        assert seeds_left(queue) == [1]
    with ledger_in(tmp_path, FINAL) as ledger:
        queue = PlannedRuns(ledger, small_space())
        queue.plan([run(seed=1), run(seed=2), run("confirm", seed=1), run(placement=at(1), seed=1)])
        assert queue.n_waiting("confirm") == queue.n_waiting("retrain") == 1
        assert seeds_left(queue) == [1, 1]
        assert [row.number for row in queue.records()] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("cause", "now", "later"), [("oom", 0, 0), ("nan", 0, 0), ("error", 0, 1), ("interrupted", 1, 1)]
)
def test_a_failed_run_is_planned_again_where_it_may_go_better(tmp_path, cause, now, later):
    with ledger_in(tmp_path, FINAL) as ledger:
        queue = PlannedRuns(ledger, small_space())
        queue.plan([run()])
        queue.finish(queue.ask().number, Outcome("fail", cause=cause, reason="It failed."))
        queue.plan([run()])
        assert queue.n_waiting("retrain") == now
    with ledger_in(tmp_path, FINAL) as ledger:
        queue = PlannedRuns(ledger, small_space())
        queue.plan([run()])
        assert queue.n_waiting("retrain") == later


def test_a_run_whose_worker_died_goes_to_the_end_of_the_queue_twice(tmp_path):
    with ledger_in(tmp_path, FINAL) as ledger:
        queue = PlannedRuns(ledger, small_space())
        queue.plan([run(seed=1), run(seed=2)])
        order = []
        while (task := queue.ask()) is not None:
            order.append(task.seed)
            died = Outcome("fail", cause="crashed", reason="The worker died.")
            queue.finish(task.number, died if task.seed == 1 else Outcome("complete", 0.5))
        assert order == [1, 2, 1, 1]
        assert order.count(1) == MAX_CRASHES


def test_values_are_by_seed_of_one_stage_placement_and_length(tmp_path):
    with ledger_in(tmp_path, FINAL) as ledger:
        queue = PlannedRuns(ledger, small_space())
        queue.plan([run(seed=1), run(seed=2), run(seed=3), run("confirm"), run(placement=at(1))])
        queue.plan([PlannedRun("retrain", "none", NONE, 1, 5)])
        for value in (0.5, 0.25, None, 0.1, 0.2, 0.3):
            failed = Outcome("fail", cause="error", reason="ValueError: no.")
            queue.finish(queue.ask().number, failed if value is None else Outcome("complete", value))
        assert queue.values("retrain", NONE, 4) == {1: 0.5, 2: 0.25}
        assert queue.values("retrain", at(1), 4) == {1: 0.2}
        assert queue.values("confirm", NONE, 4) == {1: 0.1}
        assert queue.values("confirm", at(1), 4) == {}


def test_a_planned_run_keeps_its_label_cost_and_curve_and_is_never_stopped(tmp_path):
    bound = small_space()
    with ledger_in(tmp_path, FINAL) as ledger:
        queue = PlannedRuns(ledger, bound)
        queue.plan([PlannedRun("retrain", "se = found #1", at(1), 9, 4, ("weights",))])
        task = queue.ask()
        assert (task.stage, task.arm, task.seed, task.epochs) == ("retrain", "se = found #1", 9, 4)
        assert task.artifacts == ("weights",)
        assert not queue.report(task.number, 1, 0.1)
        row = queue.finish(task.number, Outcome("complete", 0.5))
    assert (row.label, row.curve, row.value) == ("se = found #1", {1: 0.1}, 0.5)
    assert Cost(row.n_parameters, row.n_macs) == bound.cost(at(1))


def test_the_labels_of_the_arms_are_written_when_they_change(tmp_path, monkeypatch):
    written = []
    with ledger_in(tmp_path, FINAL) as ledger:
        queue = PlannedRuns(ledger, small_space())
        write = ledger.set_note
        monkeypatch.setattr(ledger, "set_note", lambda name, note: (written.append(name), write(name, note)))
        for labels in ({"a": "none"}, {"a": "none"}, {"a": "none", "b": "found #1"}):
            queue.name_arms(labels)
            assert ledger.note("arms") == labels
    assert written == ["arms", "arms"]


def test_the_folder_of_a_ledger_may_have_any_name(tmp_path: Path):
    folder = tmp_path / "a b?c#d%20"
    folder.mkdir()
    with ledger_in(folder) as ledger:
        ledger.begin("search", NONE, 0, 4, COST)
    assert (folder / "study.db").is_file()
