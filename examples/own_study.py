"""Attention placement as one more part of an Optuna study that you have already."""

from __future__ import annotations

import argparse

import optuna
import torch

from nas_attn import SearchSpace, auxiliary_loss, build_model
from nas_attn.config import DataConfig
from nas_attn.data.dataset import load_data

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--trials", type=int, default=10)
parser.add_argument("--epochs", type=int, default=5)
arguments = parser.parse_args()

space = SearchSpace.load("densenet_attn", num_classes=10, in_channels=1, image_size=8)
digits = load_data(DataConfig(name="digits"))  # yours may come from anywhere


def objective(trial: optuna.Trial) -> float:
    """Your own objective, with the placement as one of the things that are tried."""
    placement = space.suggest(trial)
    lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)  # your own parameters beside it
    model = build_model(space.backbone, placement, num_classes=10, in_channels=1, image_size=8, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    inputs, targets = digits.train.pixels.float() / 255, digits.train.targets
    for _ in range(arguments.epochs):
        model.train()
        for batch in torch.randperm(len(targets)).split(32):
            logits = model(inputs[batch])
            loss = torch.nn.functional.cross_entropy(logits, targets[batch]) + auxiliary_loss(model, targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    trial.set_user_attr("placement", str(placement))
    model.eval()
    with torch.inference_mode():
        right = model(digits.val.pixels.float() / 255).argmax(1) == digits.val.targets
    return float(right.float().mean())


optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
study.optimize(objective, n_trials=arguments.trials)
best = space.suggest(study.best_trial)  # the placement back from the trial
print(f"{study.best_value:.4f} with {best}")
