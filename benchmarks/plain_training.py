"""Peer of the start of `main_job.py`: a plain training script on the same digits, alone or inside stock Ray Tune.

    python benchmarks/plain_training.py [--tune]

It prints the time at which its first epoch ended, in seconds since 1970. It trains torchvision's DenseNet with the
sizes of the space `densenet_attn` and a DataLoader, as a script without a framework would.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import Any


def train_one_epoch() -> float:
    """Train on as many images as in the main job's default split; return the time at the end of the epoch."""
    import torch
    from sklearn.datasets import load_digits
    from torch.utils.data import DataLoader, TensorDataset
    from torchvision.models import DenseNet

    digits = load_digits()
    images = torch.tensor(digits.images[:179], dtype=torch.float32).unsqueeze(1) / 16
    loader = DataLoader(TensorDataset(images, torch.tensor(digits.target[:179])), batch_size=32, shuffle=True)
    net = DenseNet(growth_rate=8, block_config=(4, 4, 4), num_init_features=32, num_classes=10)
    net.features.conv0 = torch.nn.Conv2d(1, 32, 3, padding=1, bias=False)
    net.features.pool0 = torch.nn.Identity()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for inputs, targets in loader:
        loss = torch.nn.functional.cross_entropy(net(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.time()


def in_tune() -> float:
    """Train inside a worker of stock Tune, whose OptunaSearch has a SQLite storage."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from optuna.storages import RDBStorage
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    def trial(config: dict[str, Any]) -> None:
        tune.report({"moment": train_one_epoch()})

    with tempfile.TemporaryDirectory() as folder:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        results = tune.Tuner(
            trial,
            param_space={"reduction": tune.choice([4, 16])},
            tune_config=tune.TuneConfig(
                metric="moment",
                mode="max",
                num_samples=2,  # two workers start side by side, as ours do
                max_concurrent_trials=2,
                search_alg=OptunaSearch(storage=RDBStorage(f"sqlite:///{folder}/stock.db")),
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        return min(float(result.metrics["moment"]) for result in results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true")
    print(in_tune() if parser.parse_args().tune else train_one_epoch())
