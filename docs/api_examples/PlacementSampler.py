"""A sampler for few trainings, in any study of categorical parameters."""

import optuna

from nas_attn import PlacementSampler

study = optuna.create_study(direction="maximize", sampler=PlacementSampler(seed=0))
study.optimize(
    lambda trial: sum(trial.suggest_categorical(f"site{index}", ["none", "se", "cbam"]) == "se" for index in range(6)),
    n_trials=30,
)
assert study.best_value >= 5
