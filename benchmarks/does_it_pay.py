"""Does searching pay? The whole job replayed on the space of a table of placements, beside its alternatives.

Values are drawn from a model of seeds and images that is fitted to the table (`placement_model.py`), so that the truth
of every replay is known. Strategies of equal cost choose a placement on validation values; each choice is then trained
with the same number of seeds beside no attention, and recommended or not by the product's own rule on the test images:

- `placement`, `tpe`, `random`: the product's whole job with this sampler (first placements, search, confirm, arms);
- `everywhere`: the budget goes to no attention and each attention everywhere, with as many seeds as it allows;
- `greedy`: the best attention everywhere, then dropped site by site as long as that helps.

    python benchmarks/does_it_pay.py lenet_mnist --repeats 1000 --processes 2
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from placement_model import PlacementModel, PlacementWorld
from simulated_job import simulated
from tables import Floats, NoTable, PlacementTable, Point, coded, load_placements

from nas_attn.backbones.site_table import site_table
from nas_attn.comparison.answer import Answer, Sample, judge, take_look
from nas_attn.config import Budget
from nas_attn.placement import NONE, Placement
from nas_attn.records import BARE, FOUND
from nas_attn.space.bound import BoundSpace
from nas_attn.space.search_space import SearchSpace
from nas_attn.study.confirm import CONFIRM_SEEDS, n_confirm_runs, rounds_of

SEARCHES = ("placement", "tpe", "random")
STRATEGIES = (*SEARCHES, "everywhere", "greedy")
BUDGETS = (24, 50, 100)
SEEDS = 5
CHUNK = 50
"""Replays between two writes of the file of finished ones."""

MISSED = 0.5
"""A placement that was found and truly gains so many points, but is not recommended, is a missed one."""


@dataclass(frozen=True)
class Outcome:
    """What a strategy chose and said in one world, with what is true of it, in points.

    Args:
        found: True gain of its choice over no attention.
        advice: True gain of what it recommends; 0 for no attention.
        recommends: Whether it recommends an attention.
        best: True gain of the best placement there is.
    """

    found: float
    advice: float
    recommends: bool
    best: float


@cache
def table(name: str) -> PlacementTable:
    """Return the table, read once per process."""
    return load_placements(name)


@cache
def model(name: str) -> PlacementModel:
    """Return the model of the table, fitted once per process."""
    return PlacementModel.fitted(table(name))


@cache
def bound(name: str) -> BoundSpace:
    """Return the space over its sites."""
    space = SearchSpace.load(name)
    return space.bind(site_table(space.backbone, num_classes=10, in_channels=1, image_size=28))


@cache
def points(name: str) -> dict[str, Point]:
    """Return the code of each placement by its key."""
    return {placement.key: point for point, placement in coded(bound(name))}


def replay(name: str, strategy: str, budget: int, number: int) -> Outcome:
    """Return what a strategy finds and says in one world."""
    facts = table(name)
    world = model(name).world(number, n_val=facts.val.shape[-1], n_test=facts.test.shape[-1])
    none, best = world.worth((0,) * len(facts.sites)), float(world.truth.max())
    if strategy in SEARCHES:
        found, recommended = _search(name, strategy, budget, number, world)
    else:
        chosen = (_everywhere if strategy == "everywhere" else _greedy)(world, facts, budget + n_confirm(budget))
        found, recommended = chosen, _advised(world, chosen)
    return Outcome(
        100 * (world.worth(found) - none),
        100 * (world.worth(recommended) - none),
        any(recommended),
        100 * (best - none),
    )


def n_confirm(budget: int) -> int:
    """Return the number of trainings of the confirm stage, which the alternatives may spend on their choice."""
    return CONFIRM_SEEDS + sum(n_confirm_runs(rounds_of(Budget(), budget, several=False)))


def _search(name: str, sampler: str, budget: int, number: int, world: PlacementWorld) -> tuple[Point, Point]:
    """Return what the product's whole job finds, and what it recommends."""
    known = points(name)

    def train(placement: Placement, seed: int, part: str) -> NDArray[np.bool_]:
        return world.train(known[placement.key], part)

    job = Budget(trials=budget, seeds=SEEDS, controls=0)
    stages = simulated(bound(name), train, seed=number, budget=job, sampler=sampler, most=budget)
    assert stages.winner is not None, "a finished run has a winner"
    assert stages.answer is not None, "a finished run has an answer"
    arms = {label: placement for joined, placement in stages.arms() for label in joined.split(" = ")}
    recommended = arms[stages.answer.recommended.split(" = ")[0]]
    return known[(stages.winner.placement or NONE).key], known[recommended.key]


def _everywhere(world: PlacementWorld, facts: PlacementTable, budget: int) -> Point:
    """Return the attention everywhere, or none, with the best mean of so many trainings."""
    arms = [facts.codes[row] for row in facts.everywhere]
    means = {point: _mean(world, point, budget // len(arms)) for point in arms}
    return max(arms, key=lambda point: means[point])


def _greedy(world: PlacementWorld, facts: PlacementTable, budget: int) -> Point:
    """Return the best attention everywhere with sites dropped one by one; each value is a mean of equal seeds.

    The worst case is one value per arm, and one per site and round: the seeds are as many as the budget allows then.
    """
    n_sites = len(facts.sites)
    arms = [facts.codes[row] for row in facts.everywhere]
    n_seeds = max(1, budget // (len(arms) + n_sites * (n_sites + 1) // 2))
    left = budget
    values = {}
    for point in arms:
        values[point] = _mean(world, point, n_seeds)
        left -= n_seeds
    best = max((point for point in arms if any(point)), key=lambda point: values[point])
    while any(best) and left >= n_seeds:
        smaller = [(*best[:at], 0, *best[at + 1 :]) for at in range(n_sites) if best[at]]
        for point in smaller:
            if point not in values and left >= n_seeds:
                values[point] = _mean(world, point, n_seeds)
                left -= n_seeds
        candidate = max((point for point in smaller if point in values), key=lambda point: values[point])
        if values[candidate] <= values[best]:
            break
        best = candidate
    return max(values, key=lambda point: values[point]) if not any(best) else best


def _mean(world: PlacementWorld, point: Point, n_seeds: int) -> float:
    return float(np.mean([world.train(point, "val").mean() for _ in range(n_seeds)]))


def _advised(world: PlacementWorld, chosen: Point) -> Point:
    """Return the choice if the product's rule recommends it over no attention on the test images, else none."""
    none = (0,) * len(chosen)
    if chosen == none:
        return none
    samples = [_sample(world, label, point) for label, point in ((FOUND, chosen), (BARE, none))]
    answer: Answer = judge(samples, [take_look({}, "chosen", SEEDS)], Budget().margin)
    return chosen if answer.state == "arm" else none


def _sample(world: PlacementWorld, label: str, point: Point) -> Sample:
    images = {seed: world.train(point, "test").astype(float) for seed in range(SEEDS)}
    return Sample(label, {seed: float(row.mean()) for seed, row in images.items()}, images)


def interval(values: Floats) -> tuple[float, float]:
    """Return the 95 % interval of the mean by the normal distribution."""
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def show(cell: str, outcomes: list[Outcome], beside: list[Outcome]) -> None:
    """Print one row: gains, how often the advice was wrong or missing, and its gain over the strategy beside it."""
    found, advice, best = (np.array([getattr(one, name) for one in outcomes]) for name in ("found", "advice", "best"))
    says = np.array([one.recommends for one in outcomes])
    missed = np.mean(~says & (found >= MISSED))
    wrong, regret = np.mean(says & (advice <= 0)), best.mean() - found.mean()
    low, high = interval(advice - np.array([one.advice for one in beside]))
    means = f"{found.mean():>8.2f}{advice.mean():>8.2f}{regret:>8.2f}"
    shares = f"{100 * says.mean():>8.0f} %{100 * wrong:>8.1f} %{100 * missed:>8.1f} %"
    print(f"{cell:18}{means}{shares}{low:>+12.2f} to {high:+.2f}", flush=True)


class Kept:
    """Finished replays, in a file or in memory alone; none of a table with another number of trainings."""

    def __init__(self, path: Path | None, n_trainings: int) -> None:
        self.path = path
        self.content: dict[str, Any] = {"trainings": n_trainings}
        if path is not None and path.is_file():
            found = json.loads(path.read_text())
            if found.get("trainings") == n_trainings:
                self.content = found

    def of(self, cell: str) -> list[Outcome]:
        """Return the finished replays of a cell."""
        return [Outcome(*row) for row in self.content.get(cell, [])]

    def add(self, cell: str, outcomes: Sequence[Outcome]) -> None:
        """Store further replays of a cell."""
        self.content[cell] = [list(vars(one).values()) for one in (*self.of(cell), *outcomes)]
        if self.path is not None:
            self.path.write_text(json.dumps(self.content))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row per strategy and budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", default="lenet_mnist")
    parser.add_argument("--repeats", type=int, default=1_000)
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kept", type=Path, help="file of finished replays, with which the same command goes on")
    stated = parser.parse_args(arguments)
    try:
        fitted = model(stated.table)
    except NoTable as error:
        parser.error(str(error))
    print(
        f"{stated.table}: images' difficulty shared {fitted.shared:.2f} by all, {fitted.own:.2f} by a placement's seeds"
    )
    print(f"{stated.repeats} replays; gains over no attention in points; {SEEDS} seeds an arm")
    print(f"{'':18}{'found':>8}{'advice':>8}{'regret':>8}{'says':>10}{'wrong':>10}{'missed':>10}{'minus random':>21}")
    kept = Kept(stated.kept, int(load_placements(stated.table).is_trained.sum()))
    with ProcessPoolExecutor(stated.processes) as pool:
        for budget in stated.budgets:
            cells: dict[str, list[Outcome]] = {}
            for strategy in sorted(stated.strategies, key=lambda name: name != "random"):
                begun, cell = time.monotonic(), f"{strategy} {budget}"
                n_kept = len(kept.of(cell))
                for first in range(n_kept, stated.repeats, CHUNK):
                    numbers = range(first, min(first + CHUNK, stated.repeats))
                    n = len(numbers)
                    done = pool.map(replay, [stated.table] * n, [strategy] * n, [budget] * n, numbers, chunksize=5)
                    kept.add(cell, list(done))
                cells[strategy] = kept.of(cell)[: stated.repeats]
                show(f"{budget:>4} {strategy}", cells[strategy], cells.get("random", cells[strategy]))
                if n_kept < stated.repeats:
                    print(f"{'':18}{time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
