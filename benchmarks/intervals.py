"""Coverage of the intervals of an arm's share and of the difference of two arms, in simulations with known truth.

Run: `python benchmarks/intervals.py [--draws 10000] [--seeds 3 5 10 20] [--images 500 1258 10000]`, about 13 minutes on
one quiet core. `--predictions FOLDER` draws seeds and images from the predictions of a run instead; the arm's mean over
all of them is then the truth (where few seeds are stored, a draw repeats some, which all intervals suffer from).

A cell is a number of seeds and images, an expected number of errors a seed, a correlation of the errors of two seeds,
and a standard deviation of the seeds' true shares in points. Each line: coverage of the interval over seeds and images,
the share of draws in which it is refused, its mean width in points, and the peer's coverage (the t interval over the
seeds' values). Goal: 93 to 97 % with at least 20 errors; with fewer, at least 93 %, or no interval: at most 7 % of the
draws show an interval that is wrong.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from simulated_errors import Cell, Sums, draw

from nas_attn.comparison.contrasts import why_void
from nas_attn.comparison.contributions import accuracy
from nas_attn.comparison.crossed import Crossed, crossed, from_mean_squares, share_interval, t_interval
from nas_attn.statistics import t_quantile

Array = NDArray[np.float64]

ERRORS = {500: (4, 8, 20, 60), 1_258: (4, 8, 20, 60), 10_000: (20, 60, 200)}
CORRELATIONS, SEED_SDS = (0.0, 0.3, 0.6, 0.9), (0.0, 0.3, 1.0)
ENOUGH_ERRORS, LOW, HIGH = 20, 0.93, 0.97


@dataclass(frozen=True)
class Found:
    """What the draws of one cell gave.

    Args:
        coverage: Of the intervals that were given; NaN if none was.
        refused: Share of the draws without an interval.
        width: Mean width, in points.
        peer: Coverage of the t interval over the seeds' values.
    """

    what: str
    cell: str
    coverage: float
    refused: float
    width: float
    peer: float
    enough: bool


def main() -> None:
    """Print a line for each cell, then how many reach the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10, 20])
    parser.add_argument("--images", type=int, nargs="+", default=list(ERRORS), choices=list(ERRORS))
    parser.add_argument("--predictions", type=Path, help="a run's folder of stored predictions")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random = np.random.default_rng(given.seed)
    if given.predictions:
        rows = resampled(given.predictions, given.seeds, given.draws, random)
    else:
        rows = simulated(given.seeds, given.images, given.draws, random)
    found = []
    print(f"{'what':10} | {'seeds images errors corr. sd':34} | coverage | refused | width | t over seeds")
    for row in rows:
        found.append(row)
        print(
            f"{row.what:10} | {row.cell:34} | {row.coverage:7.1%}  | {row.refused:6.1%}  | {row.width:5.2f} | "
            f"{row.peer:6.1%}",
            flush=True,
        )
    for what in dict.fromkeys(row.what for row in found):
        print(_in_short(what, [row for row in found if row.what == what]))


def cells(seeds: Sequence[int], images: Sequence[int]) -> Iterator[Cell]:
    """Return all cells in which a seed's standard deviation is at most half of the share of errors."""
    for n in seeds:
        for n_images in images:
            for n_errors in ERRORS[n_images]:
                for sd in SEED_SDS:
                    if sd / 100 <= n_errors / n_images / 2:
                        yield from (Cell(n, n_images, n_errors, one, sd) for one in CORRELATIONS)


def simulated(seeds: Sequence[int], images: Sequence[int], draws: int, random: np.random.Generator) -> Iterator[Found]:
    """Return coverage in each cell, of an arm and of a difference."""
    for cell in cells(seeds, images):
        arm, difference = draw(cell, draws, random)
        name = f"{cell.n_seeds:5} {cell.n_images:6} {cell.n_errors:6g} {cell.correlation:5} {cell.seed_sd:3}"
        yield _measured("arm", name, arm, cell, cell.n_errors >= ENOUGH_ERRORS)
        yield _measured("difference", name, difference, cell, cell.n_errors >= ENOUGH_ERRORS)


def _measured(what: str, name: str, sums: Sums, cell: Cell, enough: bool) -> Found:
    """Judge each draw as the product does."""
    by_seed = sums.totals / cell.n_images
    errors = t_quantile(0.975, cell.n_seeds - 1) * by_seed.std(1, ddof=1) / math.sqrt(cell.n_seeds)
    peer = np.abs(by_seed.mean(1) - sums.truth) <= errors
    intervals = [_interval(what, found) for found in _records(sums, cell)]
    return _found(what, name, intervals, sums.truth, float(peer.mean()), enough)


def _found(
    what: str, name: str, intervals: Sequence[tuple[float, float] | None], truth: float, peer: float, enough: bool
) -> Found:
    ends = np.array([one for one in intervals if one is not None]).reshape(-1, 2)
    inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    coverage = float(inside.mean()) if len(ends) else math.nan
    width = 100 * float(np.mean(ends[:, 1] - ends[:, 0])) if len(ends) else math.nan
    return Found(what, name, coverage, 1.0 - len(ends) / len(intervals), width, peer, enough)


def _interval(what: str, found: Crossed) -> tuple[float, float] | None:
    if what == "arm":
        return None if why_void(found, "") or not 0.0 < found.mean < 1.0 else share_interval(found)
    return None if why_void(found, "") else t_interval(found)


def _records(sums: Sums, cell: Cell) -> Iterator[Crossed]:
    """Return the record of each draw, as `crossed` would make it from the whole matrix."""
    n, n_images = cell.n_seeds, cell.n_images
    mean = sums.totals.sum(1) / (n * n_images)
    of_seeds = np.square(sums.totals / n_images - mean[:, None]).sum(1) * n_images
    second, third, fourth = (sums.powers[:, k] / n ** (k + 1) for k in (1, 2, 3))
    squares = second - n_images * mean**2
    fourths = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * n_images * mean**4
    rest = np.maximum(sums.squares - n * n_images * mean**2 - of_seeds - n * squares, 0.0)
    active = np.divide(squares**2, fourths, out=np.zeros_like(squares), where=fourths > 0.0)
    table = (of_seeds / (n - 1), n * squares / (n_images - 1), rest / ((n - 1) * (n_images - 1)))
    for one, *parts, at in zip(*(column.tolist() for column in (mean, *table, active)), strict=True):
        yield from_mean_squares(one, (parts[0], parts[1], parts[2]), (n, n_images), at)


def resampled(folder: Path, seeds: Sequence[int], draws: int, random: np.random.Generator) -> Iterator[Found]:
    """Return coverage where seeds and images are drawn from those of stored predictions, with replacement.

    Args:
        folder: Holds `KEY-SEED-EPOCHS.npz` with `targets` and `predicted`, (N,). The files of one key with equal
            targets are an arm; arms with the same targets are compared with the first of them.
    """
    parts: dict[bytes, dict[str, list[Array]]] = {}
    for path in sorted(folder.glob("*-*-*.npz")):
        with np.load(path) as arrays:
            arms = parts.setdefault(arrays["targets"].tobytes(), {})
            right = accuracy(arrays["predicted"][None], arrays["targets"])[0]
        arms.setdefault(path.stem.rsplit("-", 2)[0], []).append(right)
    several = [[np.stack(rows) for rows in arms.values() if len(rows) > 2] for arms in parts.values()]
    if not any(several):
        raise SystemExit(f"{folder} must hold the predictions of an arm of at least 3 seeds, but holds none.")
    for n in seeds:
        for arms_of_part in several:
            for at, one in enumerate(arms_of_part):
                yield _resampled("arm", one, n, draws, random)
                if at and one.shape == arms_of_part[0].shape:
                    yield _resampled("difference", one - arms_of_part[0], n, draws, random)


def _resampled(what: str, values: Array, n: int, draws: int, random: np.random.Generator) -> Found:
    """Judge draws of n seeds and all images from one matrix."""
    truth, (n_seeds, n_images) = float(values.mean()), values.shape
    intervals, peers = [], []
    for _ in range(draws):
        rows = values[random.integers(0, n_seeds, n)][:, random.integers(0, n_images, n_images)]
        intervals.append(_interval(what, crossed(rows)))
        half = t_quantile(0.975, n - 1) * rows.mean(1).std(ddof=1) / math.sqrt(n)
        peers.append(abs(rows.mean() - truth) <= half)
    n_errors = n_images * (1.0 - truth if what == "arm" else float(np.abs(values).mean()))
    name = f"{n:5} {n_images:6} {n_errors:6.1f} of {n_seeds} seeds"
    return _found(what, name, intervals, truth, float(np.mean(peers)), n_errors >= ENOUGH_ERRORS)


def _in_short(what: str, rows: Sequence[Found]) -> str:
    """Return how many cells reach the goal, as one line."""
    large = [row for row in rows if row.enough]
    small = [row for row in rows if not row.enough]
    good = sum(LOW <= row.coverage <= HIGH for row in large)
    text = f"{what}: {good} of {len(large)} cells with enough errors between {LOW:.0%} and {HIGH:.0%}"
    if large:
        text += f" (least {min(r.coverage for r in large):.1%}, most {max(r.coverage for r in large):.1%})"
        text += f", t over seeds {sum(LOW <= r.peer <= HIGH for r in large)} (least {min(r.peer for r in large):.1%})"
    if small:
        wrong = max((1.0 - row.refused) * (1.0 - row.coverage) for row in small)
        text += f"; smaller cells: {sum(r.coverage >= LOW for r in small)} of {len(small)} at least {LOW:.0%}"
        text += f" (least {min(r.coverage for r in small):.1%}), at most {wrong:.1%} of the draws wrong"
    return text


if __name__ == "__main__":
    main()
