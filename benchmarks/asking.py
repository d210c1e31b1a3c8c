"""Time of a proposal: CPU of `ask` and `tell` on a space of 45 parameters, beside Optuna's own samplers.

Run: `python benchmarks/asking.py`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from nas_attn.backbones.site_table import site_table
from nas_attn.space.search_space import SearchSpace
from nas_attn.study.samplers.catalog import SAMPLERS
from nas_attn.study.samplers.named import make_sampler

WARM_UP = 2
"""Number of proposals of a study that are not counted: the first ones import and fill caches."""


def milliseconds(sampler: str, n_trials: int, n_asks: int) -> list[float]:
    """Return the CPU time of each proposal after so many random trials."""
    space = SearchSpace.load("densenet_attn")
    bound = space.bind(site_table(space.backbone, num_classes=10, in_channels=1, image_size=28))
    distributions: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(values) for name, values in bound.choices.items()
    }
    study = optuna.create_study(direction="maximize", sampler=make_sampler(sampler, 0, conditions=bound.conditions))
    rng = np.random.default_rng(0)
    drawn = [
        {name: values[rng.integers(len(values))] for name, values in bound.choices.items()} for _ in range(n_trials)
    ]
    study.add_trials(
        [optuna.trial.create_trial(params=one, distributions=distributions, value=rng.random()) for one in drawn]
    )
    found = []
    for _ in range(n_asks):
        begun = time.process_time()
        study.tell(study.ask(distributions), rng.random())
        found.append(1000 * (time.process_time() - begun))
    return found[WARM_UP:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print median and mean of each sampler, one row per number of trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samplers", nargs="+", default=["placement", "tpe", "gp"], choices=SAMPLERS)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1_000])
    parser.add_argument("--asks", type=int, default=25)
    stated = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"{'trials':>8} {'sampler':12}{'median ms':>12}{'mean ms':>12}")
    for n_trials in stated.trials:
        for sampler in stated.samplers:
            found = milliseconds(sampler, n_trials, stated.asks)
            print(f"{n_trials:>8} {sampler:12}{np.median(found):>12.1f}{np.mean(found):>12.1f}", flush=True)


if __name__ == "__main__":
    main()
