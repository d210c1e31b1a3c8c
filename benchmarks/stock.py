"""The peer: stock Ray Tune with OptunaSearch on a SQLite storage, over the parameters of a space and a trivial trial.

    python benchmarks/stock.py FOLDER [--trials 30] [--seconds 0] [--reuse] [--restore]

The other benchmarks start it as its own process. It prints one JSON object: the time at which each trial ended, in
seconds since 1970. `--restore` resumes a killed run in FOLDER by `Tuner.restore`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AIR_NEW_OUTPUT="0")

import ray
from optuna.storages import RDBStorage
from ray import tune
from ray.tune.search.optuna import OptunaSearch

N_PARAMETERS, N_VALUES = 15, 3
WORKERS = 2


def trial(config: dict[str, Any]) -> None:
    """Wait, and report one value."""
    time.sleep(config["seconds"])
    tune.report({"accuracy": 0.5})


class Trial(tune.Trainable):
    """The same trial as a class, which Tune can reuse without starting a process."""

    def setup(self, config: dict[str, Any]) -> None:
        """Store the length of a trial."""
        self._seconds = config["seconds"]

    def step(self) -> dict[str, Any]:
        """Return the trial's only result."""
        time.sleep(self._seconds)
        return {"accuracy": 0.5, "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial."""
        self._seconds = new_config["seconds"]
        return True


class Clock(tune.Callback):
    """Records the end of each trial."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record one end."""
        self.ends.append(time.time())


def make_tuner(folder: Path, clock: Clock, *, n_trials: int, seconds: float, reuse: bool) -> tune.Tuner:
    """Return a new search, as in Tune's guide."""
    space: dict[str, Any] = {f"p{index}": tune.choice(list(range(N_VALUES))) for index in range(N_PARAMETERS)}
    return tune.Tuner(
        Trial if reuse else trial,
        param_space={**space, "seconds": seconds},
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            search_alg=OptunaSearch(storage=RDBStorage(f"sqlite:///{folder / 'stock.db'}"), study_name="stock", seed=0),
            num_samples=n_trials,
            max_concurrent_trials=WORKERS,
            reuse_actors=reuse,
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            name="stock",
            verbose=0,
            callbacks=[clock],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False if reuse else None),
        ),
    )


def main() -> None:
    """Run or restore one search, and print when its trials ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.0, help="length of a trial")
    parser.add_argument("--reuse", action="store_true", help="a class as trial, and reuse_actors=True")
    parser.add_argument("--restore", action="store_true")
    options = parser.parse_args()
    folder = options.folder.absolute()
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    clock = Clock()
    if options.restore:
        tuner = tune.Tuner.restore(str(folder / "stock"), Trial if options.reuse else trial)
    else:
        tuner = make_tuner(folder, clock, n_trials=options.trials, seconds=options.seconds, reuse=options.reuse)
    tuner.fit()
    print(json.dumps({"ends": clock.ends}))


if __name__ == "__main__":
    main()
