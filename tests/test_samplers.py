"""The samplers and the schedulers of the tables, by what they do."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from nas_attn.study.samplers.catalog import SAMPLERS, SCHEDULERS


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_repeats_itself_by_its_seed(name):
    def draws(seed: int) -> list[str]:
        study = optuna.create_study(sampler=SAMPLERS[name].make(seed))
        words = CategoricalDistribution([str(number) for number in range(50)])
        return [study.ask({"word": words}).params["word"] for _ in range(8)]

    assert SAMPLERS[name].name == name
    assert draws(1) == draws(1) != draws(2)


def test_tpe_models_parameters_together_and_avoids_what_runs():
    distributions = {name: CategoricalDistribution(list(range(8))) for name in ("a", "b")}
    sampler = SAMPLERS["tpe"].make(0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for number in range(12):
        trial = optuna.trial.create_trial(
            params={"a": number % 8, "b": number % 8}, distributions=distributions, value=float(number % 8 == 3)
        )
        study.add_trial(trial)
    assert set(sampler.infer_relative_search_space(study, study.trials[0])) == {"a", "b"}
    assert vars(sampler)["_constant_liar"], "which has no effect that a short test could see"


@pytest.mark.parametrize(("epochs", "rungs"), [(8, [2, 4]), (9, [3, 6]), (1, [1])])
def test_asha_judges_at_a_quarter_and_at_half_and_keeps_the_better_half(epochs, rungs):
    def stopped_at(value: float) -> int | None:
        trial = study.ask()
        for epoch in range(1, epochs + 1):
            trial.report(value, epoch)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                return epoch
        study.tell(trial, value)
        return None

    study = optuna.create_study(direction="maximize", pruner=SCHEDULERS["asha"].make(epochs))
    good = [stopped_at(value) for value in (0.5, 0.6, 0.7, 0.8, 0.9)]
    assert good == [None] * 5
    assert stopped_at(0.75) is None, "third of six"
    assert stopped_at(0.1) == rungs[0]
    assert stopped_at(0.95) is None


def test_no_scheduler_stops_nothing():
    study = optuna.create_study(direction="maximize", pruner=SCHEDULERS["none"].make(4))
    for value in (0.9, 0.1):
        trial = study.ask()
        for epoch in range(1, 5):
            trial.report(value, epoch)
            assert not trial.should_prune()
        study.tell(trial, value)
