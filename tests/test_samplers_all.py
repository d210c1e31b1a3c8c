"""Every sampler and scheduler on a small space, our samplers in Optuna's own suite, and their options."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from engine import OpenRun, score, small_space, work
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase
from scripted import by_stage, search_in

from nas_attn.config import Engine
from nas_attn.errors import ConfigError
from nas_attn.records import Outcome
from nas_attn.run.proposing import check_engine
from nas_attn.space.bound import BoundSpace
from nas_attn.study.samplers.catalog import SAMPLERS, SCHEDULERS
from nas_attn.study.samplers.evolution import EvolutionSampler, has_effect
from nas_attn.study.samplers.named import find_sampler, make_sampler, make_scheduler, refuse_large
from nas_attn.study.samplers.options import known_options
from nas_attn.study.samplers.quasi_random import QuasiRandomSampler


def tiny_space() -> BoundSpace:
    """Return one choice of SE or none at each of three sites: 8 placements."""
    return small_space(sites=[{"match": ["denseblock*"], "attentions": ["se"]}], attentions={"se": {"reduction": [4]}})


class Failing(RandomSampler):
    """Raises at the third proposal."""

    asked = 0

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """Count, and raise."""
        self.asked += 1
        if self.asked > 7:
            raise ZeroDivisionError("no more \N{SNOWMAN}")


class NoSampler:
    """Is no sampler."""


class TestEvolution(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Optuna's suite for samplers."""

    @pytest.fixture
    def sampler(self):
        return lambda: EvolutionSampler(seed=0, population_size=4, tournament_size=2)


class TestQuasiRandom(BasicSamplerTestCase):
    """Optuna's suite for samplers."""

    @pytest.fixture
    def sampler(self):
        return lambda: QuasiRandomSampler(seed=0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_spends_its_budget_on_distinct_placements(name: str, tmp_path: Path) -> None:
    with OpenRun(tmp_path, tiny_space(), trials=7, sampler=name, seeds=1, top=1) as stages:
        tasks = by_stage(work(stages), "search")
    assert len({task.placement.key for task in tasks}) == 7


def test_brute_trains_every_placement_once_and_ends(tmp_path: Path) -> None:
    bound = tiny_space()
    with search_in(tmp_path, bound, budget=100, sampler="brute") as search:
        keys = []
        while (task := search.ask()) is not None and len(keys) < 5:
            keys.append(task.placement.key)
            search.finish(task.number, score(task))
    with search_in(tmp_path, bound, budget=100, sampler="brute") as search:
        assert search.n_open == 3, "the sixth was interrupted, and begins again"
        while (task := search.ask()) is not None:
            keys.append(task.placement.key)
            search.finish(task.number, score(task))
        assert search.is_finished
    assert sorted(keys) == sorted(placement.key for placement in bound.enumerate())


def test_a_space_too_large_for_a_sampler_is_refused_with_its_size() -> None:
    refuse_large("brute", n_placements=100_000, n_parameters=10**6)
    refuse_large("tpe", n_placements=10**9, n_parameters=10**6)
    refuse_large("placement", n_placements=10**9, n_parameters=1_000)
    refuse_large("own_module:Sampler", n_placements=10**9, n_parameters=10**6)
    with pytest.raises(ConfigError, match=r"at most 100,000 placements, but this one has 100,001: choose"):
        refuse_large("brute", n_placements=100_001, n_parameters=1)
    with pytest.raises(ConfigError, match=r"'--sampler placement' needs .* at most 1,000 parameters, but .* 1,001:"):
        refuse_large("placement", n_placements=1, n_parameters=1_001)


def test_evolution_finds_more_than_random_where_sites_add_up() -> None:
    choices = {f"site{index}.attention": ("none", "se", "cbam", "eca") for index in range(8)}
    space = {name: CategoricalDistribution(values) for name, values in choices.items()}

    def best(sampler: BaseSampler) -> int:
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for _ in range(100):
            trial = study.ask(space)
            study.tell(trial, sum(value == "cbam" for value in trial.params.values()))
        return int(study.best_value)

    evolved = [best(EvolutionSampler(seed=seed)) for seed in range(5)]
    drawn = [best(RandomSampler(seed=seed)) for seed in range(5)]
    assert sum(evolved) >= sum(drawn) + 5, (evolved, drawn)


def test_evolution_mutates_what_has_an_effect_and_repeats_nothing() -> None:
    names = {"a.attention": ("none", "se", "cbam"), "a.se.reduction": (4, 8), "a.cbam.reduction": (4, 8, 16)}
    space = {name: CategoricalDistribution(values) for name, values in names.items()}
    study = optuna.create_study(
        direction="maximize", sampler=EvolutionSampler(seed=1, population_size=2, tournament_size=1)
    )
    seen = []
    for number in range(6):
        trial = study.ask(space)
        seen.append(
            tuple(sorted((name, value) for name, value in trial.params.items() if has_effect(name, trial.params)))
        )
        study.tell(trial, number)
    assert len(set(seen[2:])) == 4, "one without attention, two with SE, three with CBAM"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"population_size": 1}, "population_size >= 2 must hold, but got 1"),
        ({"tournament_size": 99}, "1 <= tournament_size <= population_size must hold, but got 99 and 20"),
        ({"mutation_prob": 2.0}, "0 <= mutation_prob <= 1 must hold, but got 2"),
    ],
)
def test_evolution_refuses_options_out_of_range(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        EvolutionSampler(**arguments)


def test_quasi_random_placements_are_spread_evenly() -> None:
    study = optuna.create_study(sampler=QuasiRandomSampler(seed=3))
    space = {"a": CategoricalDistribution(list(range(4))), "b": CategoricalDistribution(list(range(4)))}
    for _ in range(33):
        study.tell(study.ask(space), 0.0)
    pairs = [(row.params["a"], row.params["b"]) for row in study.trials[1:]]
    assert all(pairs.count(pair) == 2 for pair in set(pairs))
    assert len(set(pairs)) == 16


@pytest.mark.parametrize("name", SCHEDULERS)
def test_under_every_scheduler_complete_means_the_end_of_the_schedule(name: str, tmp_path: Path) -> None:
    with search_in(tmp_path, budget=30, epochs=9, sampler="random", scheduler=name) as search:
        for index in range(30):
            task = search.ask()
            assert task is not None
            outcome = Outcome("complete", 0.5, seconds=1.0)
            for epoch in range(1, 10):
                if search.report(task.number, epoch, 0.5 + 0.01 * epoch * (index % 5)):
                    outcome = Outcome("pruned", seconds=1.0)
                    break
            search.finish(task.number, outcome)
        rows = [row for row in search.records() if row.answered_from is None]
    assert {row.epochs for row in rows} == {9}
    assert all(max(row.curve) == 9 for row in rows if row.state == "complete")
    assert all(max(row.curve) < 9 for row in rows if row.state == "pruned")
    assert any(row.state == "pruned" for row in rows) == (name != "none")


def test_options_are_typed_and_reach_the_sampler() -> None:
    sampler = make_sampler("tpe", 0, ("n_startup_trials=3", "multivariate=false", "n_ei_candidates=7"))
    assert vars(sampler)["_n_startup_trials"] == 3
    assert vars(sampler)["_multivariate"] is False
    assert vars(sampler)["_n_ei_candidates"] == 7
    pruner = make_scheduler("hyperband", 9, ("reduction_factor=2",))
    assert vars(pruner)["_reduction_factor"] == 2
    assert vars(pruner)["_max_resource"] == 9
    assert known_options(QuasiRandomSampler) == {"qmc_type": ("=sobol", "=halton"), "scramble": ("bool",)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler_option": ("n_startups=3",)}, "in sampler 'placement': did you mean 'n_startup'"),
        (
            {"sampler": "tpe", "sampler_option": ("n_startup_trails=3",)},
            "in sampler 'tpe': did you mean 'n_startup_trials'",
        ),
        (
            {"sampler": "tpe", "sampler_option": ("n_startup_trials=many",)},
            "of sampler 'tpe' must be a whole number, but got 'many'",
        ),
        ({"sampler_option": ("n_startup_trials",)}, "'--sampler-option' must be KEY=VALUE, but got 'n_startup_trials'"),
        ({"sampler_option": ("seed=3",)}, "Unknown option 'seed'"),
        ({"sampler": "random", "sampler_option": ("x=3",)}, "Unknown option 'x' in sampler 'random'. Known: none"),
        ({"sampler": "qmc", "sampler_option": ("qmc_type=halten",)}, "must be sobol or halton, but got 'halten'"),
        ({"sampler": "evolution", "sampler_option": ("population_size=1",)}, "cannot be made: ValueError: population"),
        ({"scheduler": "asha", "scheduler_option": ("factor=3",)}, "Unknown option 'factor' in scheduler 'asha'"),
        ({"sampler": "evolutoin"}, "Unknown sampler 'evolutoin': did you mean 'evolution'"),
        ({"sampler": "no_such_module:Sampler"}, "names the module 'no_such_module', which must be importable"),
        ({"sampler": "optuna.samplers:TPESamplr"}, "in module 'optuna.samplers': did you mean 'TPESampler'"),
        ({"sampler": "test_samplers_all:NoSampler"}, "must be a subclass of optuna.samplers.BaseSampler"),
        ({"sampler": ":Sampler"}, "must be a name, MODULE:CLASS or hub:PACKAGE"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_sentence(settings, message) -> None:
    with pytest.raises(ConfigError) as refused:
        check_engine(Engine(**settings), 4)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_class_by_its_import_path_gets_seed_and_options() -> None:
    sampler = make_sampler("optuna.samplers:TPESampler", 5, ("n_startup_trials=4",))
    assert vars(sampler)["_n_startup_trials"] == 4
    assert find_sampler("optuna.samplers:RandomSampler").name == "optuna.samplers:RandomSampler"


def test_optunahub_without_its_package_or_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optunahub", None)
    with pytest.raises(ConfigError, match=r"needs the package optunahub: install it by pip install 'nas_attn\[hub\]'"):
        check_engine(Engine(sampler="hub:auto_sampler"), 4)


def test_a_sampler_that_raises_ends_the_run_in_a_sentence_and_keeps_the_rows(tmp_path: Path) -> None:
    with OpenRun(tmp_path, sampler="test_samplers_all:Failing", seeds=1, top=1) as stages:
        while (task := stages.ask()) is not None:
            stages.finish(task, score(task))
        assert stages.is_finished
        assert "The sampler 'test_samplers_all:Failing' must go on to the end of the search, but raised " in str(
            stages.error
        )
        assert "ZeroDivisionError: no more \N{SNOWMAN}. Finished trials are stored" in str(stages.error)
        kept = [row for row in stages.search.records() if row.state == "complete"]
    assert kept
    with OpenRun(tmp_path, seeds=1, top=1) as stages:
        assert stages.search.records()[: len(kept)] == tuple(kept)
