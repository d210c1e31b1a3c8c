"""How long search trials must be: regret at equal numbers of epochs, for schedulers and lengths of the schedule.

A search on a table of placements goes on until its trainings have had as many epochs as so many whole trainings. The
best three placements are then trained whole with two other seeds, and the best mean is the choice, as in a run. A
training of fewer epochs returns the value that the table's curve has there, in the midst of the whole schedule; those
of complete short schedules rank placements about as well (`short_schedules.py`).

    python benchmarks/schedules.py lenet_mnist --repeats 200
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from regret import interval
from tables import NoTable, PlacementTable, Point, load_placements

from nas_attn.study.samplers.named import make_sampler, make_scheduler

BUDGETS = (24, 50)
"""Whole trainings that the epochs of a search are worth."""

WAYS = (("none", 15), ("none", 8), ("none", 4), ("asha", 15), ("asha", 8), ("hyperband", 15), ("hyperband", 8))
"""Scheduler and length of the schedule; the first one is compared with."""

N_BEST, N_CONFIRM = 3, 2


@cache
def table(name: str) -> PlacementTable:
    """Return the table, read once per process."""
    return load_placements(name)


class Search:
    """One search, which spends epochs.

    Args:
        seed: Seeds the sampler and the choice of each training's seed among those of the table.
    """

    def __init__(self, facts: PlacementTable, scheduler: str, epochs: int, seed: int) -> None:
        self.facts, self.epochs, self.rng = facts, epochs, np.random.default_rng(seed)
        self.rows = {point: row for row, point in enumerate(facts.codes)}
        sizes = (np.array(facts.codes).max(axis=0) + 1).tolist()
        choices = [[*map(str, range(size))] for size in sizes]
        self.distributions = dict(zip(facts.sites, map(CategoricalDistribution, choices), strict=True))
        self.study = optuna.create_study(
            study_name="search",  # Hyperband assigns trials to brackets by it
            direction="maximize",
            sampler=make_sampler("placement", seed),
            pruner=make_scheduler(scheduler, epochs),
        )
        self.tried: dict[Point, int] = {}
        self.values: dict[Point, float] = {}
        self.spent = 0

    def regrets(self) -> Iterator[float]:
        """Yield the regret of the choice after each of `BUDGETS`."""
        whole = self.facts.curves.shape[-1]
        for budget in BUDGETS:
            while self.spent < budget * whole and len(self.tried) < len(self.rows):
                self._train()
            yield self._regret()

    def _train(self) -> None:
        """Train an untried point, until its last epoch or until the scheduler stops it."""
        trial = self.study.ask(self.distributions)
        point = tuple(int(trial.params[name]) for name in self.facts.sites)
        if point in self.tried:
            self.study.tell(trial, self.values.get(point), state=None if point in self.values else TrialState.PRUNED)
            return
        row = self.rows[point]
        self.tried[point] = int(self.rng.choice(np.flatnonzero(self.facts.is_trained[row])))
        for epoch, value in enumerate(self.facts.curves[row, self.tried[point], : self.epochs], 1):
            trial.report(float(value), epoch)
            self.spent += 1
            if epoch < self.epochs and trial.should_prune():
                self.study.tell(trial, state=TrialState.PRUNED)
                return
        self.values[point] = float(value)
        self.study.tell(trial, self.values[point])

    def _regret(self) -> float:
        """Return what the choice is worth less than the best point, in points of accuracy on all images."""
        best = sorted(self.values, key=self.values.__getitem__, reverse=True)[:N_BEST]
        worth = np.nanmean(self.facts.both, axis=1)
        return float(worth.max() - worth[self.rows[max(best, key=self._confirmed)]])

    def _confirmed(self, point: Point) -> float:
        seeds = np.flatnonzero(self.facts.is_trained[self.rows[point]])
        others = self.rng.permutation(seeds[seeds != self.tried[point]])[:N_CONFIRM]
        return float(self.facts.curves[self.rows[point], others, -1].mean())


def replay(name: str, scheduler: str, epochs: int, seed: int) -> list[float]:
    """Return the regrets of one search."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return list(Search(table(name), scheduler, epochs, seed).regrets())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row per scheduler and length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", default="lenet_mnist")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    stated = parser.parse_args(arguments)
    try:
        table(stated.table)
    except NoTable as error:
        parser.error(str(error))
    print(
        f"{stated.table}, {stated.repeats} repeats; regret in points, and 95 % interval of the difference to the first"
    )
    print(f"{'scheduler':12}{'epochs':>7}" + "".join(f"{f'after {budget} whole trainings':>28}" for budget in BUDGETS))
    first = None
    with ProcessPoolExecutor(stated.processes) as pool:
        for scheduler, epochs in WAYS:
            one = partial(replay, stated.table, scheduler, epochs)
            found = np.array(list(pool.map(one, range(stated.repeats), chunksize=5)))
            first = found if first is None else first
            ranges = [interval(column) for column in (found - first).T]
            pairs = zip(found.mean(axis=0), ranges, strict=True)
            cells = [f"{mean:.2f} ({low:+.2f} to {high:+.2f})" for mean, (low, high) in pairs]
            print(f"{scheduler:12}{epochs:>7}" + "".join(f"{cell:>28}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
