"""Tables of trained points: what every point of a small space reached, so that a sampler is judged in seconds.

Two kinds are read: tables of placements that `placement_table.py` measured, one `.npz` per seed, and one `.npz` with
`ops`, the choice at each site, (N, sites) whole numbers, and `accuracy`, (N, seeds) in percent with NaN where a seed is
missing, as in NAS-Bench-201 (Dong & Yang, ICLR 2020).

    python benchmarks/tables.py lenet_mnist                       # what the table says
    python benchmarks/regret.py lenet_mnist --samplers placement tpe random
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import kendalltau

from nas_attn.config import Recipe
from nas_attn.placement import Placement
from nas_attn.space.bound import BoundSpace
from nas_attn.space.search_space import SearchSpace

FOLDER = Path(__file__).parent / "tables"

Floats = NDArray[np.float64]
Point = tuple[int, ...]


class NoTable(Exception):
    """There is no table of this name, with what to do about it."""


@dataclass(frozen=True)
class PlacementTable:
    """Measured placements of one space.

    Args:
        sites: Names of the sites.
        choices: The choices of each site as attentions with options; the first one is none.
        codes: The choice at each site of each placement. Shape: (N, sites).
        curves: Share of the validation images that are right after each epoch, NaN for a seed that was not trained.
            Shape: (N, seeds, epochs).
        val, test: Whether each image is right after the last epoch; all False for a seed that was not trained.
            Shape: (N, seeds, images).
        n_parameters, n_macs: Of each placement. Shape: (N,).
        seconds: Time of each training on one core. Shape: (N, seeds).
        latency: Time of a pass of one image on one thread over that of no attention. Shape: (N,).
    """

    sites: tuple[str, ...]
    choices: tuple[Mapping[str, object] | None, ...]
    codes: tuple[Point, ...]
    curves: Floats
    val: NDArray[np.bool_]
    test: NDArray[np.bool_]
    n_parameters: NDArray[np.int64]
    n_macs: NDArray[np.int64]
    seconds: Floats
    latency: Floats

    @cached_property
    def is_trained(self) -> NDArray[np.bool_]:
        """Whether a placement was trained with a seed. Shape: (N, seeds)."""
        return ~np.isnan(self.curves[..., -1])

    @cached_property
    def val_accuracy(self) -> Floats:
        """Share of right validation images in percent; NaN for a seed that was not trained. Shape: (N, seeds)."""
        return np.where(self.is_trained, 100 * self.val.mean(axis=-1), np.nan)

    @cached_property
    def test_accuracy(self) -> Floats:
        """Share of right test images in percent; NaN for a seed that was not trained. Shape: (N, seeds)."""
        return np.where(self.is_trained, 100 * self.test.mean(axis=-1), np.nan)

    @cached_property
    def both(self) -> Floats:
        """Share of right images of validation and test in percent. Shape: (N, seeds)."""
        n_val, n_test = self.val.shape[-1], self.test.shape[-1]
        return (n_val * self.val_accuracy + n_test * self.test_accuracy) / (n_val + n_test)

    def attentions(self, codes: Sequence[int]) -> dict[str, dict[str, object]]:
        """Return the attention with options at each site of a placement that has one."""
        chosen = {site: self.choices[code] for site, code in zip(self.sites, codes, strict=True)}
        return {site: dict(choice) for site, choice in chosen.items() if choice is not None}

    def name(self, codes: Sequence[int]) -> str:
        """Return a placement in words, such as `lska at stage1.pool`."""
        attentions = self.attentions(codes)
        if not attentions:
            return "none"
        by_name: dict[str, list[str]] = {}
        for site, attention in attentions.items():
            by_name.setdefault(str(attention["name"]), []).append(site)
        if len(by_name) == 1 and len(attentions) == len(self.sites):
            return f"{next(iter(by_name))} everywhere"
        return "; ".join(f"{name} at {', '.join(sites)}" for name, sites in by_name.items())

    @cached_property
    def everywhere(self) -> list[int]:
        """Rows of the placements with one choice at all sites; the first one is `none`."""
        return [index for index, codes in enumerate(self.codes) if len(set(codes)) == 1]


def load_placements(name: str, folder: Path = FOLDER) -> PlacementTable:
    """Return a table of placements. Raises: NoTable if it is not there."""
    files = sorted(folder.glob(f"{name}-seed*.npz"), key=lambda path: int(path.stem.rpartition("seed")[2]))
    if not files:
        raise NoTable(
            f"There is no table '{name}' in {folder}: benchmarks/placement_table.py measures it, and a checkout of the "
            "repository has it."
        )
    parts = [np.load(path) for path in files]
    facts = json.loads(str(parts[0]["facts"]))
    codes = [tuple(row) for row in parts[0]["codes"].tolist()]
    rows = {point: index for index, point in enumerate(codes)}
    n_val, n_test, epochs = facts["n_val"], facts["n_test"], parts[0]["curves"].shape[1]
    shape = (len(codes), len(parts))
    curves, seconds = np.full((*shape, epochs), np.nan), np.full(shape, np.nan)
    val, test = np.zeros((*shape, n_val), dtype=bool), np.zeros((*shape, n_test), dtype=bool)
    for seed, part in enumerate(parts):
        at = [rows[tuple(row)] for row in part["codes"].tolist()]
        curves[at, seed], seconds[at, seed] = part["curves"], part["seconds"]
        val[at, seed] = np.unpackbits(part["val"], axis=1, count=n_val)
        test[at, seed] = np.unpackbits(part["test"], axis=1, count=n_test)
    return PlacementTable(
        tuple(facts["sites"]), tuple(facts["choices"]), tuple(codes), curves, val, test,
        parts[0]["n_parameters"], parts[0]["n_macs"], seconds, _latency(folder / f"{name}-latency.npz", codes),
    )  # fmt: skip


def _latency(path: Path, codes: Sequence[Point]) -> Floats:
    """Return the latency of each placement over that of no attention; NaN for all where it was not measured."""
    if not path.is_file():
        return np.full(len(codes), np.nan)
    measured = np.load(path)
    ratios = dict(zip(map(tuple, measured["codes"].tolist()), measured["ratio"].tolist(), strict=True))
    return np.array([ratios[point] for point in codes])


def whole_recipe(space: SearchSpace) -> Recipe:
    """Return the recipe of a table's trainings: the whole schedule, where a search trial may have a shorter one."""
    recipe = Recipe(**space.recipe)
    return Recipe(**{**space.recipe, "epochs": recipe.retrain_epochs or recipe.epochs, "retrain_epochs": None})


def coded(space: BoundSpace) -> Iterator[tuple[Point, Placement]]:
    """Return every placement of a space with its codes, in the order of the table."""
    sizes = (range(len(decision.distinct)) for decision in space.decisions)
    return zip(product(*sizes), space.enumerate(), strict=True)


@dataclass(frozen=True)
class Table:
    """Values of several seeds by point, which a search sees one seed of, and the value that counts in the end.

    Args:
        values: What a training of the point returned, one per seed.
        truth: What the point is worth.
    """

    name: str
    values: Mapping[Point, Floats]
    truth: Mapping[Point, float]

    @cached_property
    def best(self) -> float:
        """The greatest worth of a point."""
        return max(self.truth.values())

    @cached_property
    def sizes(self) -> list[int]:
        """Number of choices of each site."""
        return (np.array(list(self.values)).max(axis=0) + 1).tolist()

    def regret(self, point: Point) -> float:
        """Return the greatest worth less that of a point."""
        return self.best - self.truth[point]


def load_table(name: str, epoch: int | None = None) -> Table:
    """Return a table by the path of its file, or by the name of a table of placements.

    Of placements a training returns the accuracy on the validation images of one seed, and the worth is the mean over
    the seeds on validation and test images.

    Args:
        epoch: Of placements, the epoch after which a training returns its value; None is the last one.
    Raises: NoTable if it is not there, or has no such epoch.
    """
    path = Path(name)
    if path.suffix == ".npz":
        if not path.is_file():
            raise NoTable(
                f"There is no table {path}: it must be an .npz with `ops` and `accuracy`, such as one made of "
                "NAS-Bench-201."
            )
        if epoch is not None:
            raise NoTable(f"Only tables of placements have curves, but {path} is of points: leave the epoch out.")
        content = np.load(path)
        rows = zip(content["ops"].tolist(), content["accuracy"], strict=True)
        values = {tuple(ops): row[~np.isnan(row)] for ops, row in rows}
        return Table(path.name, values, {point: float(row.mean()) for point, row in values.items()})
    placements = load_placements(name)
    n_epochs = placements.curves.shape[-1]
    if not 1 <= (epoch or n_epochs) <= n_epochs:
        raise NoTable(f"The epoch must be one of 1 to {n_epochs}, but is {epoch}.")
    values = 100 * placements.curves[..., (epoch or n_epochs) - 1]
    seen = {point: row[~np.isnan(row)] for point, row in zip(placements.codes, values, strict=True)}
    worth = np.nanmean(placements.both, axis=1)
    return Table(name, seen, dict(zip(placements.codes, worth.tolist(), strict=True)))


def noise(table: PlacementTable) -> tuple[float, float]:
    """Return the median standard deviation of the seeds of a placement, on validation and on all images, in points."""
    values = [np.nanstd(found, axis=1, ddof=1) for found in (table.val_accuracy, table.both)]
    return float(np.median(values[0])), float(np.median(values[1]))


def explained(codes: Sequence[Point], values: Floats) -> list[float]:
    """Return the shares of the values' variance that sites explain alone, and in pairs."""
    points, shares, columns = np.array(codes), [], [np.ones((len(codes), 1))]
    sites = [points[:, [at]] == np.arange(1, points.max() + 1) for at in range(points.shape[1])]
    pairs = [
        (one[:, :, None] & other[:, None, :]).reshape(len(points), -1)
        for index, one in enumerate(sites)
        for other in sites[index + 1 :]
    ]
    for further in (sites, pairs):
        columns += [np.asarray(part, dtype=np.float64) for part in further]
        design = np.concatenate(columns, axis=1)
        left = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        shares.append(1 - float(left.var() / values.var()))
    return shares


def summary(table: PlacementTable) -> Iterator[str]:
    """Yield what a table says, line by line, as Markdown."""
    means, n = np.nanmean(table.both, axis=1), table.is_trained.sum(axis=1)
    none = means[0]
    of_val, of_both = noise(table)
    yield f"{len(means)} placements, {table.is_trained.sum():,} trainings; {n.min()} to {n.max()} seeds a placement."
    yield f"The luck of a seed (sd, median): {of_val:.2f} points on validation, {of_both:.2f} on all images."
    better = 100 * np.mean(means > none)
    yield f"Placements better than none: {better:.0f} %; below 80 % accuracy: {np.sum(means < 80)}."
    yield ""
    yield "| placement | seeds | accuracy | minus none | latency |"
    yield "|---|---|---|---|---|"
    for row in [*np.argsort(-means, kind="stable")[:5].tolist(), *table.everywhere]:
        figures = f"{n[row]} | {means[row]:.2f} | {means[row] - none:+.2f} | {table.latency[row]:.1f} x"
        yield f"| {table.name(table.codes[row])} | {figures} |"
    yield ""
    names = [str(choice["name"]) for choice in table.choices if choice is not None]
    yield f"| alone at the site; mean over all else | {' | '.join(names)} |"
    yield f"|---|{'---|' * len(names)}"
    codes = np.array(table.codes)
    for at, site in enumerate(table.sites):
        cells = []
        for code in range(1, len(names) + 1):
            alone = means[np.flatnonzero((codes[:, at] == code) & ((codes > 0).sum(axis=1) == 1))[0]] - none
            over_all = np.median(means[codes[:, at] == code] - means[codes[:, at] == 0])
            cells.append(f"{alone:+.2f}; {over_all:+.2f}")
        yield f"| {site} | {' | '.join(cells)} |"
    yield ""
    limits = ndtri(means / 100)
    alone, pairs = explained(table.codes, limits)
    yield f"Variance explained (on the scale of the normal quantile): sites alone {alone:.2f}, with pairs {pairs:.2f}."
    yield ""
    yield "| epoch | Kendall's tau of one seed's validation value with the mean of the others |"
    yield "|---|---|"
    others = np.nanmean(table.both[:, 1:], axis=1)
    for epoch in range(2, table.curves.shape[-1] + 1, 2):
        yield f"| {epoch} | {kendalltau(table.curves[:, 0, epoch - 1], others).statistic:.2f} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what a table of placements says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", default="lenet_mnist")
    stated = parser.parse_args(arguments)
    try:
        print("\n".join(summary(load_placements(stated.table))))
    except NoTable as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
