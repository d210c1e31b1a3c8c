"""Regret of samplers on a table of trained points: how far from the best is what each would have chosen.

Each training reads the value of one random seed; `tables.py` says which tables there are. A point that was proposed
before is answered from memory, as in a run; the regret after n trainings is the worth of the best point of the table
less that of the point with the best value so far.

    python benchmarks/regret.py cifar100.npz --samplers placement tpe random --workers 1 --repeats 200
    python benchmarks/regret.py lenet_mnist
    python benchmarks/regret.py lenet_mnist --epoch 8          # trainings that end at the eighth of 15 epochs
"""

from __future__ import annotations

import argparse
import heapq
import time
from collections.abc import Sequence

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from tables import Floats, NoTable, Point, Table, load_table

from nas_attn.study.samplers.catalog import SAMPLERS

BUDGETS = (24, 50, 100, 200)
PROPOSALS = 30
"""Number of proposals in a row without a new point before one is drawn at random, as in a run."""


class Search:
    """A search on a table with several workers, whose trainings take between 0.8 and 1.2 units of time."""

    def __init__(self, table: Table, sampler: str, seed: int) -> None:
        self.table, self.rng = table, np.random.default_rng(seed)
        self.study = optuna.create_study(direction="maximize", sampler=SAMPLERS[sampler].make(seed))
        self.distributions = {
            f"site{index}": CategoricalDistribution([str(value) for value in range(size)])
            for index, size in enumerate(table.sizes)
        }
        self.begun: set[Point] = set()
        self.seen: dict[Point, float] = {}
        self.seconds = 0.0

    def regrets(self, workers: int) -> list[float]:
        """Return the regret after each of `BUDGETS` trainings."""
        found, running, now = [], [], 0.0
        while len(self.seen) < BUDGETS[-1]:
            while len(running) < workers and len(self.begun) < BUDGETS[-1]:
                trial, point = self._next()
                self.begun.add(point)
                heapq.heappush(running, (now + self.rng.uniform(0.8, 1.2), trial.number, trial, point))
            now, _, trial, point = heapq.heappop(running)
            self.seen[point] = float(self.rng.choice(self.table.values[point]))
            self.study.tell(trial, self.seen[point])
            if len(self.seen) in BUDGETS:
                found.append(self.table.regret(max(self.seen, key=lambda one: self.seen[one])))
        return found

    def _next(self) -> tuple[optuna.Trial, Point]:
        for _ in range(PROPOSALS):
            trial, point = self._asked()
            if point not in self.begun:
                return trial, point
            if point in self.seen:
                self.study.tell(trial, self.seen[point])
            else:
                self.study.tell(trial, state=TrialState.PRUNED)
        while (point := tuple(self.rng.integers(0, self.table.sizes).tolist())) in self.begun:
            pass
        self.study.enqueue_trial({f"site{index}": str(value) for index, value in enumerate(point)})
        return self._asked()

    def _asked(self) -> tuple[optuna.Trial, Point]:
        start = time.process_time()
        trial = self.study.ask(self.distributions)
        self.seconds += time.process_time() - start
        return trial, tuple(int(trial.params[name]) for name in self.distributions)


def interval(differences: Floats) -> tuple[float, float]:
    """Return the 95 % interval of the mean by bootstrap."""
    rng = np.random.default_rng(0)
    means = rng.choice(differences, (10_000, len(differences))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the mean regret of each sampler, and its difference from the last one's with the same seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="path of an .npz, or the name of a table of placements")
    parser.add_argument("--samplers", nargs="+", default=["placement", "tpe"], choices=SAMPLERS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--epoch", type=int, help="of a table of placements, the epoch whose value a training returns")
    stated = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        table = load_table(stated.table, stated.epoch)
    except NoTable as error:
        parser.error(str(error))
    print(f"{table.name}, {stated.workers} worker(s), {stated.repeats} repeats; regret in points")
    print(f"{'':12}" + "".join(f"{f'after {budget}':>28}" for budget in BUDGETS) + f"{'CPU ms/ask':>14}")
    reference: Floats | None = None
    for name in reversed(stated.samplers):
        found, seconds = [], 0.0
        for seed in range(stated.repeats):
            search = Search(table, name, seed)
            found.append(search.regrets(stated.workers))
            seconds += search.seconds
        regrets = np.array(found)
        cells = [f"{mean:.2f}" for mean in regrets.mean(axis=0)]
        if reference is not None:
            pairs = [interval(column) for column in (regrets - reference).T]
            cells = [f"{cell} ({low:+.2f} to {high:+.2f})" for cell, (low, high) in zip(cells, pairs, strict=True)]
        reference = regrets if reference is None else reference
        milliseconds = 1000 * seconds / (stated.repeats * BUDGETS[-1])
        print(f"{name:12}" + "".join(f"{cell:>28}" for cell in cells) + f"{milliseconds:>14.1f}", flush=True)


if __name__ == "__main__":
    main()
