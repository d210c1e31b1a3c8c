"""The sampler over placements: Optuna's own suite, and what it must find that a random search does not."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase
from optuna.trial import TrialState

from nas_attn import SearchSpace
from nas_attn.backbones.site_table import site_table
from nas_attn.space.bound import BoundSpace
from nas_attn.study.samplers.placement_sampler import PlacementSampler
from nas_attn.study.samplers.process import INACTIVE, Encoding, Process

SITES = {f"site{index}": tuple("abcd") for index in range(5)}


class TestSuite(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Optuna's suite for samplers."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: PlacementSampler(seed=0, n_startup=2)


def densenet_space() -> BoundSpace:
    space = SearchSpace.load("densenet_attn")
    return space.bind(site_table(space.backbone, num_classes=10, in_channels=1, image_size=8))


def value_of(params: dict[str, str], rng: np.random.Generator) -> float:
    """Return a value with a best choice per site, one pair that interacts, and noise."""
    gains = [float(params[name] == "b") for name in SITES]
    both = params["site0"] == "b" and params["site1"] == "c"
    return sum(gains) + 2.0 * both + rng.normal(0, 0.3)


def searched(sampler: BaseSampler, seed: int, n_trials: int = 40) -> optuna.Study:
    rng = np.random.default_rng(seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = {name: CategoricalDistribution(values) for name, values in SITES.items()}
    for _ in range(n_trials):
        trial = study.ask(distributions)
        study.tell(trial, value_of(trial.params, rng))
    return study


def best_of(study: optuna.Study) -> float:
    return value_of(study.best_params, np.random.default_rng(0)) - np.random.default_rng(0).normal(0, 0.3)


def test_finds_better_points_than_random_draws():
    gains = [
        best_of(searched(PlacementSampler(seed=seed), seed))
        - best_of(searched(optuna.samplers.RandomSampler(seed), seed))
        for seed in range(8)
    ]
    assert np.mean(gains) > 2 * np.std(gains) / np.sqrt(len(gains)) > 0


def test_same_seed_same_points():
    first, second = (searched(PlacementSampler(seed=3), 3, 16) for _ in range(2))
    assert [trial.params for trial in first.trials] == [trial.params for trial in second.trials]


def test_running_trials_get_different_points():
    study = searched(PlacementSampler(seed=1), 1, 12)
    distributions = {name: CategoricalDistribution(values) for name, values in SITES.items()}
    running = [tuple(study.ask(distributions).params.items()) for _ in range(8)]
    assert len(set(running)) == 8


def test_no_point_is_proposed_twice_while_others_are_left():
    study = searched(PlacementSampler(seed=2, n_startup=4), 2, 60)
    points = [tuple(trial.params.items()) for trial in study.trials[4:]]
    assert len(set(points)) >= 0.95 * len(points)  # random points before may agree with each other


def test_stopped_trials_rank_last():
    """Values that were never measured to their end keep the process away from their neighbours."""
    distributions = {name: CategoricalDistribution(("a", "b")) for name in ("x", "y", "z")}
    study = optuna.create_study(direction="maximize", sampler=PlacementSampler(seed=0, n_startup=2))
    for x, y, z, value in (("a", "a", "a", 1.0), ("a", "b", "a", 1.1), ("a", "a", "b", None), ("a", "b", "b", None)):
        study.enqueue_trial({"x": x, "y": y, "z": z})
        trial = study.ask(distributions)
        if value is None:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, value)
    assert study.ask(distributions).params["z"] == "a"


def test_parameters_without_effect_make_no_new_point():
    choices = {"kind": ("none", "se"), "se.reduction": (4, 8, 16)}
    encoding = Encoding(choices, {"se.reduction": ("kind", frozenset({"se"}))})
    points = [{"kind": "none", "se.reduction": 8}, {"kind": "se", "se.reduction": 8}]
    assert encoding.codes([encoding.row(point) for point in points]).tolist() == [[0, INACTIVE], [1, 1]]
    features = encoding.features(np.array([(0, INACTIVE), (1, 0), (1, 1), (1, 2)]))
    distances = encoding.parts(features)
    assert distances[0].tolist()[1] == [1.0, 0.0, 0.0, 0.0]
    assert distances[1][1:, 1:].tolist() == [[0.0, 0.5, 1.0], [0.5, 0.0, 0.5], [1.0, 0.5, 0.0]]


def test_counts_tell_how_many_parameters_have_a_value():
    """Sites that share some of their attentions; an option that may have no effect and an own value count nothing."""
    choices = {"a": ("none", "se"), "b": ("se", "none", "eca"), "c": ("none", "se"), "a.se.reduction": (4, 8)}
    encoding = Encoding(choices, {"a.se.reduction": ("a", frozenset({"se"}))})
    assert encoding.n_weights == 4 + 2, "of `none` and of `se`"
    points = encoding.active(np.array([(0, 1, 0, 0), (1, 1, 0, 0), (0, 1, 1, 1), (1, 0, 1, 0), (0, 2, 0, 0)]))
    none, se = encoding.parts(encoding.features(points))[4:]
    assert none[0].tolist() == [0.0, 0.5, 0.5, 1.5, 0.5]
    assert se[0].tolist() == [0.0, 0.5, 0.5, 1.5, 0.0]
    assert (none[1, 2], se[1, 2]) == (0.0, 0.0), "the same attention at another site"


def test_what_an_attention_does_at_one_site_is_expected_at_the_others():
    """Each parameter with "b" costs 1; of points with "b" at a site where it was never tried, the process knows it."""
    rng = np.random.default_rng(2)
    encoding = Encoding(SITES, {})
    codes = encoding.random(40, rng)
    codes[codes[:, 4] == 1, 4] = 0
    values = -(codes == 1).sum(axis=1) + rng.normal(0, 0.1, 40)
    posterior = Process.prior(encoding).fitted(codes, values).conditioned(codes, values)
    with_b, without = posterior.predict(np.array([[0, 2, 3, 0, 1], [0, 2, 3, 0, 2]]))[0]
    assert without - with_b > 0.5


def test_gradient_of_the_fit_is_that_of_its_loss():
    from scipy.optimize import check_grad

    from nas_attn.study.samplers.process import _negative_log_posterior

    rng = np.random.default_rng(0)
    encoding = Encoding(SITES, {})
    parts = encoding.parts(encoding.features(encoding.random(12, rng)))
    size = encoding.n_weights + 2
    values, mean, spreads = rng.normal(size=12), np.zeros(size), np.ones(size)
    for point in rng.normal(size=(3, size)):
        error = check_grad(
            lambda x: _negative_log_posterior(x, parts, values, mean, spreads)[0],
            lambda x: _negative_log_posterior(x, parts, values, mean, spreads)[1],
            point,
        )
        assert error < 1e-4


def test_process_recovers_which_parameter_matters():
    rng = np.random.default_rng(1)
    encoding = Encoding(SITES, {})
    codes = encoding.random(80, rng)
    values = np.where(codes[:, 2] == 1, 1.0, -1.0) + rng.normal(0, 0.1, 80)
    process = Process.prior(encoding).fitted(codes, values)
    assert int(np.argmax(process.weights)) == 2
    assert process.noise < 0.1
    mean, deviation = process.conditioned(codes, values).predict(np.array([[0, 0, 1, 0, 0], [0, 0, 2, 0, 0]]))
    assert mean[0] > 0.8 > -0.8 > mean[1]
    assert (deviation < 0.4).all()


def test_several_objectives_find_the_front():
    """Each "b" gains more the later its site, and costs 1, as each "d" does: both ends of the front are found."""
    distributions = {name: CategoricalDistribution(values) for name, values in SITES.items()}
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=PlacementSampler(seed=0))
    for _ in range(40):
        trial = study.ask(distributions)
        gain = sum(1 + index for index, value in enumerate(trial.params.values()) if value == "b")
        study.tell(trial, [float(gain), float(sum(value in "bd" for value in trial.params.values()))])
    front = {tuple(trial.values) for trial in study.best_trials}
    assert (0.0, 0.0) in front
    assert max(gain for gain, _ in front) >= 14, "one random search of seven finds so much"


@pytest.mark.parametrize("n_startup", [0, -1])
def test_wrong_arguments_are_refused(n_startup):
    with pytest.raises(ValueError, match=rf"n_startup >= 1 must hold, but got {n_startup}\."):
        PlacementSampler(n_startup=n_startup)


def test_conditions_of_a_space_name_every_parameter_without_effect():
    """Changing a parameter whose condition fails never changes the placement; changing another one may."""
    bound = densenet_space()
    rng = random.Random(0)
    draw = {name: rng.choice(values) for name, values in bound.choices.items()}
    n_checked = 0
    for _ in range(200):
        name = rng.choice(list(bound.conditions))
        parent, allowed = bound.conditions[name]
        other = {**draw, name: rng.choice(bound.choices[name])}
        if draw[parent] not in allowed:
            n_checked += 1
            assert bound.placement(other).key == bound.placement(draw).key
        draw = {name: rng.choice(values) for name, values in bound.choices.items()}
    assert n_checked > 50
    assert {name for name in bound.choices if not name.endswith(".attention")} == set(bound.conditions)


def test_points_of_a_space_are_one_per_placement():
    bound = densenet_space()
    encoding = Encoding(bound.choices, bound.conditions)
    rng = random.Random(1)
    for _ in range(100):
        params = {name: rng.choice(values) for name, values in bound.choices.items()}
        same = encoding.params(encoding.codes([encoding.row(params)])[0].tolist())
        assert bound.placement(same).key == bound.placement(params).key
        assert np.array_equal(*encoding.codes([encoding.row(same), encoding.row(params)]))
