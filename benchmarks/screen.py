"""What a screen by shared weights is worth, on the table of placements: does it rank them, and does it pay?

Screens of several prices and seeds are trained as `--screen` trains them, and each ranks all placements of the table.
Printed are Kendall's tau with the table, and the regret at equal cost: a screen of price P and a search of N - P
trainings against a search of N, both with the usual first placements and the default sampler, their trainings read from
the table. The search with a screen knows as many placements as its price pays for.

    nice -n 10 python benchmarks/screen.py --seeds 5 --prices 4 8 --keep /tmp/rankings
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.distributions import CategoricalDistribution
from scipy.stats import t as student
from tables import FOLDER, NoTable, PlacementTable, load_placements, whole_recipe

from nas_attn.backbones.site_table import site_table
from nas_attn.comparison.ranking import Ranking, agreement
from nas_attn.config import DataConfig, Engine
from nas_attn.data.dataset import Data, load_data
from nas_attn.placement import NONE, Placement, Shape
from nas_attn.records import Paths, Task
from nas_attn.space.bound import BoundSpace
from nas_attn.space.search_space import SearchSpace
from nas_attn.study.samplers.catalog import SAMPLERS
from nas_attn.study.sampling import N_BEST
from nas_attn.study.screen import ScreenPlan, paths_of
from nas_attn.training.context import TrialContext
from nas_attn.training.keeper import Keeper
from nas_attn.training.shared_weights import train_shared

SPACE = "lenet_mnist"
SHAPE = Shape(num_classes=10, in_channels=1, image_size=28)
BUDGETS = (24, 50)
PROPOSALS = 30
"""Number of proposals in a row without a new placement before one is drawn at random, as in a run."""


@cache
def bound_space() -> BoundSpace:
    """Return the space of the table over its sites."""
    space = SearchSpace.load(SPACE)
    return space.bind(site_table(space.backbone, **vars(SHAPE)))


@cache
def images() -> Data:
    """Return the images of the table."""
    return load_data(DataConfig(name=bound_space().space.data["name"]), device="cpu")


def plan_of(price: int) -> ScreenPlan:
    """Return the extent of a screen of this price."""
    facts, recipe = images().facts, whole_recipe(bound_space().space)
    return ScreenPlan.of(price, epochs=recipe.epochs, n_train=facts.n_train, n_val=facts.n_val)


def ranking(price: int, seed: int, kept: Path) -> Ranking:
    """Return the ranking of all placements by a screen, trained now unless it is kept; print what it took."""
    file = kept / f"price{price}-seed{seed}.json"
    if not file.exists():
        paths, plan, space = paths_of(bound_space(), 10_000, 0), plan_of(price), bound_space().space
        context = TrialContext(space.backbone, SHAPE, whole_recipe(space), data=DataConfig(name=space.data["name"]))
        task = Task(0, "screen", NONE, seed, plan.epochs, paths=paths)
        start = time.perf_counter()
        found = train_shared(task, context, images(), lambda epoch, value: None, Keeper())
        trained = plan.epochs * found.facts["seconds_per_epoch"]
        ranked = time.perf_counter() - start - trained
        print(f"price {price}, seed {seed}: {trained:.0f} s of training, {ranked:.0f} s of ranking", flush=True)
        kept.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(Ranking(paths, found.values, price).to_dict()))
    read = Ranking.from_note(json.loads(file.read_text()))
    assert read is not None, f"{file} must hold a ranking"
    return read


@dataclass(frozen=True)
class Measured:
    """The table by the key of a placement.

    Args:
        seen: What a training returned, one value per seed: validation accuracy in percent.
        worth: The mean over the seeds on validation and test images.
    """

    seen: dict[str, list[float]]
    worth: dict[str, float]
    placements: dict[str, Placement]

    @classmethod
    def of(cls, table: PlacementTable) -> Measured:
        """Return a table of placements by key."""
        resolve = bound_space().resolve
        placements = [resolve(Placement.from_dict(table.attentions(codes))) for codes in table.codes]
        keys = [placement.key for placement in placements]
        seen = [row[~np.isnan(row)].tolist() for row in table.val_accuracy]
        worth = np.nanmean(table.both, axis=1).tolist()
        return cls(*(dict(zip(keys, column, strict=True)) for column in (seen, worth, placements)))


def regret(measured: Measured, n_trainings: int, seed: int, found: Ranking | None) -> float:
    """Return what the best placement of a search is short of the best one of the table, in points.

    Args:
        found: The ranking that the search follows; None for none.
    """
    bound, generator = bound_space(), np.random.default_rng(seed)
    study = optuna.create_study(direction="maximize", sampler=SAMPLERS[Engine().sampler].make(seed))
    distributions = {name: CategoricalDistribution(values) for name, values in bound.choices.items()}
    first = [placement for _, placement in bound.priors()] + list(found.best(N_BEST) if found is not None else ())
    for placement in first:
        study.enqueue_trial(bound.params(placement) or {})
    values: dict[str, float] = {}
    n_repeated = 0
    while len(values) < n_trainings:
        trial = study.ask(distributions)
        placement = bound.placement(trial.params)
        is_first = len(study.trials) <= len(first)
        if placement.key in values:
            study.tell(trial, values[placement.key])
            n_repeated += 1
        elif found is not None and not is_first and found.is_poor(placement):
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            n_repeated += 1
        else:
            values[placement.key] = float(generator.choice(measured.seen[placement.key]))
            study.tell(trial, values[placement.key])
            n_repeated = 0
        if n_repeated >= PROPOSALS:
            left = [one for key, one in measured.placements.items() if key not in values]
            left = [one for one in left if found is None or not found.is_poor(one)]
            study.enqueue_trial(bound.params(left[generator.integers(len(left))]) or {})
            n_repeated = 0
    best = max(values, key=lambda key: values[key])
    return max(measured.worth.values()) - measured.worth[best]


def as_paid(found: Ranking, price: int, seed: int) -> Ranking:
    """Return a ranking of as many placements as its price pays for."""
    paths: Paths = paths_of(bound_space(), plan_of(price).n_ranked, seed)
    known = dict(zip(found.paths.ranked, found.values, strict=True))
    values = tuple(known[numbers] for numbers in paths.ranked)
    return replace(found, paths=paths, values=values)


def interval(values: Sequence[float]) -> str:
    """Return mean and 95 % interval of independent values in words."""
    mean, half = float(np.mean(values)), 0.0
    if len(values) > 1:
        half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"


def report(measured: Measured, price: int, rankings: Sequence[Ranking], repeats: int) -> None:
    """Print the rank correlation and the regret of the screens of one price."""
    plan = plan_of(price)
    taus = []
    for seed, found in enumerate(rankings):
        pairs = [(found.score(measured.placements[key]) or 0.0, worth) for key, worth in measured.worth.items()]
        agrees = agreement(pairs)
        assert agrees is not None, "a table must have different values"
        taus.append(agrees.tau)
        print(
            f"price {price}, seed {seed}: tau {agrees.tau:.2f} ({agrees.low:.2f} to {agrees.high:.2f}), n = {agrees.n}"
        )
    print(f"price {price}: tau {interval(taus)} over {len(taus)} screens, which rank {plan.n_ranked} for their price")
    for budget in BUDGETS:
        plain = np.mean([regret(measured, budget, seed, None) for seed in range(repeats)])
        with_screen = [
            np.mean([regret(measured, budget - price, seed, as_paid(found, price, number)) for seed in range(repeats)])
            for number, found in enumerate(rankings)
        ]
        change = interval([float(value - plain) for value in with_screen])
        print(
            f"price {price}, {budget} trainings: regret {plain:.2f} without, {np.mean(with_screen):.2f} with a screen; "
            f"difference {change} points",
            flush=True,
        )


def main() -> None:
    """Train the screens, and print what they are worth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="number of screens of each price")
    parser.add_argument("--prices", type=int, nargs="+", default=[4, 8], help="prices in trainings")
    parser.add_argument("--repeats", type=int, default=50, help="searches per screen")
    parser.add_argument("--keep", type=Path, default=Path("/tmp/nas_attn-screens"), help="folder of trained rankings")
    parser.add_argument("--tables", type=Path, default=FOLDER, help="folder of the table")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rankings = {price: [] for price in asked.prices}
    for seed in range(asked.seeds):
        for price in asked.prices:
            rankings[price].append(ranking(price, seed, asked.keep))
    try:
        measured = Measured.of(load_placements(SPACE, asked.tables))
    except NoTable as missing:
        raise SystemExit(str(missing)) from None
    for price in asked.prices:
        report(measured, price, rankings[price], asked.repeats)


if __name__ == "__main__":
    main()
