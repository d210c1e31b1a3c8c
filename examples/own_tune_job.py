"""Attention placement as one more part of a Ray Tune job that you have already."""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import ray
from ray import tune

from nas_attn import SearchSpace, build_model
from nas_attn.config import DataConfig, Recipe
from nas_attn.data.dataset import load_data
from nas_attn.training.loop import train

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--trials", type=int, default=4)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--workers", type=int, default=2)
arguments = parser.parse_args()


def my_trainable(config: dict[str, Any]) -> None:
    """Your own trainable, with the placement as a part of its config."""
    space = SearchSpace.load("densenet_attn", num_classes=10, in_channels=1, image_size=8)
    placement = space.placement(config)  # keys that are not the space's are left alone
    model = build_model(space.backbone, placement, num_classes=10, in_channels=1, image_size=8, seed=0)
    digits = load_data(DataConfig(name="digits"))
    recipe = Recipe(lr=config["lr"], batch_size=32)
    train(
        model,
        digits.train,
        digits.val,
        recipe,
        seed=0,
        epochs=config["epochs"],
        device="cpu",
        num_classes=10,
        report=lambda epoch, accuracy: tune.report({"accuracy": accuracy, "placement": str(placement)}),
    )


ray.init(address="local", num_cpus=arguments.workers, include_dashboard=False, log_to_driver=False)
space = SearchSpace.load("densenet_attn", num_classes=10, in_channels=1, image_size=8)
tuner = tune.Tuner(
    my_trainable,
    param_space={**space.tune_space(), "lr": tune.loguniform(1e-2, 1e-1), "epochs": arguments.epochs},
    tune_config=tune.TuneConfig(metric="accuracy", mode="max", num_samples=arguments.trials),
    run_config=tune.RunConfig(storage_path=tempfile.mkdtemp(), verbose=0),
)
best = tuner.fit().get_best_result()
print(f"{best.metrics['accuracy']:.4f} with {best.metrics['placement']}")
ray.shutdown()
