"""`--control-search`: a random search of the same cost beside the search, and its best placement as an arm."""

from __future__ import annotations

import pytest
from engine import small_space, work
from runs import SETTINGS, tiny_space
from scripted import Files, by_stage, constant, stages_in

import nas_attn
from nas_attn.cli.dashboard_studies import copy_run
from nas_attn.records import OF_CONTROL, Outcome, Task
from nas_attn.report.tables import leader
from nas_attn.study.control import CONTROL_OFFSET

BESIDE = {"control_search": "random"}


def depends_on_the_placement(task: Task) -> Outcome:
    """Return a value that a placement has under every seed: more sites are better, and a little by its options."""
    return Outcome("complete", 0.5 + 0.1 * len(task.placement) + int(task.placement.key[:4], 16) / 1e7)


def test_it_has_as_many_trials_with_seeds_of_its_own_and_no_priors(tmp_path):
    with stages_in(tmp_path, seed=7, budget=BESIDE) as stages:
        tasks = work(stages, depends_on_the_placement)
        assert stages.is_finished
        assert stages.control.n_done == stages.search.n_done == 6
        labels = [row.label for row in stages.control.records()]
    control = by_stage(tasks, "control")
    assert {task.seed for task in control} <= {7 + CONTROL_OFFSET + index for index in range(3)}
    assert len({task.placement.key for task in control}) == 6
    assert labels == [None] * len(labels), "what is tried first in every search would be no random search"


def test_its_candidates_are_confirmed_beside_those_of_the_search_and_the_best_is_an_arm(tmp_path):
    with stages_in(tmp_path, budget=BESIDE) as stages:
        tasks = work(stages, depends_on_the_placement)
        found = max(by_stage(tasks, "control"), key=lambda task: depends_on_the_placement(task).value).placement
        searched = max(by_stage(tasks, "search"), key=lambda task: depends_on_the_placement(task).value).placement
        assert (stages.winner.placement, stages.winner.control) == (searched, found)
        arm = next(label for label, placement in stages.arms() if placement == found)
        assert "random search #1" in arm.split(" = ")
        sample = next(sample for sample in stages.samples() if sample.label == arm)
        assert sorted(sample.by_seed) == list(stages.seeds)
    order = list(dict.fromkeys(task.stage for task in tasks))
    assert order == ["search", "control", "confirm", "retrain"]
    confirmed = [(task.placement.key, task.seed) for task in by_stage(tasks, "confirm")]
    assert len(confirmed) == len(set(confirmed)), "what both searches found is confirmed once"


def test_it_never_becomes_found_1_however_good_it_is(tmp_path):
    def scored(task: Task) -> Outcome:
        return Outcome("complete", 0.9 if task.stage == "control" or task.arm == OF_CONTROL else 0.5)

    with stages_in(tmp_path, trials=2, budget=BESIDE) as stages:
        tasks = work(stages, scored)
        assert stages.winner.placement in {task.placement for task in by_stage(tasks, "search")}
        assert stages.search.best.value == 0.5


def test_it_is_added_to_a_finished_run_without_training_anything_twice(tmp_path):
    files = {"weights": Files(), "predictions": Files()}
    with stages_in(tmp_path, **files) as stages:
        first = work(stages, depends_on_the_placement)
        found = stages.winner.placement
    with stages_in(tmp_path, budget=BESIDE, **files) as stages:
        assert not stages.is_finished
        added = work(stages, depends_on_the_placement)
        assert stages.winner.placement == found
    trained = [(task.stage, task.placement.key, task.seed) for task in (*first, *added)]
    assert len(trained) == len(set(trained))
    assert not by_stage(added, "search")
    with stages_in(tmp_path, **files) as stages:
        assert stages.is_finished, "without the option nothing more is trained, and the arm stays in the ledger"
        assert any("random search #1" in label for label in stages.final.note("arms").values())


def test_an_interrupted_one_goes_on_where_it_was(tmp_path):
    files = {"weights": Files(), "predictions": Files()}
    done: list[Task] = []
    with stages_in(tmp_path, budget=BESIDE, **files) as stages:
        while (task := stages.ask()).stage != "control" or len(by_stage(done, "control")) < 3:
            stages.finish(task, depends_on_the_placement(task))
            done.append(task)
    with stages_in(tmp_path, budget=BESIDE, **files) as stages:
        left = work(stages, depends_on_the_placement)
        assert stages.control.n_done == 6
    assert task.placement in {again.placement for again in by_stage(left, "control")}, "the one that was cut off"
    assert len(by_stage(done, "control")) == 3
    assert len(by_stage(left, "control")) == 3


def test_a_space_that_is_exhausted_ends_both(tmp_path):
    sites = [{"match": ["denseblock3"], "attentions": ["se"]}]
    bound = small_space(sites=sites, attentions={"se": {"reduction": [4, 8]}})
    with stages_in(tmp_path, bound, trials=50, budget=BESIDE) as stages:
        work(stages, constant())
        assert (stages.is_finished, stages.search.n_done, stages.control.n_done) == (True, 3, 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    settings = {**SETTINGS, "trials": 3, "epochs": 1, "seeds": 1, "controls": 0, "executor": "local"}
    return nas_attn.search(tiny_space(folder), out=folder / "run", control_search="random", **settings)


def test_report_tables_and_dashboard_show_it(run):
    assert len({row.key for row in run.control}) == 3
    assert all(row.stage == "control" for row in run.control)
    page = (run.folder / "report.html").read_text()
    assert "A random search of the same cost ran beside it (3 trials, dashed line)" in page.replace(
        '<span class="unbroken">', ""
    ).replace("</span>", "")
    assert "random search #1" in (run.folder / "arms.csv").read_text()
    assert (run.folder / "trials.csv").read_text().count("\ncontrol,") == len(run.control)
    studies = copy_run(run.folder)
    names = [study.study_name for study in studies.storage.get_all_studies()]
    assert names == ["search", "confirm (validation)", "retrain (test)", "random search"]
    assert leader(run).placement in {row.placement for row in run.search}
