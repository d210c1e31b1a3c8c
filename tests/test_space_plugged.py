"""A space in other people's code: their Optuna trial of any kind, their Tune job, a process without torch."""

from __future__ import annotations

import subprocess
import sys

import optuna
import pytest
from site_tables import densenet_table, make_site, make_table

from nas_attn.errors import SpaceError
from nas_attn.space.search_space import SearchSpace


def plugged() -> SearchSpace:
    return SearchSpace.load("densenet_attn", table=densenet_table())


def test_every_kind_of_optuna_trial_suggests_the_same_placement():
    space = plugged()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    placements = []

    def objective(trial: optuna.Trial) -> float:
        placements.append(space.suggest(trial))
        return -float(space.bound.cost(placements[-1]).n_parameters)

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=5)
    assert list(study.trials[0].params) == list(space.bound.choices)
    assert space.suggest(study.best_trial) == placements[study.best_trial.number]
    assert space.suggest(optuna.trial.FixedTrial(study.best_trial.params)) == placements[study.best_trial.number]
    assert space.placement(study.best_params) == placements[study.best_trial.number]
    assert space.check(placements[0]) is None


def test_a_tune_configuration_becomes_a_placement():
    from ray.tune.search.variant_generator import generate_variants

    space = plugged()
    domains = space.tune_space()
    assert list(domains) == list(space.bound.choices)
    config = {name: domain.sample() for name, domain in domains.items()} | {"lr": 0.1, "epochs": 3}
    placement = space.placement(config)
    assert space.bound.params(placement) is not None
    _, variant = next(generate_variants({**domains, "lr": 0.1}))
    assert space.bound.params(space.placement(variant)) is not None


def test_a_space_without_a_backbone_needs_the_sites_of_a_network():
    record = {"title": "t", "sites": [{"match": ["*"], "attentions": ["se"]}]}
    with pytest.raises(SpaceError, match=r"the space names no backbone: add \[backbone\]"):
        _ = SearchSpace.from_dict(record).bound
    space = SearchSpace.from_dict(record, table=make_table(make_site("body", 32, 8, "stage1")))
    assert space.placement({"body.attention": "se"}) == space.bound.everywhere("se")


def test_a_space_is_read_bound_and_used_without_torch_optuna_or_ray(root):
    code = (
        "import sys; sys.path[:0] = ['.', 'tests']\n"
        "from nas_attn.space.search_space import SearchSpace; from site_tables import densenet_table\n"
        "bound = SearchSpace.load('densenet_attn').bind(densenet_table())\n"
        "bound.check(bound.placement(bound.params(bound.everywhere('cbam'))))\n"
        "assert not {'torch', 'optuna', 'ray', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)
