"""The rules of the three stages: their order, their seeds, the recommendation, and when a run gives up."""

from __future__ import annotations

from typing import Any

import pytest
from engine import small_space, work
from scripted import Files, at, by_stage, constant, follow, stages_in

from nas_attn.placement import NONE, Placement
from nas_attn.records import Outcome, Task
from nas_attn.study.confirm import CONFIRM_OFFSET
from nas_attn.study.failures import FAILURES_IN_A_ROW
from nas_attn.study.stages import RETRAIN_OFFSET, Stages


def fail(stages: Stages, cause: str, reason: str = "It failed.") -> None:
    """Fail the next trial."""
    task = stages.ask()
    assert task is not None, "a trial must be left to fail"
    stages.finish(task, Outcome("fail", cause=cause, reason=reason))


def test_the_winner_is_the_best_with_attention_on_the_confirm_seeds(tmp_path):
    def scored(task: Task) -> Outcome:
        """Return values that the confirm stage turns around."""
        if task.stage == "search":
            return Outcome("complete", 0.9 if task.placement == NONE else 0.5 + 0.01 * len(task.placement))
        return Outcome("complete", 0.6 - 0.01 * len(task.placement) if len(task.placement) else 0.7)

    with stages_in(tmp_path) as stages:
        tasks = work(stages, scored)
        winner = stages.winner
    confirmed = {task.placement for task in by_stage(tasks, "confirm")}
    assert NONE in confirmed, "no attention is confirmed too"
    assert len(confirmed) == 3, "and the best two with attention"
    assert winner.confirmed.keys() == {placement.key for placement in confirmed}
    with_attention = {key: value for key, value in winner.confirmed.items() if key != NONE.key}
    assert winner.placement.key == max(with_attention, key=with_attention.get)


def test_without_a_value_with_attention_there_is_no_winner(tmp_path):
    def scored(task: Task) -> Outcome:
        bad = Outcome("fail", cause="oom" if task.number % 2 else "nan", reason="It failed.")
        return bad if len(task.placement) else Outcome("complete", 0.5)

    with stages_in(tmp_path, trials=3) as stages:
        work(stages, scored)
        assert stages.winner.placement is None
        assert (stages.answer.state, stages.answer.recommended) == ("none", "none")
        assert stages.winner.confirmed == {NONE.key: 0.5}
        assert [label for label, _ in stages.arms()] == ["none", "se everywhere", "cbam everywhere"]


def test_the_stages_follow_each_other_with_seeds_of_their_own(tmp_path):
    seen: list[tuple[str, str]] = []

    def scored(task: Task) -> Outcome:
        seen.append((stages.stage, task.stage))
        return Outcome("complete", 0.5)

    with stages_in(tmp_path, seed=7, recipe={"retrain_epochs": 3}) as stages:
        assert not stages.is_finished
        assert sum(stages.unplanned_confirm()) == 6
        tasks = work(stages, scored)
        assert stages.is_finished
        assert (CONFIRM_OFFSET, RETRAIN_OFFSET) == (10_000, 20_000), "stored runs have these seeds"
        assert stages.seeds == (7 + RETRAIN_OFFSET, 8 + RETRAIN_OFFSET)
        assert (sum(stages.unplanned_confirm()), stages.retrain_epochs) == (0, 3)
        arms = stages.arms()
    assert all(now == stage for now, stage in seen)
    confirm, retrain = by_stage(tasks, "confirm"), by_stage(tasks, "retrain")
    assert [task.seed for task in confirm] == [7 + CONFIRM_OFFSET] * 3 + [8 + CONFIRM_OFFSET] * 3
    assert [task.arm for task in confirm] == ["none", "best 1", "best 2"] * 2
    assert {task.epochs for task in confirm} == {2}
    assert {task.epochs for task in retrain} == {3}
    n_arms = len(arms)
    assert [task.seed for task in retrain] == [7 + RETRAIN_OFFSET] * n_arms + [8 + RETRAIN_OFFSET] * n_arms
    assert [task.artifacts for task in retrain] == [("predictions", "weights")] * n_arms + [("predictions",)] * n_arms
    assert {task.artifacts for task in confirm} == {("predictions",)}
    assert {task.seed for task in by_stage(tasks, "search")} <= {7, 8, 9}


def test_the_length_of_a_retraining_is_that_of_a_trial_unless_it_is_set(tmp_path):
    with stages_in(tmp_path) as stages:
        assert stages.retrain_epochs == 2


def test_an_idle_worker_retrains_a_fixed_arm_and_confirming_goes_ahead_of_it(tmp_path):
    with stages_in(tmp_path, trials=1) as stages:
        searched = stages.ask()
        early = stages.ask()
        assert (searched.stage, early.stage, stages.stage) == ("search", "retrain", "search")
        assert early.arm == "none"
        stages.finish(searched, Outcome("complete", 0.5))
        assert stages.stage == "confirm"
        confirm = stages.ask()
        assert confirm.stage == "confirm", "before the other arms, which wait since the start"
        stages.finish(early, Outcome("complete", 0.5, artifacts={"weights": b"weights"}))
        assert (stages.winner, stages.is_finished) == (None, False)
        stages.finish(confirm, Outcome("complete", 0.5))
        tasks = work(stages, constant())
    assert (NONE, early.seed) not in {(task.placement, task.seed) for task in by_stage(tasks, "retrain")}


def test_an_exhausted_space_goes_on_to_the_confirm_stage_before_any_arm_is_retrained(tmp_path):
    bound = small_space(
        sites=[{"match": ["denseblock3"], "attentions": ["se"]}], attentions={"se": {"reduction": [4, 8]}}
    )
    with stages_in(tmp_path, bound, trials=1000) as stages:
        tasks = work(stages, constant())
        assert stages.search.n_done == 3
    order = list(dict.fromkeys(task.stage for task in tasks))
    assert order == ["search", "confirm", "retrain"]


def test_the_winner_is_retrained_first_under_its_name(tmp_path):
    with stages_in(tmp_path) as stages:
        tasks = work(stages, lambda task: Outcome("complete", 0.5 + 0.01 * (task.placement == at(3, reduction=8))))
        first = by_stage(tasks, "retrain")[0]
        assert first.placement == stages.winner.placement
        assert first.arm == "found #1"
        assert stages.final._ledger.note("arms") == {placement.key: label for label, placement in stages.arms()}


def test_equal_arms_are_one_with_both_names(tmp_path):
    best = small_space().everywhere("cbam")
    more = {"my own": at(1), "mine too": best}
    with stages_in(tmp_path, arms=more) as stages:
        assert [label for label, _ in stages.fixed_arms()] == [
            *("none", "se everywhere", "cbam everywhere", "my own", "mine too"),
        ]
        work(stages, lambda task: Outcome("complete", 0.9 if task.placement == best else 0.5))
        assert dict(stages.arms()) == {
            "found #1 = cbam everywhere = mine too": best,
            "none": NONE,
            "se everywhere": small_space().everywhere("se"),
            "my own": at(1),
        }


def test_the_display_hears_of_every_beginning_and_every_end(tmp_path):
    heard: list[int] = []
    with stages_in(tmp_path, trials=1, watch=lambda stages: heard.append(len(stages.live))) as stages:
        task = stages.ask()
        assert heard == [1]
        assert stages.live.keys() == {("search", 0)}
        assert stages.live["search", 0][0] == task
        stages.finish(task, Outcome("complete", 0.5))
        assert heard == [1, 0]
        work(stages, constant())
        n_heard = len(heard)
        assert stages.ask() is None
        assert len(heard) == n_heard, "nothing began"


def test_a_new_best_is_reported_once(tmp_path):
    values = iter([0.5, 0.5, 0.6, 0.4])
    best = []
    with stages_in(tmp_path, trials=5) as stages:
        assert stages.search.take_new_best() is None
        for value in values:
            stages.finish(stages.ask(), Outcome("complete", value))
            new = stages.search.take_new_best()
            best.append(None if new is None else new.number)
            assert stages.search.take_new_best() is None
        fail(stages, "oom")
        assert stages.search.take_new_best() is None
        work(stages, constant(0.9))
        assert stages.search.take_new_best() is None, "confirm and retrain values are no values of the search"
        assert stages.search.best.value == 0.6
    assert best == [0, None, 2, None], "an equal value is no better one"
    with stages_in(tmp_path, trials=5) as stages:
        assert stages.search.take_new_best().number == 2, "a resumed run shows what it has"


def test_a_stopped_trial_is_never_the_best(tmp_path):
    with stages_in(tmp_path) as stages:
        task = stages.ask()
        stages.report(task, 1, 0.9)
        stages.finish(task, Outcome("pruned"))
        assert stages.search.best is None


def test_values_of_every_stage_reach_their_ledger(tmp_path):
    with stages_in(tmp_path, trials=1) as stages:
        tasks = [stages.ask(), stages.ask()]
        for task in tasks:
            assert not stages.report(task, 1, 0.25)
            assert not stages.report(task, 2, float("inf"))
            stages.finish(task, Outcome("complete", 0.5))
        assert [task.stage for task in tasks] == ["search", "retrain"]
        assert [study.records()[0].curve for study in (stages.search, stages.final)] == [{1: 0.25}, {1: 0.25}]


def test_the_weights_of_an_arm_are_stored_by_placement_seed_and_length(tmp_path):
    weights = Files()
    with stages_in(tmp_path, weights=weights, recipe={"retrain_epochs": 3}) as stages:
        work(stages, constant())
        kept = {(placement.key, stages.seeds[0], 3) for _, placement in stages.arms()}
    assert weights.keys() == kept


def test_missing_weights_of_an_arm_are_trained_again_and_nothing_else(tmp_path):
    weights = Files()
    with stages_in(tmp_path, weights=weights) as stages:
        work(stages, constant())
        keys = [(placement.key, stages.seeds[0], 2) for _, placement in stages.arms()]
    kept = dict(weights)
    for key in keys[:2]:
        del weights[key]
    with stages_in(tmp_path, weights=weights) as stages:
        assert not stages.is_finished
        tasks = work(stages, constant())
    assert [(task.placement.key, task.seed, task.epochs) for task in tasks] == keys[:2]
    assert weights == kept
    with stages_in(tmp_path, weights=weights) as stages:
        assert stages.is_finished
        assert stages.ask() is None


def test_five_failures_of_one_cause_in_a_row_stop_the_run(tmp_path):
    with stages_in(tmp_path, trials=20) as stages:
        for _ in range(FAILURES_IN_A_ROW - 1):
            fail(stages, "error", "ValueError: no.")
        fail(stages, "interrupted")
        assert stages.error is None, "an interruption is no failure of the trial"
        fail(stages, "error", "ValueError: no data.")
        assert str(stages.error).startswith("5 trials in a row failed ")
        assert "ValueError: no data. " in str(stages.error)
        assert stages.is_finished
        assert stages.ask() is None


@pytest.mark.parametrize("between", [Outcome("complete", 0.5), Outcome("fail", cause="oom", reason="Out of memory.")])
def test_a_value_or_another_cause_in_between_begins_the_count_anew(tmp_path, between):
    with stages_in(tmp_path, trials=30) as stages:
        for _ in range(FAILURES_IN_A_ROW - 1):
            fail(stages, "error")
        stages.finish(stages.ask(), between)
        for _ in range(FAILURES_IN_A_ROW - 1):
            fail(stages, "error")
        assert stages.error is None
        fail(stages, "error")
        assert stages.error is not None


def test_the_first_reason_to_stop_stays(tmp_path):
    with stages_in(tmp_path, trials=30) as stages:
        tasks = [stages.ask() for _ in range(FAILURES_IN_A_ROW + 1)]
        for number, task in enumerate(tasks):
            stages.finish(task, Outcome("fail", cause="error", reason=f"ValueError: {number}."))
        assert "ValueError: 4. " in str(stages.error)


def test_the_best_of_the_search_go_to_the_confirm_stage_in_their_order(tmp_path, monkeypatch):
    bound = small_space()
    script: list[Placement] = [at(1), at(2), at(3, "cbam", kernel_size=7)]
    follow(monkeypatch, bound, *script)
    values: dict[str, Any] = {script[0].key: 0.7, script[1].key: 0.8, script[2].key: 0.6, NONE.key: 0.9}
    with stages_in(tmp_path, trials=len(bound.priors()) + 3) as stages:
        tasks = work(stages, lambda task: Outcome("complete", values.get(task.placement.key, 0.1)))
    confirm = by_stage(tasks, "confirm")[:3]
    assert [(task.arm, task.placement) for task in confirm] == [
        *(("none", NONE), ("best 1", script[1]), ("best 2", script[0])),
    ]
