"""A space is loaded by its name, from a file or from a dictionary; it suggests placements and counts their cost."""

import optuna

from nas_attn import SearchSpace

space = SearchSpace.load("densenet_attn", num_classes=10, in_channels=1, image_size=8)
print(space.title, space.bound.n_placements)

trial = optuna.create_study().ask()  # any Optuna trial
placement = space.suggest(trial)
cost = space.bound.cost(placement)
print(placement, cost.n_parameters, cost.n_macs)
print(space.check(placement))  # why it breaks a limit, or None
