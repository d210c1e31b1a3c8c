"""How large is the noise of a run, and which differences can it tell?

    python analysis/noise_floor.py runs/densenet_attn [runs/OTHER ...] [--csv FILE] [--figure FILE]

Prints for every arm the sd between seeds, the standard error of its mean over new seeds and new images, and the part of
it that more seeds cannot remove, that of the test images. Then the same for every difference to `none`, with the
smallest true difference that 5, 10 and 20 seeds would tell (with 80 % probability, at the level of 5 %). Then how much
of the spread of the search's values is noise, and how far the best of so many trials exceeds their mean by luck alone.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.special import chdtri, fdtri, ndtr
from script import Result, load_runs, one_scale, parser_of, run_script, text_table

from nas_attn.comparison.contrasts import FEW_SEEDS, contrast, why_void
from nas_attn.comparison.crossed import FEWEST_SEEDS, Crossed, crossed, expected
from nas_attn.comparison.power import LEVEL, POWER
from nas_attn.errors import Refused
from nas_attn.records import BARE, FOUND, RunRecord, TrialRecord
from nas_attn.report.chart import COLUMN, style
from nas_attn.report.compare import run_names
from nas_attn.report.palette import LIGHT
from nas_attn.report.tables import Arm, arm_called, arms_of, measured
from nas_attn.report.words import Scale, count
from nas_attn.statistics import t_quantile
from nas_attn.study.confirm import CONFIRM_SEEDS

N_SEEDS = (5, 10, 20)
MOST_DRAWN = 40
"""Greatest number of seeds in the figure."""


@dataclass(frozen=True)
class Floor:
    """The noise of the test value of one arm, or of its difference to `none`.

    Args:
        sd: Standard deviation between seeds; of a difference, between the seeds' paired differences.
        error: Standard error of the mean; None where it is unknown, with the reason in `why`.
        image_error: The part of it that no number of seeds removes; None without predictions.
        found: The crossed components; None without predictions.
    """

    arm: str
    is_difference: bool
    n_seeds: int
    mean: float
    sd: float | None
    error: float | None = None
    image_error: float | None = None
    found: Crossed | None = None
    why: str = ""

    @property
    def image_share(self) -> float | None:
        """Share of the images in the variance of the mean."""
        if self.image_error is None or not self.error:
            return None
        return min(1.0, (self.image_error / self.error) ** 2)

    def tells(self, n_seeds: int) -> float | None:
        """Return the smallest true difference that so many seeds would tell; None where the noise is unknown.

        It is the difference for which `nas_attn.comparison.power.power` is `POWER`. Without predictions it is for new
        seeds on the same images.
        """
        if self.error is None or self.sd is None:
            return None
        error, degrees = self.sd / math.sqrt(n_seeds), n_seeds - 1.0
        if self.found is not None:
            planned = expected(self.found, n_seeds=n_seeds, n_images=self.found.n_images)
            error, degrees = planned.error, planned.degrees
        return error * (t_quantile(1.0 - LEVEL / 2, degrees) + t_quantile(POWER, degrees))


@dataclass(frozen=True)
class SearchNoise:
    """How much of the spread of a search is noise.

    Args:
        n_trials: Number of complete search trials with the search's own seed and length.
        sd: Standard deviation of their validation values.
        noise_sd: That of repeated trainings of one placement around the mean of their seed; None without any.
        degrees: Degrees of freedom of `noise_sd`.
        best: How far the best of the trials exceeds their mean.
    """

    n_trials: int
    sd: float
    best: float
    noise_sd: float | None = None
    degrees: int = 0

    @property
    def noise_interval(self) -> tuple[float, float] | None:
        """95 % interval of `noise_sd`, for normal noise."""
        if self.noise_sd is None:
            return None
        ends = (float(chdtri(self.degrees, tail)) for tail in (0.025, 0.975))
        low, high = (self.noise_sd * math.sqrt(self.degrees / end) for end in ends)
        return low, high

    @property
    def share(self) -> tuple[float, float, float] | None:
        """Share of the noise in the variance of the trials' values, with its 95 % interval, at most 1; None if unknown.

        Source: the ratio of two variances, by the F distribution; for normal values.
        """
        if self.noise_sd is None or self.sd == 0.0:
            return None
        ratio = (self.noise_sd / self.sd) ** 2
        low, high = (ratio / float(fdtri(self.degrees, self.n_trials - 1, tail)) for tail in (0.975, 0.025))
        return min(ratio, 1.0), min(low, 1.0), min(high, 1.0)

    @property
    def lucky(self) -> float | None:
        """How far the best would exceed the mean on average if all placements were equal; None if unknown."""
        return None if self.noise_sd is None else self.noise_sd * expected_maximum(self.n_trials)


def expected_maximum(n: int) -> float:
    """Return the expected maximum of n independent standard normal values.

    >>> round(expected_maximum(2), 4), round(expected_maximum(24), 4)
    (0.5642, 1.9477)
    """
    x = np.linspace(0.0, 9.0, 9001)
    below, above = ndtr(-x) ** n, 1.0 - ndtr(x) ** n
    heights = above - below
    return float((heights.sum() - (heights[0] + heights[-1]) / 2) * (x[1] - x[0]))


def floor_of(arm: Arm) -> Floor:
    """Return the noise of an arm's test value."""
    values = list(arm.by_seed.values())
    sd = stdev(values) if len(values) > 1 else None
    bare = Floor(arm.label, False, len(values), fmean(values), sd)
    if len(values) < FEWEST_SEEDS or sd is None:
        return _with(bare, None, FEW_SEEDS)
    if not arm.sample.images:
        return _with(bare, None, "")
    found = crossed(np.stack([arm.sample.images[seed] for seed in sorted(arm.by_seed)]))
    return _with(bare, found, why_void(found, "an error"))


def difference_of(arm: Arm, none: Arm) -> Floor | None:
    """Return the noise of an arm's difference to `none`; None if they share no seed."""
    found = contrast(
        arm.label,
        arm.by_seed,
        none.label,
        none.by_seed,
        by_image=arm.sample.images,
        others_by_image=none.sample.images,
    )
    if found.summary is None:
        return None
    bare = Floor(arm.label, True, found.summary.n, found.summary.mean, found.summary.sd)
    return _with(bare, found.crossed, found.why)


def _with(bare: Floor, found: Crossed | None, why: str) -> Floor:
    """Return the record with its errors, unless there is a reason why they are unknown."""
    if why or bare.sd is None:
        return replace(bare, why=why)
    if found is None:
        return replace(bare, error=bare.sd / math.sqrt(bare.n_seeds))
    return replace(bare, error=found.error, image_error=found.image_error, found=found)


def floors_of(run: RunRecord) -> list[Floor]:
    """Return the noise of every arm, then that of every difference to `none`."""
    arms = [arm for arm in arms_of(run) if arm.by_seed]
    none = arm_called(arms, BARE)
    pairs = [difference_of(arm, none) for arm in arms if arm is not none] if none is not None else []
    return [*map(floor_of, arms), *(pair for pair in pairs if pair is not None)]


def search_noise(run: RunRecord) -> SearchNoise | None:
    """Return how much of the spread of the search is noise; None with fewer than two trials.

    The noise is what is left of the confirmed placements' values after the means of placements and of seeds: the trials
    of a search share one seed, so that what a seed does to all placements is no part of their spread. The values of the
    search are not among them: the candidates were chosen by those. Nor are values by which a round of the confirm stage
    chose, as far as a placement went on: only its last two seeds count then.
    """
    trials = measured(run.search)
    own = Counter((trial.seed, trial.epochs) for trial in trials).most_common(1)
    kept = [trial for trial in trials if (trial.seed, trial.epochs) == own[0][0]] if own else []
    values = [float(trial.value) for trial in kept if trial.value is not None]
    if len(values) < 2:
        return None
    noise_sd, degrees = _residual_sd(_unchosen([row for row in measured(run.confirm) if row.epochs == kept[0].epochs]))
    return SearchNoise(len(values), stdev(values), max(values) - fmean(values), noise_sd, degrees)


def _unchosen(rows: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the confirm runs by whose values nothing was left out: all of a single round, else the last one's."""
    seeds = {
        row.key: sorted(other.seed for other in rows if other.key == row.key) for row in rows if len(row.placement)
    }
    numbers = set(map(len, seeds.values()))
    most = max(numbers, default=0)
    if len(numbers) < 2 or most <= CONFIRM_SEEDS:
        return list(rows)
    return [row for row in rows if len(seeds.get(row.key, ())) == most and row.seed in seeds[row.key][-CONFIRM_SEEDS:]]


def _residual_sd(rows: Sequence[TrialRecord]) -> tuple[float | None, int]:
    """Return sd and degrees of freedom of what placements and seeds do not explain; None if nothing is left."""
    if not rows:
        return None, 0
    placements, seeds = sorted({row.key for row in rows}), sorted({row.seed for row in rows})
    columns = [[row.key == key for row in rows] for key in placements] + [
        [row.seed == n for row in rows] for n in seeds
    ]
    design = np.array(columns, dtype=np.float64).T
    values = np.array([row.value for row in rows], dtype=np.float64)
    solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    degrees = len(rows) - int(rank)
    if degrees < 1:
        return None, 0
    return math.sqrt(float(np.square(values - design @ solution).sum()) / degrees), degrees


def floors_table(floors: Sequence[Floor], scale: Scale, n_seeds: Sequence[int]) -> str:
    """Return the noise of arms, or of differences, as text."""
    is_difference = floors[0].is_difference
    rows = []
    for floor in floors:
        mean = scale.signed(floor.mean) if is_difference else scale.number(floor.mean)
        spread = [_number(one, scale) for one in (floor.sd, floor.error, floor.image_error)]
        share = "" if floor.image_share is None else f"{100 * floor.image_share:.0f} %"
        told = [_number(floor.tells(n), scale) for n in n_seeds] if is_difference else []
        rows.append([floor.arm, str(floor.n_seeds), mean, *spread, share, *told])
    columns = ["arm", "n", "minus none" if is_difference else "mean", "sd", "error", "of images", "share"]
    return text_table([*columns, *(f"{n} seeds" for n in n_seeds if is_difference)], rows)


def _number(value: float | None, scale: Scale) -> str:
    return "" if value is None else scale.unsigned(value)


def search_words(found: SearchNoise | None, scale: Scale) -> str:
    """Return what the search's spread consists of, in sentences."""
    if found is None:
        return "The search has fewer than 2 complete trials."
    points = scale.points
    sd = f"The validation values of {found.n_trials} search trials have an sd of {scale.unsigned(found.sd)}{points}"
    if found.noise_sd is None or found.noise_interval is None or found.lucky is None:
        return f"{sd}; no placements were confirmed with the same seeds, so that the noise in it is unknown."
    low, high = (scale.unsigned(end) for end in found.noise_interval)
    noise = f"The noise of one training has an sd of {scale.unsigned(found.noise_sd)}{points} (95 %: {low} to {high})"
    told = f", from {count(found.degrees, 'degree')} of freedom"
    if found.share is not None:
        share, least, most = (f"{100 * part:.0f}" for part in found.share)
        told += f": {share} % of the search's variance (95 %: {least} to {most} %)"
    luck = f"If all placements were equal, the best would exceed the mean by {scale.unsigned(found.lucky)}{points}"
    return f"{sd}.\n{noise}{told}.\n{luck} by luck alone; it does by {scale.unsigned(found.best)}."


def text_of(name: str, floors: Sequence[Floor], noise: SearchNoise | None, scale: Scale, seeds: Sequence[int]) -> str:
    """Return the tables of one run."""
    unit = scale.points.strip() or "its unit"
    lines = [f"{name}: noise of the test {scale.noun}, in {unit}"]
    for is_difference in (False, True):
        part = [floor for floor in floors if floor.is_difference == is_difference]
        if part:
            lines += ["", floors_table(part, scale, seeds)]
    if any(floor.is_difference for floor in floors):
        lines.append(
            f"Last columns: the smallest true difference that so many seeds tell in {100 * POWER:.0f} % of cases."
        )
    whys: dict[str, list[str]] = {}
    for floor in floors:
        whys.setdefault(floor.why, []).append(f"{floor.arm} - {BARE}" if floor.is_difference else floor.arm)
    lines += [f"Unknown for {', '.join(arms)}: {why}." for why, arms in whys.items() if why]
    if any(floor.found is None and not floor.why for floor in floors):
        lines.append("Without predictions of every seed, an error is for new seeds on the same images.")
    return "\n".join([*lines, "", search_words(noise, scale)])


def rows_of(
    name: str, floors: Sequence[Floor], noise: SearchNoise | None, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the rows of the CSV file: arms, differences, and the search."""
    rows: list[dict[str, Any]] = []
    for floor in floors:
        kind = f"minus {BARE}" if floor.is_difference else "arm"
        row = {"run": name, "kind": kind, "arm": floor.arm, "n": floor.n_seeds, "mean": floor.mean, "sd": floor.sd}
        told = {f"tells_{n}_seeds": floor.tells(n) for n in seeds} if floor.is_difference else {}
        rows.append(row | {"error": floor.error, "image_error": floor.image_error} | told)
    if noise is not None:
        share, low, high = noise.share or (None, None, None)
        row = {"run": name, "kind": "search", "n": noise.n_trials, "sd": noise.sd, "noise_sd": noise.noise_sd}
        parts = {"noise_share": share, "noise_share_low": low, "noise_share_high": high}
        rows.append(row | parts | {"best_above_mean": noise.best, "best_by_luck": noise.lucky})
    return rows


def draw(found: Mapping[str, Sequence[Floor]], scale: Scale) -> Figure:
    """Draw the smallest difference that can be told over the number of seeds: a line for each difference to `none`."""
    with style():
        figure = Figure(figsize=(1.4 * COLUMN, 0.95 * COLUMN), layout="constrained")
        axes = figure.subplots()
        seeds = range(FEWEST_SEEDS, MOST_DRAWN + 1)
        for number, (name, floors) in enumerate(found.items()):
            for floor in (one for one in floors if one.is_difference and one.error is not None):
                is_found = FOUND in floor.arm
                told = [(floor.tells(n) or 0.0) * scale.factor for n in seeds]
                label = f"{FOUND}, {name}" if is_found else None
                colour = LIGHT[f"f{number % 10}"] if is_found else LIGHT["dim"]
                axes.plot(seeds, told, color=colour, lw=1.6 if is_found else 0.6, zorder=2 + is_found, label=label)
                if is_found:
                    seen = abs(floor.mean) * scale.factor
                    axes.plot([floor.n_seeds], [seen], "o", ms=4.5, color=colour, mec=LIGHT["paper"], zorder=4)
        axes.set_xlabel("Seeds per arm")
        axes.set_ylabel(f"Smallest difference told{f' ({scale.points.strip()})' if scale.points else ''}")
        axes.set_ylim(bottom=0.0)
        axes.grid()
        if axes.get_legend_handles_labels()[1]:
            axes.legend(title="line: told; dot: observed; grey: other arms", title_fontsize=6.5)
    return figure


def analyse(chosen: argparse.Namespace) -> Result:
    """Return the noise of every run."""
    few = next((n for n in chosen.seeds if n < FEWEST_SEEDS), None)
    if few is not None:
        raise Refused(f"--seeds must be {FEWEST_SEEDS} or more, but got {few}.")
    runs = load_runs(chosen.runs)
    names = run_names(runs)
    scale = one_scale(names, runs)
    texts, rows, found = [], [], {}
    for name, run in zip(names, runs, strict=True):
        floors, noise = floors_of(run), search_noise(run)
        if not any(floor.error is not None for floor in floors) and noise is None:
            raise Refused(
                f"Noise is seen in values that were measured several times, but {name} has no arm with {FEWEST_SEEDS} "
                "seeds and fewer than 2 search trials: finish its search."
            )
        texts.append(text_of(name, floors, noise, scale, chosen.seeds))
        rows += rows_of(name, floors, noise, chosen.seeds)
        found[name] = floors
    return Result("\n\n".join(texts), rows, partial(draw, found, scale))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, such as runs/densenet_attn")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=N_SEEDS, metavar="N", help="numbers of seeds (default: 5 10 20)"
    )
    return run_script(parser, analyse, arguments)


if __name__ == "__main__":
    sys.exit(main())
