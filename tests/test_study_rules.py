"""The rules of the search, each with the proposals that put it to the test."""

from __future__ import annotations

from collections.abc import Mapping

import optuna
import pytest
from engine import small_space
from optuna.trial import TrialState
from scripted import always_stop, at, follow, search_in

from nas_attn.placement import NONE, Placement
from nas_attn.records import Outcome, Task, TrialRecord
from nas_attn.study import sampling
from nas_attn.study.samplers.catalog import SCHEDULERS
from nas_attn.study.sampling import MAX_RUNS, SearchStudy, ranking

LAST_STAGE = {"sites": [{"match": ["denseblock3"], "attentions": ["se"]}], "attentions": {"se": {"reduction": [4, 8]}}}
"""A space of three placements: none, and SE with two reductions."""


def end(study: SearchStudy, task: Task | None, value: float | None = None, cause: str | None = None) -> TrialRecord:
    """Finish a trial with a value, or fail it by a cause."""
    assert task is not None, "the search must hand out a trial here"
    if cause is not None:
        return study.finish(task.number, Outcome("fail", cause=cause, reason="It failed."))
    return study.finish(task.number, Outcome("complete", value, seconds=2.0, facts={"loss": 0.1}))


def run_priors(study: SearchStudy, values: Mapping[Placement, float]) -> None:
    """Finish every placement that is tried before the sampler is asked, with 0.5 where no value is named."""
    for _ in small_space().priors():
        task = study.ask()
        end(study, task, values.get(task.placement, 0.5))


def known_and_new(monkeypatch: pytest.MonkeyPatch, known: Placement, times: int = 1) -> tuple:
    """Let the sampler propose a known placement, then one that is new."""
    bound, new = small_space(), at(2, "cbam", kernel_size=7)
    return bound, new, follow(monkeypatch, bound, *[known] * times, new)


def test_the_sampler_hears_the_value_of_a_known_placement_each_time_it_proposes_it(tmp_path, monkeypatch):
    _, new, sampler = known_and_new(monkeypatch, NONE, times=2)
    with search_in(tmp_path, top=1) as study:
        run_priors(study, {NONE: 0.25})
        heard = len(sampler.told)
        task = study.ask()
        assert task.placement == new
        assert sampler.told[heard:] == [(TrialState.COMPLETE, 0.25)] * 2


def test_an_answer_is_a_row_of_its_own_with_the_value_and_nothing_that_was_measured(tmp_path, monkeypatch):
    bound = small_space()
    proposal = {**bound.params(NONE), "denseblock1.se.reduction": 8}  # without effect where nothing is placed
    follow(monkeypatch, bound, proposal, at(2))
    with search_in(tmp_path, top=1) as study:
        first = study.ask()
        study.report(first.number, 1, 0.1)
        end(study, first, 0.25)
        for _ in bound.priors()[1:]:
            end(study, study.ask(), 0.5)
        study.ask()
        trained, answer = study.records()[0], study.records()[len(bound.priors())]
    assert (trained.label, trained.curve, trained.seconds, trained.facts) == ("none", {1: 0.1}, 2.0, {"loss": 0.1})
    assert (answer.answered_from, answer.key, answer.value, answer.state) == (0, NONE.key, 0.25, "complete")
    assert (answer.label, answer.curve, answer.seconds, answer.facts) == (None, {}, 0.0, {})
    assert answer.params == proposal != trained.params


def test_the_sampler_never_hears_the_value_of_a_stopped_trial(tmp_path, monkeypatch):
    always_stop(monkeypatch)
    bound, _, sampler = known_and_new(monkeypatch, NONE)
    with search_in(tmp_path, top=1, scheduler="asha") as study:
        task = study.ask()
        assert study.report(task.number, 1, 0.75)
        study.finish(task.number, Outcome("pruned", seconds=1.0))
        for _ in bound.priors()[1:]:
            end(study, study.ask(), 0.5)
        study.ask()
        answer = study.records()[len(bound.priors())]
    pruned = [value for state, value in sampler.told if state == TrialState.PRUNED]
    assert len(pruned) == 2, "once for the trial, once for the answer"
    assert (answer.state, answer.value, answer.answered_from) == ("pruned", 0.75, 0)


def test_a_trial_may_be_stopped_before_its_last_epoch_only(tmp_path, monkeypatch):
    always_stop(monkeypatch)
    with search_in(tmp_path, epochs=3, scheduler="asha") as study:
        number = study.ask().number
        assert [study.report(number, epoch, 0.5) for epoch in (1, 2, 3)] == [True, True, False]


def test_a_proposal_over_a_limit_is_neither_trained_nor_a_row(tmp_path, monkeypatch):
    heavy, light = at(3, "cbam", kernel_size=7), at(1, "se", reduction=8)
    most = small_space().cost(light).n_parameters
    bound = small_space(limits={"max_params": most})
    priors = bound.priors()
    follow(monkeypatch, bound, heavy, light)
    with search_in(tmp_path, bound, budget=len(priors) + 1) as study:
        for _ in priors:
            end(study, study.ask(), 0.5)
        task = study.ask()
        assert task.placement == light
        end(study, task, 0.5)
        assert len(study.records()) == len(priors) + 1


def test_running_trials_take_their_share_of_the_budget(tmp_path):
    with search_in(tmp_path, budget=3) as study:
        tasks = [study.ask() for _ in range(3)]
        assert (study.n_open, study.n_fresh, study.n_done) == (0, 3, 0)
        assert study.ask() is None
        end(study, tasks[0], 0.5)
        assert (study.n_open, study.n_fresh, study.n_done) == (0, 2, 1)
        end(study, tasks[1], cause="error")
        assert study.n_open == 1, "an exception gives its place in the budget back"
        end(study, study.ask(), cause="oom")
        assert (study.n_open, study.n_done) == (0, 2), "a placement that is too large for the memory has its answer"
        assert not study.is_finished, "one trial runs still"
        end(study, tasks[2], cause="nan")
        assert (study.n_open, study.n_done, study.is_finished) == (0, 3, True)


def test_a_budget_that_was_larger_before_leaves_nothing_open(tmp_path):
    with search_in(tmp_path, budget=3) as study:
        for _ in range(3):
            end(study, study.ask(), 0.5)
    with search_in(tmp_path, budget=1) as study:
        assert (study.n_open, study.n_done, study.is_finished) == (0, 3, True)
        assert study.ask() is None


def test_the_best_get_new_seeds_up_to_three_in_all(tmp_path, monkeypatch):
    best = small_space().everywhere("se")
    bound, new, _ = known_and_new(monkeypatch, best, times=5)
    with search_in(tmp_path, budget=20, top=1, seed=40) as study:
        for _ in bound.priors():
            task = study.ask()
            assert task.seed == 40
            end(study, task, 0.9 if task.placement == best else 0.5)
        again = [study.ask(), None]
        assert again[0].placement == best
        again[1] = study.ask()
        assert again[1].placement == new, "a placement that runs is not run a second time beside itself"
        end(study, again[0], 0.9)
        end(study, again[1], 0.1)
    assert again[0].seed == 41


def test_a_placement_gets_three_seeds_and_then_its_answer(tmp_path, monkeypatch):
    best = small_space().everywhere("se")
    bound, new, _ = known_and_new(monkeypatch, best, times=4)
    with search_in(tmp_path, budget=20, top=1) as study:
        run_priors(study, {best: 0.9})
        seeds = []
        while (task := study.ask()).placement == best:
            seeds.append(task.seed)
            end(study, task, 0.9)
        assert task.placement == new
        assert seeds == [1, 2] == list(range(1, MAX_RUNS))
        assert study.n_done == len(bound.priors()), "a further seed is no further placement"


def test_a_placement_outside_the_top_gets_no_new_seed(tmp_path, monkeypatch):
    second = small_space().everywhere("cbam")
    _, new, _ = known_and_new(monkeypatch, second)
    with search_in(tmp_path, budget=20, top=1) as study:
        run_priors(study, {NONE: 0.9, second: 0.8})
        assert study.ask().placement == new


def test_what_runs_is_proposed_in_vain(tmp_path, monkeypatch):
    running = at(1, "se")
    bound = small_space()
    sampler = follow(monkeypatch, bound, running, running, at(2, "se"))
    with search_in(tmp_path, budget=20) as study:
        run_priors(study, {})
        assert study.ask().placement == running
        heard = len(sampler.told)
        assert study.ask().placement == at(2, "se")
        assert sampler.told[heard:] == [(TrialState.PRUNED, None)]
        assert all(row.answered_from is None for row in study.records())


def test_after_thirty_useless_proposals_an_untried_placement_is_drawn(tmp_path, monkeypatch):
    bound = small_space()
    sampler = follow(monkeypatch, bound, NONE)
    with search_in(tmp_path, bound, top=1) as study:
        run_priors(study, {NONE: 0.1})
        before, tried = sampler.proposed, {row.key for row in study.records()}
        task = study.ask()
        assert task.placement.key not in tried
        assert sampler.proposed - before == 30, "the placement that is drawn is no proposal"
        assert study.records()[-1].answered_from == 0
        end(study, task, 0.6)
        assert sampler.told[-1] == (TrialState.COMPLETE, 0.6)


def test_a_drawn_placement_keeps_the_limits(tmp_path, monkeypatch):
    most = 10_400
    bound = small_space(**LAST_STAGE, limits={"max_params": most})
    light = {placement.key for placement in bound.enumerate() if bound.cost(placement).n_parameters <= most}
    assert NONE.key in light
    assert len(light) == bound.n_placements - 1, "the limit must divide the space"
    follow(monkeypatch, bound, NONE)
    with search_in(tmp_path, bound, top=1) as study:
        while (task := study.ask()) is not None:
            end(study, task, 0.1 if task.placement == NONE else 0.5)
        assert {row.key for row in study.records()} == light
        assert study.is_finished


@pytest.mark.parametrize("draws", [10_000, 200])
def test_a_space_too_large_to_list_is_drawn_from_at_random(tmp_path, monkeypatch, draws):
    monkeypatch.setattr(sampling, "_DRAWS", draws)
    monkeypatch.setattr(sampling, "_PROPOSALS", 1)
    bound = small_space()
    assert 200 < bound.n_placements < 10_000
    follow(monkeypatch, bound, NONE)
    drawn = []
    with search_in(tmp_path, bound, top=1, budget=20) as study:
        run_priors(study, {NONE: 0.1})
        while (task := study.ask()) is not None:
            drawn.append(task.placement.key)
            end(study, task, 0.5)
        assert study.n_done == 20
    assert len(set(drawn)) == len(drawn) == 20 - len(bound.priors())


def test_an_exhausted_space_ends_the_search_once_nothing_runs(tmp_path):
    bound = small_space(**LAST_STAGE)
    with search_in(tmp_path, bound, budget=1000, top=1) as study:
        tasks = [study.ask() for _ in range(3)]
        assert study.ask() is None
        assert not study.is_finished
        end(study, tasks[0], 0.5)
        end(study, tasks[1], cause="crashed")
        assert not study.is_finished, "one trial runs, and one is to be repeated"
        end(study, tasks[2], 0.5)
        assert not study.is_finished
        again = study.ask()
        assert again.placement == tasks[1].placement
        end(study, again, 0.5)
        assert study.ask() is None
        assert study.is_finished


def test_a_crashed_trial_keeps_its_label_and_is_run_three_times_in_a_session(tmp_path):
    for _ in range(2):
        with search_in(tmp_path, small_space(**LAST_STAGE), budget=3) as study:
            crashed = []
            while (task := study.ask()) is not None:
                if task.placement == NONE:
                    crashed.append(end(study, task, cause="crashed").label)
                else:
                    end(study, task, 0.5)
            assert crashed == ["none"] * 3
            assert study.n_done == 2


def test_an_interrupted_trial_begins_first_with_its_label(tmp_path):
    with search_in(tmp_path) as study:
        end(study, study.ask(), 0.5)
        cut_off = study.ask()
    with search_in(tmp_path) as study:
        again = study.ask()
        end(study, again, 0.5)
        rows = study.records()
    assert again.placement == cut_off.placement == small_space().everywhere("se")
    assert [(row.state, row.cause, row.label) for row in rows[1:]] == [
        ("fail", "interrupted", "se everywhere"),
        ("complete", None, "se everywhere"),
    ]


def test_an_interrupted_proposal_is_run_before_the_sampler_is_asked_again(tmp_path, monkeypatch):
    sampler = follow(monkeypatch, small_space(), at(1), at(2))
    with search_in(tmp_path) as study:
        run_priors(study, {})
        assert study.ask().placement == at(1)
    with search_in(tmp_path) as study:
        assert study.ask().placement == at(1)
        assert sampler.proposed == 1


@pytest.mark.parametrize(("cause", "repeated"), [("oom", False), ("nan", False), ("error", True)])
def test_a_later_session_repeats_what_may_go_better_and_no_failure_that_would_recur(tmp_path, cause, repeated):
    with search_in(tmp_path) as study:
        end(study, study.ask(), cause=cause)
        assert study.ask().placement != NONE
    with search_in(tmp_path) as study:
        assert (study.ask().placement == NONE) is repeated


def test_a_resumed_search_tells_its_sampler_what_it_knows(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "_HISTORY", 2)
    bound, values = small_space(), [0.1, 0.2, 0.3]
    with search_in(tmp_path) as study:
        end(study, study.ask(), cause="oom")
        for value in values:
            end(study, study.ask(), value)
    sampler = follow(monkeypatch, bound, NONE)
    with search_in(tmp_path):
        assert sampler.told == [(TrialState.COMPLETE, 0.2), (TrialState.COMPLETE, 0.3)], "the newest two"


def watch(monkeypatch: pytest.MonkeyPatch) -> list[dict[int, float]]:
    """Let the scheduler keep the curves that it is asked about, and stop nothing."""
    seen: list[dict[int, float]] = []

    class Watches(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            seen.append(dict(trial.intermediate_values))
            return False

    monkeypatch.setitem(SCHEDULERS, "asha", type(SCHEDULERS["asha"])("asha", "watches.", lambda epochs: Watches()))
    return seen


def test_the_scheduler_is_asked_about_the_curve_so_far_after_each_epoch_but_the_last(tmp_path, monkeypatch):
    seen = watch(monkeypatch)
    with search_in(tmp_path, scheduler="asha", epochs=3) as study:
        task = study.ask()
        for epoch in (1, 2, 3):
            study.report(task.number, epoch, epoch / 10)
        end(study, task, 0.3)
    assert seen == [{1: 0.1}, {1: 0.1, 2: 0.2}]


def test_a_resumed_search_shows_its_scheduler_the_earlier_curves(tmp_path, monkeypatch):
    with search_in(tmp_path) as study:
        task = study.ask()
        for epoch in (1, 2):
            study.report(task.number, epoch, epoch / 10)
        end(study, task, 0.2)
    seen = watch(monkeypatch)
    with search_in(tmp_path, scheduler="asha"):
        assert seen == [{1: 0.1}, {1: 0.1, 2: 0.2}]


def test_a_resumed_search_draws_with_other_numbers_than_before(tmp_path, monkeypatch):
    sampler = follow(monkeypatch, small_space(), NONE)
    with search_in(tmp_path, seed=2**31 - 1) as study:
        end(study, study.ask(), 0.5)
    with search_in(tmp_path, seed=2**31 - 1):
        pass
    with search_in(tmp_path, seed=2**31 - 2):
        pass
    assert len(set(sampler.seeds)) == 3
    assert all(0 <= seed < 2**32 for seed in sampler.seeds), "as numpy wants them"


def test_the_ranking_is_by_the_mean_over_trained_seeds():
    def row(number: int, key: str, value: float | None, state: str = "complete", answered: int | None = None):
        return TrialRecord(number, "search", state, NONE, key, 0, 4, value=value, answered_from=answered)

    rows = (row(0, "a", 0.5), row(1, "b", 0.6), row(2, "a", 0.9), row(3, "b", 0.99, answered=1))
    rows += (row(4, "c", 0.95, "pruned"), row(5, "d", None, "running"), row(6, "e", 0.6))
    assert ranking(rows) == [("a", pytest.approx(0.7)), ("b", 0.6), ("e", 0.6)]


def test_the_sampler_hears_that_a_proposal_over_a_limit_was_not_trained(tmp_path, monkeypatch):
    whole = small_space()
    limit = whole.cost(at(1, reduction=8)).n_parameters
    bound = whole.space.bind(whole.table, max_params=limit)
    sampler = follow(monkeypatch, bound, whole.everywhere("cbam"), at(1, reduction=8))
    with search_in(tmp_path, bound, budget=len(bound.priors()) + 1) as search:
        while (task := search.ask()) is not None:
            search.finish(task.number, Outcome("complete", 0.5))
    refused = [state for state, value in sampler.told if state == TrialState.PRUNED and value is None]
    assert len(refused) == 1
