"""The arms made from found #1, the seeds that are added until the comparison is decided, and stored predictions."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from engine import small_space, work
from scripted import Files, at, follow, stages_in

from nas_attn.comparison.looks import TOTAL
from nas_attn.comparison.predictions import Predictions
from nas_attn.errors import RunError
from nas_attn.placement import NONE, Placement
from nas_attn.records import Outcome, Task
from nas_attn.study.arms import ablations, random_controls


def with_luck(gain: float, *, noise: float = 0.004):
    """Return a score in which attention gains `gain`, and every training has luck of its own."""

    def scored(task: Task) -> Outcome:
        luck = np.random.default_rng([task.seed, int(task.placement.key[:8], 16)]).normal(0, noise)
        return Outcome("complete", 0.9 + gain * (len(task.placement) > 0) + float(luck), seconds=1.0)

    return scored


def together(*parts: Placement) -> Placement:
    """Return one placement of several."""
    return Placement({site: part[site] for part in parts for site in part})


def test_controls_are_distinct_random_placements_of_the_size_of_found_1():
    bound = small_space()
    found = together(at(1), at(3))
    taken = {found.key, bound.everywhere("se").key}
    drawn = random_controls(bound, found, taken, 5, seed=3)
    assert len({placement.key for placement in drawn}) == 5
    assert {len(placement) for placement in drawn} == {2}
    assert not taken & {placement.key for placement in drawn}
    assert random_controls(bound, found, taken, 5, seed=3) == drawn
    assert random_controls(bound, found, taken, 5, seed=4) != drawn
    many = random_controls(bound, found, set(), 400, seed=0)
    sites = Counter(site for placement in many for site in placement)
    assert len(many) == 3 * 36, "the space has no more with two of three sites and six choices each"
    assert len(set(sites.values())) == 1


def test_controls_keep_the_limits():
    bound = small_space()
    cheap = max(bound.cost(at(site, reduction=8)).n_parameters for site in (1, 2, 3))
    limited = bound.space.bind(bound.table, max_params=cheap)
    drawn = random_controls(limited, at(1), set(), 50, seed=0)
    assert drawn
    assert all(limited.check(placement) is None for placement in drawn)


def test_an_ablation_removes_and_keeps_each_decision():
    bound = small_space()
    parts = [at(1), at(2, "cbam", kernel_size=7), at(3)]
    whole = together(*parts)
    made = dict(ablations(bound, whole))
    assert list(made) == [
        *(f"found #1 without denseblock{n}" for n in (1, 2, 3)),
        *(f"found #1 only denseblock{n}" for n in (1, 2, 3)),
    ]
    assert [len(placement) for placement in made.values()] == [2, 2, 2, 1, 1, 1]
    assert "denseblock2" not in made["found #1 without denseblock2"]
    assert made["found #1 only denseblock2"] == parts[1]
    assert ablations(bound, parts[0]) == [], "one decision: without it is none, alone it is found #1"
    assert len(ablations(bound, together(*parts[:2]))) == 2, "without the first is only the second"


def test_seed_i_trains_control_i_and_the_arm_has_as_many_runs_as_any_other(tmp_path):
    with stages_in(tmp_path, budget={"controls": 2, "seeds": 3}) as stages:
        tasks = work(stages, with_luck(0.0))
        controls = stages.controls()
        labels = stages.final.note("arms")
        again = {task.seed: task.placement for task in tasks if task.arm == "random"}
        assert [again[seed] for seed in stages.seeds] == [controls[0], controls[1], controls[0]]
        assert {labels[placement.key] for placement in controls} == {"random"}
        sample = next(sample for sample in stages.samples() if sample.label == "random")
        assert sorted(sample.by_seed) == list(stages.seeds)
    weights = [task for task in tasks if task.arm == "random" and "weights" in task.artifacts]
    assert not weights, "a control is no network that anybody takes away"


def test_an_ablation_is_added_to_a_finished_run_without_training_anything_twice(tmp_path, monkeypatch):
    bound = small_space()
    both = together(at(1), at(2, "cbam", kernel_size=7))
    follow(monkeypatch, bound, both)

    def scored(task: Task) -> Outcome:
        return Outcome("complete", 0.9 if task.placement == both else 0.5)

    n_priors = len(bound.priors())
    files = {"weights": Files(), "predictions": Files()}
    with stages_in(tmp_path, trials=n_priors + 1, **files) as stages:
        first = work(stages, scored)
        assert stages.winner.placement == both
    with stages_in(tmp_path, trials=n_priors + 1, budget={"ablate": True}, **files) as stages:
        added = work(stages, scored)
        assert [label for label, _ in stages.arms()][-2:] == [
            *("found #1 without denseblock1", "found #1 without denseblock2"),
        ]
    trained = [(task.stage, task.placement.key, task.seed) for task in (*first, *added)]
    assert len(trained) == len(set(trained))
    assert {task.arm for task in added} == {"found #1 without denseblock1", "found #1 without denseblock2"}
    with stages_in(tmp_path, trials=n_priors + 1, **files) as stages:
        assert stages.is_finished
        labels = set(stages.final.note("arms").values())
    assert {"found #1 without denseblock1", "found #1 without denseblock2"} < labels, "they stay in the report"


@pytest.mark.parametrize(("gain", "noise", "word", "n_seeds"), [
    (0.05, 0.002, "better", 5),
    (-0.05, 0.002, "worse", 5),
    (0.0, 0.001, "equal", 5),
    (0.004, 0.02, "undecided", 12),
])  # fmt: skip
def test_auto_adds_seeds_until_the_comparison_is_decided(tmp_path, gain, noise, word, n_seeds):
    with stages_in(tmp_path, budget={"seeds": "auto", "max_seeds": 12}) as stages:
        tasks = work(stages, with_luck(gain, noise=noise))
        assert stages.answer.headline.word == word
        assert len(stages.answer.headline.by_seed) == n_seeds
        looks = stages.looks[stages.winner.placement.key]
        assert [look.n_seeds for look in looks] == [5, 10, 12][: len(looks)]
        assert sum(look.spent for look in looks) <= TOTAL
        found = stages.winner.placement
    retrained = Counter(task.placement.key for task in tasks if task.stage == "retrain")
    assert retrained[found.key] == retrained[NONE.key] == n_seeds


def test_a_run_with_auto_goes_on_after_an_interruption_as_if_there_had_been_none(tmp_path):
    settings = {"budget": {"seeds": "auto", "max_seeds": 10}}
    scored = with_luck(0.004, noise=0.02)
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    with stages_in(tmp_path / "whole", **settings) as stages:
        tasks = work(stages, scored)
        whole = stages.looks
    files = {"weights": Files(), "predictions": Files()}
    last = stages.first_seeds(8)[-1]
    n_before = next(n for n, task in enumerate(tasks) if task.stage == "retrain" and task.seed == last)
    with stages_in(tmp_path / "cut", **settings, **files) as stages:
        work(stages, scored, stop_after=n_before)
    with stages_in(tmp_path / "cut", **settings, **files) as stages:
        work(stages, scored)
        assert stages.looks == whole


def test_more_seeds_later_spend_what_the_first_look_left(tmp_path):
    files = {"weights": Files(), "predictions": Files()}
    for seeds in (5, 5, 10):
        with stages_in(tmp_path, budget={"seeds": seeds}, **files) as stages:
            work(stages, with_luck(0.001))
            looks = stages.looks[stages.winner.placement.key]
    assert [(look.n_seeds, round(look.spent, 4)) for look in looks] == [(5, 0.04), (10, 0.008)]


def test_two_seeds_decide_nothing_and_spend_nothing(tmp_path):
    with stages_in(tmp_path) as stages:
        work(stages, with_luck(0.05))
        assert stages.answer.headline.word == "not known"
        assert (stages.answer.state, stages.looks) == ("not known", {})


def test_predictions_make_the_comparison_one_over_images(tmp_path):
    hard = np.random.default_rng(0).normal(size=800)

    def scored(task: Task) -> Outcome:
        own = np.random.default_rng([task.seed, int(task.placement.key[:8], 16)])
        right = (hard + own.normal(size=800) < 1.8 + 0.1 * (len(task.placement) > 0)).astype(np.int32)
        content = Predictions(np.ones(800, np.int32), right).to_bytes()
        wanted = dict.fromkeys(task.artifacts, content)
        return Outcome("complete", float(right.mean()), artifacts=wanted)

    files = {"weights": Files(), "predictions": Files()}
    with stages_in(tmp_path, budget={"seeds": 4}, **files) as stages:
        work(stages, scored)
        headline = stages.answer.headline
    assert headline.crossed is not None
    assert (headline.crossed.n_seeds, headline.crossed.n_images) == (4, 800)
    assert headline.crossed.mean == pytest.approx(headline.summary.mean)
    with stages_in(tmp_path, budget={"seeds": 4}, **files) as stages:
        assert stages.answer.headline == headline, "a resumed run reads them back"


PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.1, 0.1, 0.8]])


def test_predictions_are_stored_and_read_back_in_both_forms():
    whole = Predictions.of(PROBABILITIES, np.array([0, 2, 2]))
    assert whole.predicted.tolist() == [0, 1, 2]
    assert whole.of_target.tolist() == pytest.approx([0.7, 0.3, 0.8], abs=1e-3)
    for found in (whole, whole.short()):
        read = Predictions.from_bytes(found.to_bytes(), "x.npz")
        for name in ("targets", "predicted", "probabilities", "of_predicted", "of_target"):
            stored, back = getattr(found, name), getattr(read, name)
            assert (stored is None and back is None) or np.array_equal(stored, back), name
        assert found.to_bytes() == read.to_bytes()
    assert whole.short().probabilities is None
    labels = Predictions.of(PROBABILITIES, np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1]]))
    assert (labels.predicted, labels.short()) == (None, labels)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:100] + b"\0\1\2" + b[103:], lambda b: b""])
def test_damaged_predictions_are_refused_by_name(damage):
    content = Predictions.of(PROBABILITIES, np.array([0, 2, 2])).to_bytes()
    with pytest.raises(RunError, match=r"^x\.npz must be as the search wrote it, but is truncated or altered"):
        Predictions.from_bytes(damage(content), "x.npz")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([0, 1], r"must be \(N, K\) and targets \(N,\) or \(N, K\), but got \(3, 3\) and \(2,\)"),
        ([0, 1, 3], "must lie in 0 to 2, but lie in 0 to 3"),
    ],
)
def test_predictions_of_another_shape_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        Predictions.of(PROBABILITIES, np.array(targets))


def test_a_custom_training_may_record_its_predictions():
    from nas_attn.training.trial import Run

    run = Run(0, 1, "cpu", "retrain", lambda epoch, value: None)
    run.record_predictions(PROBABILITIES, [0, 2, 2])
    assert len(run.kept[0]) == 3
    assert replace(run).kept == run.kept


def test_an_arm_whose_first_seed_failed_exports_the_next_one(tmp_path):
    weights = Files()

    def scored(task: Task) -> Outcome:
        if task.stage == "retrain" and task.placement == NONE and task.seed == stages.seeds[0]:
            return Outcome("fail", cause="oom", reason="Out of memory.")
        return with_luck(0.0)(task)

    with stages_in(tmp_path, weights=weights, budget={"seeds": 3}) as stages:
        tasks = work(stages, scored)
        seed = stages.seeds[1]
        assert stages.weights_seed(NONE) == seed
    assert (NONE.key, seed, 2) in weights
    again = [task for task in tasks if task.placement == NONE and task.seed == seed]
    assert [task.artifacts for task in again] == [("predictions",), ("predictions", "weights")]
