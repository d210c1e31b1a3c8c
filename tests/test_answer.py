"""The answer: which arm is recommended by the rule, what a look may spend, and which arms more seeds could decide."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from nas_attn.comparison.answer import Sample, judge, names_in, sample_of, take_look
from nas_attn.comparison.looks import TOTAL, Look, at_once, next_look
from nas_attn.comparison.predictions import Predictions

NOISE = {
    "none": (0.002, -0.001, 0.0005, -0.0015, 0.0),
    "found": (-0.001, 0.0, 0.002, 0.0005, -0.0015),
    "se": (0.0005, 0.002, -0.0015, 0.0, -0.001),
}


def arm(label: str, mean: float, *, noise: float = 1.0, n: int = 5, barred: bool = False) -> Sample:
    """Return an arm of values alone: a mean and the noise of its seeds, another one for each label."""
    own = NOISE.get(label.split(" ")[0], NOISE["se"])
    values = {seed: mean + noise * own[seed] for seed in range(n)}
    return Sample(label, values, {}, barred)


def look(n_seeds: int = 5) -> Look:
    """Return the first look of a run."""
    return next_look([], n_seeds, at_once([]))


@pytest.mark.parametrize(
    ("found", "everywhere", "state", "recommended"),
    [
        (0.97, 0.94, "arm", "found #1"),
        (0.97, 0.99, "arm", "se everywhere"),
        (0.97, 0.9701, "arm", "found #1"),
        (0.93, 0.94, "none", "none"),
        (0.95, 0.97, "arm", "se everywhere"),
        (0.9501, 0.9499, "none", "none"),
    ],
    ids=["found", "everywhere beats found", "a tie of both", "worse", "everywhere alone", "equal"],
)
def test_the_rule(found, everywhere, state, recommended):
    samples = [arm("found #1", found), arm("none", 0.95), arm("se everywhere", everywhere)]
    answer = judge(samples, [look()], 0.5)
    assert (answer.state, answer.recommended) == (state, recommended)
    assert answer.is_decided
    assert answer.to_dict()["recommended"] == recommended


def test_an_exact_tie_recommends_no_attention():
    tie = arm("none", 0.95)
    answer = judge([replace(tie, label="found #1"), tie], [look()], 0.5)
    assert (answer.state, answer.recommended) == ("not known", "none")
    assert answer.headline is not None
    assert "the noise" in answer.headline.why


def test_what_cannot_be_told_is_undecided_and_none_is_the_simpler():
    samples = [arm("found #1", 0.955, noise=4), arm("none", 0.95, noise=4), arm("se everywhere", 0.952, noise=4)]
    answer = judge(samples, [look()], 0.5)
    assert (answer.state, answer.recommended, answer.is_decided) == ("undecided", "none", False)
    assert answer.undecided == {"found #1", "none", "se everywhere"}


def test_an_arm_over_a_limit_is_never_recommended_nor_given_more_seeds():
    samples = [arm("found #1", 0.97), arm("none", 0.95), arm("gam everywhere", 0.99, barred=True)]
    assert judge(samples, [look()], 0.5).recommended == "found #1"
    noisy = [arm("found #1", 0.955, noise=4), arm("none", 0.95, noise=4)]
    assert (
        "gam everywhere"
        not in judge([*noisy, arm("gam everywhere", 0.952, noise=4, barred=True)], [look()], 0.5).undecided
    )


def test_without_a_look_nothing_is_decided():
    answer = judge([arm("found #1", 0.97), arm("none", 0.95), arm("se everywhere", 0.99)], [], 0.5)
    assert (answer.state, answer.recommended) == ("not known", "none")
    assert {pair.word for pair in (answer.headline, *answer.others) if pair} == {"not known"}


def test_without_a_placement_or_a_value_there_is_no_headline():
    assert judge([arm("none", 0.95)], [look()], 0.5).state == "none"
    assert judge([], [], 0.5).state == "none"
    answer = judge([arm("found #1", 0.97), replace(arm("none", 0.9), by_seed={})], [look()], 0.5)
    assert (answer.state, answer.headline) == ("not known", None)


def test_an_ablation_is_compared_with_found_1_alone():
    samples = [arm("found #1", 0.97), arm("none", 0.95), arm("found #1 without a", 0.96), arm("random", 0.95)]
    pairs = {(pair.arm, pair.baseline) for pair in judge(samples, [look()], 0.5).others}
    assert pairs == {("random", "none"), ("found #1", "random"), ("found #1", "found #1 without a")}


def test_arms_are_found_by_any_of_their_names():
    answer = judge([arm("found #1 = se everywhere", 0.97), arm("none", 0.95)], [look()], 0.5)
    assert answer.between("se everywhere", "none") is answer.headline
    assert answer.between("found #1", "none") is answer.headline
    assert answer.between("none", "found #1") is None
    assert names_in(answer.recommended) == ("found #1", "se everywhere")


def test_the_headline_uses_the_seeds_of_its_look():
    answer = judge([arm("found #1", 0.97), arm("none", 0.95)], [look(3)], 0.5)
    assert answer.headline is not None
    assert sorted(answer.headline.by_seed) == [0, 1, 2]
    assert answer.headline.confidence == pytest.approx(0.96)


@pytest.mark.parametrize("most", [None, 20])
def test_looks_never_spend_more_than_the_error(most):
    looks: dict[str, tuple[Look, ...]] = {}
    for key, sizes in (("a", (5, 10, 20)), ("b", (5, 10, 20, 25))):
        for n_seeds in sizes:
            looks[key] = (*looks.get(key, ()), take_look(looks, key, n_seeds, most))
    spent = [one.spent for taken in looks.values() for one in taken]
    assert math.fsum(spent) <= TOTAL
    assert all(one > 0 for one in spent), "a later look has a level of its own, however small"
    assert spent[0] == pytest.approx(0.04 if most is None else 0.012)


def test_a_sample_has_images_only_if_every_seed_has_predictions():
    said = Predictions.of(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]))
    assert sample_of("a", {1: 0.5}, {1: said}).images[1].tolist() == [1.0, 0.0]
    assert sample_of("a", {1: 0.5, 2: 0.5}, {1: said}).images == {}
    labels = Predictions.of(np.array([[0.9], [0.2], [0.1]]), np.array([[1], [0], [1]]))
    assert sample_of("a", {1: 0.5}, {1: labels}).images[1].mean() == pytest.approx(0.5)


def test_what_a_look_has_decided_stays_decided():
    values = {seed: 0.97 + NOISE["found"][seed % 5] for seed in range(5)} | dict.fromkeys(range(5, 10), 0.90)
    found = Sample("found #1", {seed: value + 0.0001 * seed for seed, value in values.items()}, {})
    none = Sample("none", {seed: 0.95 + NOISE["none"][seed % 5] for seed in range(10)}, {})
    first = look()
    second = next_look([first], 10, at_once([first]))
    answer = judge([found, none], [first, second], 0.5)
    assert answer.headline is not None
    assert (answer.headline.word, answer.headline.why) == ("better", "decided with 5 seeds")
    assert len(answer.headline.by_seed) == 10, "the numbers are those of all seeds"
    assert judge([found, none], [next_look([], 10, 0.01)], 0.5).headline.word == "undecided"
