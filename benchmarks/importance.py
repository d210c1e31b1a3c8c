"""The effects of sites against known truth: bias, coverage, wrong frames, and whether the right site is on top.

    python benchmarks/importance.py [--runs 100] [--trials 24 50 100 300] [--sites 6 16] [--designs random search]
                                    [--worlds drawn site cell nothing prior options] [--seed 0]

Ours is `nas_attn.report.importance.site_effects`; the peer is what it replaced: means of the placements with an
attention at a site minus means of those with none there, with Welch's interval, framed if it excludes zero.

Designs: `random` has the priors (none, each attention everywhere, each in the last stage only) and then sites drawn one
by one; `search` is the default search on the simulated values, with its priors, its sampler and its repeated seeds.

Worlds (units: points; a training's sd is 0.6): `drawn` effects of sd 0.3, one half of the variance common to a site;
`site` +1.0 at one site with every attention; `cell` +1.0 at one site with one attention; `nothing`; `prior` draws every
variance from the model's prior; `options` as `drawn`, but the two values of an attention's option differ at each site,
by a normal number of sd 0.4, so that the effect is their middle. Bias is the mean error of all effects. `wrong` is the
share of frames whose sign is not the truth's, zero included; `any wrong` that of tables with one; `top` that of tables
whose first site, by the sum of squares, is the true one; `needed` the median number of trials asked for where there are
too few.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

import numpy as np
import optuna
from scipy.stats import ttest_ind

from nas_attn.config import Engine
from nas_attn.placement import Attention, Placement, Site, SiteTable
from nas_attn.records import Outcome, TrialRecord
from nas_attn.report.importance import Observation, observations, site_effects
from nas_attn.report.mixed_model import RATIOS, SHARES
from nas_attn.space.bound import BoundSpace
from nas_attn.space.search_space import SearchSpace
from nas_attn.study.sampling import SearchStudy

FAMILIES = ("cbam", "eca", "se", "triplet")
OPTIONS = {"cbam": ("reduction", (4, 8)), "eca": ("kernel_size", (3, 5)), "se": ("reduction", (4, 8))}
NOISE = 0.6
WORLDS = ("drawn", "site", "cell", "nothing", "prior", "options")
Truth = dict[tuple[str, str], float]


class MemoryLedger:
    """The rows of a search, kept in memory only."""

    def __init__(self) -> None:
        self.rows: list[TrialRecord] = []

    def records(self) -> tuple[TrialRecord, ...]:
        """Return all rows."""
        return tuple(self.rows)

    def begin(self, stage, placement, seed, epochs, cost, *, label=None, params=None, choices=None) -> TrialRecord:
        """Add the row of a trial that begins."""
        row = TrialRecord(-1, stage, "running", placement, placement.key, seed, epochs, params=params, label=label)
        return self.add(row, choices)

    def add(self, record: TrialRecord, choices) -> TrialRecord:
        """Add one row; return it with its number."""
        self.rows.append(replace(record, number=len(self.rows)))
        return self.rows[-1]

    def finish(self, number: int, outcome: Outcome) -> TrialRecord:
        """Write how a trial ended."""
        self.rows[number] = self.rows[number].ended(outcome)
        return self.rows[number]


@dataclass(frozen=True)
class World:
    """Effects in points, and by how much the first value of an option is better than the middle."""

    effects: Truth
    options: Truth

    def value(self, placement: Placement, random: np.random.Generator) -> float:
        """Return the value of one training."""
        total = 0.0
        for site, used in placement.attentions.items():
            option, values = OPTIONS.get(used.name, ("", ()))
            sign = 0.0 if not values else 1.0 if used.options[option] == values[0] else -1.0
            total += self.effects[site, used.name] + sign * self.options.get((site, used.name), 0.0)
        return float(95.0 + total + random.normal(0.0, NOISE))


def make_world(name: str, sites: Sequence[str], random: np.random.Generator) -> World:
    """Draw the truth of one run."""
    cells = [(site, family) for site in sites for family in FAMILIES]
    chosen = (sites[random.integers(len(sites))], FAMILIES[random.integers(len(FAMILIES))])
    if name == "nothing":
        return World(dict.fromkeys(cells, 0.0), {})
    if name in ("site", "cell"):
        return World({cell: float(cell == chosen or (name == "site" and cell[0] == chosen[0])) for cell in cells}, {})
    sd, row, column = 0.3, 0.5, 0.0
    if name == "prior":
        odds = RATIOS**2 / (1.0 + RATIOS**2) ** 1.5
        sd = NOISE * float(random.choice(RATIOS, p=odds / odds.sum()))
        row, column = SHARES[random.integers(len(SHARES))]
    own = {site: random.normal() for site in sites} | {family: random.normal() for family in FAMILIES}
    parts = [math.sqrt(share) * sd for share in (row, column, 1.0 - row - column)]
    effects = {
        (site, family): parts[0] * own[site] + parts[1] * own[family] + parts[2] * random.normal()
        for site, family in cells
    }
    return World(effects, {cell: 0.2 * random.normal() for cell in cells if name == "options"})


def make_space(n_sites: int) -> BoundSpace:
    """Bind a space of so many sites, of which the last half is in the last stage, to a table without a network."""
    sites = tuple(
        Site(f"block{n}", "output", f"block{n}", 32, 8, 8, f"stage{1 + 2 * n // (n_sites + 1)}")
        for n in range(1, n_sites + 1)
    )
    record = {
        "title": "Simulated sites",
        "backbone": {"name": "densenet", "growth_rate": 8, "block_config": [2, 2, 2]},
        "sites": [{"match": ["block*"], "attentions": list(FAMILIES)}],
        "attentions": {family: {option: list(values)} for family, (option, values) in OPTIONS.items()},
    }
    table = SiteTable("densenet", 10, 1, 8, 10_000, 100_000, sites)
    return SearchSpace.from_dict(record, where="importance.py").bind(table)


def random_design(bound: BoundSpace, n_trials: int, random: np.random.Generator) -> list[Placement]:
    """Return the priors of the space, then placements with half of the sites filled."""
    found = [placement for _, placement in bound.priors()]
    names = [site.name for site in bound.table.sites]
    while len(found) < n_trials:
        found.append(Placement({name: draw_attention(random) for name in names if random.random() < 0.5}))
    return found[:n_trials]


def draw_attention(random: np.random.Generator) -> Attention:
    """Draw an attention with its option."""
    family = str(random.choice(FAMILIES))
    option, values = OPTIONS.get(family, ("", ()))
    return Attention(family, {option: int(random.choice(values))} if values else {})


def by_random(bound: BoundSpace, world: World, n_trials: int, seed: int) -> list[Observation]:
    """Measure random placements."""
    random = np.random.default_rng((seed, 1))
    return [Observation(found, world.value(found, random)) for found in random_design(bound, n_trials, random)]


def by_search(bound: BoundSpace, world: World, n_trials: int, seed: int) -> list[Observation]:
    """Run the search on simulated values."""
    random = np.random.default_rng((seed, 2))
    study = SearchStudy(MemoryLedger(), bound, Engine(seed=seed), budget=n_trials, epochs=1, top=3)
    while (task := study.ask()) is not None:
        study.finish(task.number, Outcome("complete", world.value(task.placement, random) / 100.0))
    return [replace(row, value=100.0 * row.value) for row in observations(study.records())]


DESIGNS: dict[str, Callable[[BoundSpace, World, int, int], list[Observation]]] = {
    "random": by_random,
    "search": by_search,
}


@dataclass(frozen=True)
class Cell:
    """One estimated effect; `low` and `high` are None where a method has no interval."""

    site: str
    attention: str
    mean: float
    low: float | None
    high: float | None
    is_framed: bool


def ours(rows: Sequence[Observation], sites: Sequence[str]) -> tuple[list[Cell], dict[str, float]]:
    """Return the effects by regression; a merged row is split into its sites."""
    found = site_effects(rows, sites)
    cells = [
        Cell(site, effect.attention, effect.mean, effect.low, effect.high, effect.is_clear)
        for effect in found.effects
        for site in effect.sites
    ]
    return cells, {"enough": float(found.enough)} | (
        {} if found.enough else {"needed": float(found.needed or math.inf)}
    )


def means(rows: Sequence[Observation], sites: Sequence[str]) -> tuple[list[Cell], dict[str, float]]:
    """Return the effects as differences of means over placements."""
    values: dict[Placement, list[float]] = defaultdict(list)
    for row in rows:
        values[row.placement].append(row.value)
    cells = []
    for site in sites:
        groups: dict[str, list[float]] = defaultdict(list)
        for placement, found in values.items():
            name = placement[site].name if site in placement.attentions else "none"
            groups[name].append(fmean(found))
        for family in sorted(set(groups) - {"none"}):
            with_it, without = groups[family], groups["none"]
            if not without:
                continue
            mean = fmean(with_it) - fmean(without)
            if min(len(with_it), len(without)) < 2:
                cells.append(Cell(site, family, mean, None, None, False))
                continue
            low, high = ttest_ind(with_it, without, equal_var=False).confidence_interval(0.95)
            cells.append(Cell(site, family, mean, low, high, low > 0 or high < 0))
    return cells, {}


METHODS = {"ours": ours, "means": means}


def measures(cells: Sequence[Cell], truth: Truth) -> dict[str, list[float]]:
    """Return what one table adds to the averages: a list of numbers by name."""
    true = [truth[cell.site, cell.attention] for cell in cells]
    errors = [cell.mean - value for cell, value in zip(cells, true, strict=True)]
    framed = [(cell.mean, value) for cell, value in zip(cells, true, strict=True) if cell.is_framed]
    true_squares: dict[str, float] = defaultdict(float)
    for (site, _), value in truth.items():
        true_squares[site] += value**2
    largest = max(true_squares, key=lambda site: true_squares[site])
    found = {
        "bias": [fmean(errors)],
        "rmse": [math.sqrt(fmean(error**2 for error in errors))],
        "cover": [
            float(cell.low <= value <= cell.high)
            for cell, value in zip(cells, true, strict=True)
            if cell.low is not None and cell.high is not None
        ],
        "frames": [float(len(framed))],
        "wrong": [float(mean * value <= 0.0) for mean, value in framed],
        "any wrong": [float(any(mean * value <= 0.0 for mean, value in framed))],
    }
    if any(truth.values()):
        squares: dict[str, float] = defaultdict(float)
        for cell in cells:
            squares[cell.site] += cell.mean**2
        found["top"] = [float(max(squares, key=lambda site: squares[site]) == largest)]
    return found


def simulate(name: str, design: str, bound: BoundSpace, n_trials: int, n_runs: int, seed: int) -> None:
    """Print one line per method."""
    sites = [site.name for site in bound.table.sites]
    sums: dict[str, dict[str, list[float]]] = {method: defaultdict(list) for method in METHODS}
    for run in range(n_runs):
        world = make_world(name, sites, np.random.default_rng((seed, run)))
        rows = DESIGNS[design](bound, world, n_trials, seed * 1_000 + run)
        for method, estimate in METHODS.items():
            started = time.perf_counter()
            cells, more = estimate(rows, sites)
            more["ms"] = 1_000.0 * (time.perf_counter() - started)
            for key, numbers in measures(cells, world.effects).items():
                sums[method][key] += numbers
            for key, number in more.items():
                sums[method][key].append(number)
    for method, found in sums.items():
        print(f"{name:10} {design:7} {len(sites):3} {n_trials:4} {method:6} {_line(found)}", flush=True)


COLUMNS = ("bias", "rmse", "cover", "frames", "wrong", "any wrong", "top", "enough", "needed", "ms")


def _line(found: dict[str, list[float]]) -> str:
    averages = {
        key: (median if key in ("needed", "ms") else fmean)(numbers) for key, numbers in found.items() if numbers
    }
    return " ".join(f"{_shown(key, averages.get(key)):>9}" for key in COLUMNS)


def _shown(key: str, number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:.0f}" if key in ("needed", "ms") else f"{number:+.3f}" if key == "bias" else f"{number:.3f}"


def main(arguments: Iterable[str] | None = None) -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description="The effects of sites against known truth.")
    parser.add_argument("--runs", type=int, default=100, help="simulated runs per line")
    parser.add_argument("--trials", type=int, nargs="+", default=[24, 50, 100, 300])
    parser.add_argument("--sites", type=int, nargs="+", default=[6, 16])
    parser.add_argument("--designs", nargs="+", default=list(DESIGNS), choices=list(DESIGNS))
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=WORLDS)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"{'world':10} {'design':7} {'k':>3} {'n':>4} {'method':6} {' '.join(f'{name:>9}' for name in COLUMNS)}")
    for design in chosen.designs:
        for n_sites in chosen.sites:
            bound = make_space(n_sites)
            for n_trials in chosen.trials:
                for name in chosen.worlds:
                    simulate(name, design, bound, n_trials, chosen.runs, chosen.seed)


if __name__ == "__main__":
    main()
