"""The rounds of the confirm stage after a long search: one new seed each, the better half goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any
from zlib import crc32

import pytest
from engine import small_space, work
from scripted import by_stage, stages_in

from nas_attn.config import Budget
from nas_attn.placement import NONE
from nas_attn.records import OF_CONTROL, Outcome, Task
from nas_attn.study.confirm import CONFIRM_OFFSET, n_confirm_runs, rounds_of

LONG = {"trials": 36, "sampler": "random", "budget": {"top": None}}
"""A search whose best four are confirmed."""

SPACE: dict[str, Any] = {
    "sites": [{"match": ["denseblock*"], "attentions": ["se", "cbam"]}],
    "attentions": {"se": {"reduction": [4, 8, 16]}, "cbam": {"reduction": [4, 8], "kernel_size": [3, 5]}},
}


@pytest.mark.parametrize(
    ("n_trials", "rounds", "runs"),
    [
        (1, [(3, 2)], 6), (24, [(3, 2)], 6), (31, [(3, 2)], 6), (32, [(4, 1), (2, 3)], 8),
        (50, [(6, 1), (3, 2), (2, 4)], 13), (56, [(7, 1), (4, 2), (2, 4)], 15),
        (100, [(12, 1), (6, 2), (3, 3), (2, 5)], 25), (128, [(16, 1), (8, 2), (4, 3), (2, 5)], 32),
        (100_000, [(16, 1), (8, 2), (4, 3), (2, 5)], 32),
    ],
)  # fmt: skip
def test_the_number_of_candidates_grows_with_the_search(n_trials, rounds, runs):
    found = rounds_of(Budget(), n_trials, several=False)
    assert [(each.n_placements, each.n_seeds) for each in found] == rounds
    assert sum(n_confirm_runs(found)) == runs


@pytest.mark.parametrize("top", [1, 3, 7, 20])
def test_a_stated_number_of_candidates_is_kept_and_each_has_two_seeds(top):
    (found,) = rounds_of(Budget(top=top), 1_000, several=False)
    assert (found.n_placements, found.n_seeds) == (top, 2)


def test_the_candidates_of_a_front_have_one_round():
    (found,) = rounds_of(Budget(), 1_000, several=True)
    assert (found.n_placements, found.n_seeds) == (3, 2)


def scored(confirm: list[list[float]]) -> Callable[[Task], Outcome]:
    """Return values whose confirm runs have those of their rank in the search, seed by seed."""

    def value(task: Task) -> float:
        if task.stage == "search":
            return 0.5 + 1e-4 * (crc32(task.placement.key.encode()) % 997)
        if task.stage == "confirm" and task.arm and task.arm.startswith("best "):
            return confirm[int(task.arm.split()[1]) - 1][task.seed - CONFIRM_OFFSET]
        return 0.6

    return lambda task: Outcome("complete", value(task), seconds=1.0)


CONFIRM = [[0.60, 0.9, 0.9], [0.75, 0.3, 0.3], [0.59, 0.9, 0.9], [0.70, 0.7, 0.7]]
"""Best 2 and 4 have the better first seeds; then best 2 falls below all, and best 1 and 3 would have been better."""


def confirmed(tasks: list[Task]) -> Counter[str | None]:
    """Return the number of confirm runs by label."""
    return Counter(task.arm for task in by_stage(tasks, "confirm"))


def test_the_better_half_goes_on_and_the_mean_over_all_its_seeds_decides(tmp_path):
    with stages_in(tmp_path, small_space(**SPACE), **LONG) as stages:
        tasks = work(stages, scored(CONFIRM))
        winner = stages.winner
    assert confirmed(tasks) == {"none": 2, "best 1": 1, "best 2": 3, "best 3": 1, "best 4": 3}
    by_label = {task.arm: task.placement for task in by_stage(tasks, "confirm")}
    assert winner.placement == by_label["best 4"]
    assert winner.confirmed == pytest.approx(
        {NONE.key: 0.6, by_label["best 1"].key: 0.6, by_label["best 2"].key: 0.45,
         by_label["best 3"].key: 0.59, by_label["best 4"].key: 0.7}
    )  # fmt: skip
    first = [task.arm for task in by_stage(tasks, "confirm")][:6]
    assert sorted(first) == ["best 1", "best 2", "best 3", "best 4", "none", "none"], "a round at a time"


def test_one_that_was_left_out_does_not_win_by_its_single_seed(tmp_path):
    values = [[0.80, 0.1, 0.1], [0.81, 0.1, 0.1], [0.79, 0.0, 0.0], [0.1, 0.0, 0.0]]
    with stages_in(tmp_path, small_space(**SPACE), **LONG) as stages:
        tasks = work(stages, scored(values))
        best = {task.arm: task.placement for task in by_stage(tasks, "confirm")}["best 2"]
        assert stages.winner.placement == best
        assert max(stages.winner.confirmed.values()) > stages.winner.confirmed[best.key]


def test_a_candidate_without_a_value_is_out(tmp_path):
    def failing(task: Task) -> Outcome:
        if (task.stage, task.arm) == ("confirm", "best 2"):
            return Outcome("fail", cause="nan", reason="It failed.")
        return scored(CONFIRM)(task)

    with stages_in(tmp_path, small_space(**SPACE), **LONG) as stages:
        tasks = work(stages, failing)
        best = {task.arm: task.placement for task in by_stage(tasks, "confirm")}["best 1"]
        assert stages.winner.placement == best
    assert confirmed(tasks) == {"none": 2, "best 1": 3, "best 2": 1, "best 3": 1, "best 4": 3}


def test_a_lucky_first_seed_does_not_win_where_the_others_fail(tmp_path):
    def failing(task: Task) -> Outcome:
        if task.arm == "best 2" and task.seed > CONFIRM_OFFSET:
            return Outcome("fail", cause="nan", reason="It failed.")
        return scored([[0.6] * 3, [0.95] * 3, [0.59] * 3, [0.8] * 3])(task)

    with stages_in(tmp_path, small_space(**SPACE), **LONG) as stages:
        tasks = work(stages, failing)
        by_label = {task.arm: task.placement for task in by_stage(tasks, "confirm")}
        assert stages.winner.placement == by_label["best 4"]
        assert stages.winner.confirmed[by_label["best 2"].key] == 0.95


@pytest.mark.parametrize("more", [0, 2, 5, 7, 9])
def test_an_interrupted_stage_goes_on_where_it_was_and_decides_alike(tmp_path, more):
    n_search = LONG["trials"]
    with stages_in(tmp_path, small_space(**SPACE), **LONG) as stages:
        before = work(stages, scored(CONFIRM), stop_after=n_search + more)
    with stages_in(tmp_path, small_space(**SPACE), **LONG) as stages:
        after = work(stages, scored(CONFIRM))
        winner = stages.winner
    ended = [(task.placement, task.seed) for task in by_stage([*before[:-1], *after], "confirm")]
    assert len(ended) == len(set(ended)) == 10
    assert winner.placement == {t.arm: t.placement for t in by_stage([*before, *after], "confirm")}["best 4"]


def test_what_is_left_of_the_stage_is_known_at_any_time(tmp_path):
    left: list[tuple[str, int]] = []

    def looked(task: Task) -> Outcome:
        left.append((task.stage, sum(stages.unplanned_confirm()) + stages.final.n_waiting("confirm")))
        return scored(CONFIRM)(task)

    with stages_in(tmp_path, small_space(**SPACE), **LONG) as stages:
        assert sum(stages.unplanned_confirm(0)) == 8, "without a trial it is a short search"
        work(stages, looked)
        assert sum(stages.unplanned_confirm()) == 0
    assert {number for stage, number in left if stage == "search"} == {10}
    assert [number for stage, number in left if stage == "confirm"] == list(range(10, 0, -1))


def test_a_search_that_ended_early_is_confirmed_as_a_short_one(tmp_path):
    with stages_in(tmp_path, small_space(**SPACE), **LONG) as stages:
        for _ in range(20):
            task = stages.ask()
            stages.finish(task, scored(CONFIRM)(task))
        stages.search.close()
        tasks = work(stages, scored(CONFIRM))
    assert confirmed(tasks) == {"none": 2, "best 1": 2, "best 2": 2, "best 3": 2}


def test_the_random_search_beside_it_has_rounds_of_its_own(tmp_path):
    budget = {"top": None, "control_search": "random"}
    with stages_in(tmp_path, small_space(**SPACE), **{**LONG, "budget": budget}) as stages:
        tasks = work(stages, scored(CONFIRM))
        control = stages.winner.control
    of_control = Counter(task.placement for task in by_stage(tasks, "confirm") if task.arm == OF_CONTROL)
    assert sorted(of_control.values()) == [1, 1, 3, 3]
    assert of_control[control] == 3
