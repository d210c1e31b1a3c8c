"""Two arms compared over several runs: a run counts as one value, the mean of its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.comparison.answer import Sample
from nas_attn.comparison.contrasts import Contrast, contrast
from nas_attn.records import RunRecord
from nas_attn.report.words import count


def over_runs(pairs: Mapping[str, tuple[Sample, Sample]], *, same_images: bool) -> Contrast:
    """Return the first arms minus the second ones, with the interval of new runs.

    The seeds of a run share its search, so that they are no independent values: each run counts once. If all runs were
    tested on the same images, and their predictions are stored, the interval is for new runs and new images.

    Args:
        pairs: By run, two arms; those that share no seed are left out.
        same_images: Whether all runs were tested on the same images.
    """
    shared = {name: sorted(arm.by_seed.keys() & other.by_seed.keys()) for name, (arm, other) in pairs.items()}
    kept = [name for name, seeds in shared.items() if seeds]
    sides = [{name: (pairs[name][side], shared[name]) for name in kept} for side in (0, 1)]
    values = [{at: _value(*side[name]) for at, name in enumerate(kept)} for side in sides]
    images = [{at: _images(*side[name]) for at, name in enumerate(kept)} for side in sides]
    known = [{at: rows for at, rows in side.items() if rows is not None} if same_images else {} for side in images]
    return contrast("", values[0], "", values[1], by_image=known[0], others_by_image=known[1])


def covers_of(found: Contrast) -> str:
    """Return what the interval of `over_runs` is for, or why there is none."""
    if found.word == "not known":
        return found.why.replace("seeds", "runs")
    return "new runs and new images of this kind" if found.crossed else "new runs only"


def repeated_seeds(names: Sequence[str], runs: Sequence[RunRecord]) -> str:
    """Return in one sentence that runs were retrained with the same seeds; empty if none were.

    Runs with `--seed 0` and `--seed 1` retrain with overlapping seeds: their arms without attention are then partly the
    same networks, so that the runs are not independent.
    """
    seeds = [{row.seed for row in run.retrain} for run in runs]
    most, pair = max(
        ((len(seeds[a] & seeds[b]), (names[a], names[b])) for a, b in combinations(range(len(runs)), 2)),
        default=(0, ("", "")),
    )
    if not most:
        return ""
    return (
        f"Not independent: {pair[0]} and {pair[1]} retrain with {count(most, 'seed')} in common, so that intervals "
        "over runs are too narrow: start the searches with --seed 0, 1000, 2000, ..."
    )


def _value(sample: Sample, seeds: Sequence[int]) -> float:
    return fmean(sample.by_seed[seed] for seed in seeds)


def _images(sample: Sample, seeds: Sequence[int]) -> NDArray[Any] | None:
    """Return the mean contribution of each image, or None without predictions."""
    if any(seed not in sample.images for seed in seeds):
        return None
    return np.asarray(np.mean([sample.images[seed] for seed in seeds], axis=0))
