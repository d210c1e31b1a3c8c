"""The time of a run by simulation: the time budget, and the early end of a search."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from simulated_time import CLOSING, World, opened

from nas_attn.config.durations import seconds_of
from nas_attn.files import write_text
from nas_attn.placement import NONE
from nas_attn.records import Outcome, Task, TrialRecord
from nas_attn.run.driver import REQUEST, is_asked_to_finish
from nas_attn.study.early_end import BudgetTooShort
from nas_attn.study.pace import Pace, Work, crowding


class Uneven(World):
    """Lengths differ by placement and by chance: a tenth of the trainings takes four times as long as the others."""

    def length(self, task: Task) -> float:
        """Return the seconds of a training."""
        return super().length(task) * (1 + 0.1 * len(task.placement)) * self.random.choice([0.77] * 9 + [3.1])


class Busier(World):
    """From a moment on, other programs make all trainings take longer, once and for all."""

    since, factor = 200.0, 1.7

    def length(self, task: Task) -> float:
        """Return the seconds of a training."""
        return super().length(task) * (self.factor if self.now > self.since else 1.0)


class SlowStart(World):
    """Workers take a long time to start, and their first trainings many times as long as others."""

    def __init__(self, startup: float, cold: float) -> None:
        self.startup, self.cold = startup, cold
        super().__init__(2, short=3.3, long=8.0)


@pytest.mark.parametrize(("workers", "minutes"), [(1, 20), (2, 11), (4, 7)])
def test_a_time_budget_ends_the_search_early_and_the_run_in_time(workers: int, minutes: int, tmp_path: Path) -> None:
    world = World(workers)
    with opened(tmp_path, world, budget={"trials": 300, "time_budget": f"{minutes}m"}) as stages:
        tasks = world.run(stages)
        assert stages.is_finished
        assert stages.error is None
        assert {len(sample.by_seed) for sample in stages.samples()} == {5}
        n_tried = stages.search.n_done
        assert 5 < n_tried < 200
        assert f"The time budget of {minutes}m ended the search after" in stages.remarks[0]
    assert 0.75 * 60 * minutes < world.now < 60 * minutes
    again = World(workers)
    with opened(tmp_path, again, budget={"trials": 300, "time_budget": f"{minutes}m"}) as stages:
        assert stages.is_finished, "a repeated command shows the result"
    with opened(tmp_path, again, budget={"trials": 300, "time_budget": f"{2 * minutes}m"}) as stages:
        assert stages.search.n_open == 300 - n_tried, "a longer one searches on"
    assert tasks


@pytest.mark.parametrize(("workers", "seconds"), [(2, 1200), (8, 400), (16, 250)])
def test_the_rounds_of_the_confirm_stage_have_room_also_with_many_workers(
    workers: int, seconds: int, tmp_path: Path
) -> None:
    world = World(workers, short=10.0, long=15.0)
    budget = {"trials": 300, "top": None, "seeds": 3, "controls": 0, "time_budget": f"{seconds}s"}
    with opened(tmp_path, world, budget=budget) as stages:
        tasks = world.run(stages)
        assert Counter(task.stage for task in tasks)["confirm"] > 20, "in rounds"
        assert {len(sample.by_seed) for sample in stages.samples()} == {3}, "a cut that saves no time is none"
    assert 0.75 * seconds < world.now + CLOSING < seconds


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("world", "workers"), [(Uneven, 2), (Busier, 2), (Uneven, 1)])
def test_the_budget_holds_where_lengths_spread_or_the_machine_slows_down(
    world: type[World], workers: int, seed: int, tmp_path: Path
) -> None:
    run = world(workers, seed=seed)
    minutes = 14 if workers == 2 else 24
    with opened(tmp_path, run, budget={"trials": 300, "time_budget": f"{minutes}m"}) as stages:
        run.run(stages)
        assert stages.is_finished
        assert stages.error is None
        assert min(len(sample.by_seed) for sample in stages.samples()) >= 2
    assert 0.5 * 60 * minutes < run.now + CLOSING < 60 * minutes


@pytest.mark.parametrize(("startup", "cold", "minutes", "least"), [(47.0, 11.0, 3, 3), (105.0, 70.0, 6, 3)])
def test_slow_first_trainings_neither_refuse_a_time_budget_nor_end_the_search(
    startup: float, cold: float, minutes: int, least: int, tmp_path: Path
) -> None:
    world = SlowStart(startup, cold)
    with opened(tmp_path, world, budget={"trials": 300, "time_budget": f"{minutes}m"}) as stages:
        world.run(stages)
        assert stages.error is None
        assert stages.search.n_done >= least
        assert min(len(sample.by_seed) for sample in stages.samples()) >= 1
    assert 30 * minutes < world.now + CLOSING < 60 * minutes


@pytest.mark.parametrize(
    ("load", "n_own", "factor"), [(0.3, 2, 1.0), (4.0, 4, 1.0), (13.0, 2, 3.0), (200.0, 2, 8.0), (None, 2, 1.0)]
)
def test_the_last_steps_of_a_run_take_longer_on_a_busy_machine(
    monkeypatch: pytest.MonkeyPatch, load: float | None, n_own: int, factor: float
) -> None:
    def getloadavg() -> tuple[float, float, float]:
        if load is None:
            raise OSError("unknown")
        return load, 0.0, 0.0

    monkeypatch.setattr("os.getloadavg", getloadavg)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert crowding(n_own) == factor
    work = Work(0, (), (), 4)
    pace = Pace(clock=lambda: 0.0, begun=0.0, workers=n_own, slowdown=crowding)
    pace.learn([TrialRecord(0, "search", "complete", NONE, NONE.key, 0, 1, value=0.5, seconds=10.0)])
    assert pace.rest(work) == factor * (6.0 + 4 * 1.5)


def test_the_time_per_placement_counts_stopped_trials_and_further_seeds() -> None:
    def row(number: int, key: str, state: Literal["complete", "pruned"], seconds: float) -> TrialRecord:
        return TrialRecord(number, "search", state, NONE, key, 0, 1, value=0.5, seconds=seconds)

    pace = Pace(clock=lambda: 0.0, begun=0.0)
    rows = [row(0, "a", "complete", 8.0), row(1, "b", "pruned", 2.0), row(2, "a", "complete", 8.0)]
    pace.learn([*rows, replace(rows[0], number=3, answered_from=0, seconds=0.0)])
    assert (pace.placement, pace.trial) == (9.0, 8.0)


def test_where_retrainings_take_longer_than_expected_there_are_fewer_seeds(tmp_path: Path) -> None:
    world = World(2, long=60.0)
    with opened(tmp_path, world, budget={"trials": 300, "time_budget": "10m"}) as stages:
        world.run(stages)
        assert stages.is_finished
        seeds = {sample.label: len(sample.by_seed) for sample in stages.samples()}
        assert set(seeds.values()) <= {1, 2, 3, 4}
        assert len(seeds) >= 4, "no arm was taken"
        assert any("seeds per arm" in remark for remark in stages.remarks)
        left = min(seeds.values())
    assert world.now < 1.2 * 600
    with opened(tmp_path, World(2), budget={"trials": 300, "time_budget": "10m"}) as stages:
        assert stages.is_finished
        assert stages.budget.seeds == left


@pytest.mark.parametrize(("budget", "message"), [("5s", "got 5s: one trial takes 1"), ("60s", "one trial takes")])
def test_a_time_budget_below_one_trial_is_refused_after_the_first(budget: str, message: str, tmp_path: Path) -> None:
    world = World(1)
    with opened(tmp_path, world, budget={"time_budget": budget}) as stages:
        tasks = world.run(stages)
        assert isinstance(stages.error, BudgetTooShort)
        assert stages.error.exit_code == 2
        assert message in str(stages.error)
        assert len(tasks) <= 3, "the first one also starts its worker, so that a second one may be needed"


def test_finish_ends_the_search_and_goes_on_to_confirm(tmp_path: Path) -> None:
    world = World(2)

    def ask(number: int) -> None:
        if number == 10:
            write_text(tmp_path / REQUEST, "")

    with opened(tmp_path, world, budget={}, is_finish_asked=lambda: is_asked_to_finish(tmp_path)) as stages:
        world.run(stages, after=ask)
        assert stages.is_finished
        assert 10 <= stages.search.n_done <= 12
        assert stages.remarks == (f"`nas-attn finish` ended the search after {stages.search.n_done} of 40 placements.",)
        assert stages.final.n_done("confirm") > 0
    with opened(tmp_path, World(2), budget={}) as stages:
        assert stages.is_finished
    with opened(tmp_path, World(2), budget={"trials": 41}) as stages:
        assert stages.search.n_open > 0, "a larger budget searches on"


def test_finish_of_a_run_that_is_not_alive_holds_at_the_next_start(tmp_path: Path) -> None:
    with opened(tmp_path, World(1), budget={}) as stages:
        for _ in range(4):
            task = stages.ask()
            assert task is not None
            stages.finish(task, Outcome("complete", 0.5, seconds=1.0))
    world = World(1)
    with opened(tmp_path, world, budget={}, is_finish_asked=lambda: True) as stages:
        tasks = world.run(stages)
        assert stages.is_finished
    assert {task.stage for task in tasks} == {"confirm", "retrain"}


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("90m", 5400), ("2h", 7200), ("1h30m", 5400), ("1d 2h", 93_600), ("1.5h", 5400)]
)
def test_a_duration_may_have_several_units(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-2h", "2h1d", "1h30", "0s", "2 weeks", "1h 1h"])
def test_other_words_are_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be a number above 0 with s, m, h or d"):
        seconds_of(text)
