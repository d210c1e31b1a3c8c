"""How often does attention win, and by how much, over several runs?

    python analysis/compare_runs.py runs/seed0 runs/seed1000 runs/seed2000 [--csv FILE] [--figure FILE]

Prints the test values of the arms, one column per run, and the gain of each arm over `none` (or --baseline): in how
many runs it is above zero, and its mean over the runs with a 95 % interval for new runs, such as other search seeds.
The words of all arms but found #1 are corrected together (Holm). `nas-attn compare` shows each run with its costs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pooling import covers_of, over_runs, repeated_seeds
from script import Result, load_runs, one_scale, parser_of, range_text, run_script, text_table

from nas_attn.comparison.contrasts import Contrast, as_family
from nas_attn.comparison.power import LEVEL
from nas_attn.errors import Refused, unknown
from nas_attn.records import BARE, FOUND, RunRecord
from nas_attn.report.chart import COLUMN, style
from nas_attn.report.compare import compare_runs, run_names
from nas_attn.report.palette import LIGHT
from nas_attn.report.tables import Arm, arm_called, arms_of
from nas_attn.report.words import Scale, placement_words

Arms = Mapping[str, Mapping[str, Arm]]
"""The arms that have a test value, by name and run."""


@dataclass(frozen=True)
class Gain:
    """One arm minus the baseline over the runs that have both.

    Args:
        by_run: Mean difference over the seeds of each run.
        pooled: Their mean with its interval.
    """

    arm: str
    by_run: Mapping[str, float]
    pooled: Contrast

    @property
    def n_won(self) -> int:
        """Number of runs in which the arm has the higher mean."""
        return sum(gain > 0.0 for gain in self.by_run.values())


def arms_by_name(names: Sequence[str], runs: Sequence[RunRecord]) -> dict[str, dict[str, Arm]]:
    """Return the arms by each of their names: found #1 first, then `none`, then in the order of the runs' tables."""
    found: dict[str, dict[str, Arm]] = {FOUND: {}, BARE: {}}
    for run_name, run in zip(names, runs, strict=True):
        for arm in arms_of(run):
            for name in arm.names if arm.summary is not None else ():
                found.setdefault(name, {})[run_name] = arm
    return {name: arms for name, arms in found.items() if arms}


def gains_of(arms: Arms, baseline: str, *, same_images: bool) -> list[Gain]:
    """Return the gain of every arm over the baseline; found #1 is the planned one, the others are one family."""
    gains = []
    for name, by_run in arms.items():
        pairs = {
            run: (arm.sample, arms[baseline][run].sample)
            for run, arm in by_run.items()
            if run in arms[baseline] and arm is not arms[baseline][run]
        }
        pooled = over_runs(pairs, same_images=same_images)
        kept = [run for run, (arm, other) in pairs.items() if arm.by_seed.keys() & other.by_seed.keys()]
        if kept:
            gains.append(Gain(name, dict(zip(kept, pooled.by_seed.values(), strict=True)), pooled))
    others = [gain for gain in gains if gain.arm != FOUND]
    words = as_family([gain.pooled for gain in others], LEVEL) if others else []
    corrected = {gain.arm: replace(gain, pooled=pooled) for gain, pooled in zip(others, words, strict=True)}
    return [corrected.get(gain.arm, gain) for gain in gains]


def arms_table(names: Sequence[str], arms: Arms, scale: Scale) -> str:
    """Return mean and sd over the seeds of every arm, one column per run."""
    rows = [[name, *(_value(by_run.get(run), scale) for run in names)] for name, by_run in arms.items()]
    return text_table(["arm", *names], rows)


def _value(arm: Arm | None, scale: Scale) -> str:
    if arm is None or arm.summary is None:
        return ""
    spread = "" if arm.summary.sd is None else f" ± {scale.number(arm.summary.sd)}"
    return scale.number(arm.summary.mean) + spread


def gains_table(gains: Sequence[Gain], baseline: str, scale: Scale) -> str:
    """Return the gains as text."""
    rows = []
    for gain in gains:
        summary = gain.pooled.summary
        assert summary is not None, "a gain has at least one run"
        won = f"{gain.n_won} of {len(gain.by_run)}"
        cells = [won, scale.signed(summary.mean), range_text(scale, summary.interval), gain.pooled.word]
        rows.append([gain.arm, *cells])
    return text_table(["arm", f"above {baseline}", "mean gain", "95 % interval", "word"], rows)


def rows_of(names: Sequence[str], arms: Arms, gains: Sequence[Gain], baseline: str) -> list[dict[str, Any]]:
    """Return the rows of the CSV file: every arm of every run, then every arm over all runs."""
    by_arm = {gain.arm: gain.by_run for gain in gains}
    rows: list[dict[str, Any]] = []
    for run in names:
        for name, arm in ((name, by_run[run]) for name, by_run in arms.items() if run in by_run):
            assert arm.summary is not None, "arms without values are left out"
            row = {"run": run, "arm": name, "n": arm.summary.n, "mean": arm.summary.mean, "sd": arm.summary.sd}
            rows.append(row | {"baseline": baseline, "gain": by_arm.get(name, {}).get(run)})
    for gain in gains:
        summary = gain.pooled.summary
        assert summary is not None, "a gain has at least one run"
        row = {"run": "all", "arm": gain.arm, "n": summary.n, "baseline": baseline, "gain": summary.mean}
        won = {"low": summary.low, "high": summary.high, "won": gain.n_won, "word": gain.pooled.word}
        rows.append(row | won | {"covers": covers_of(gain.pooled)})
    return rows


def draw(gains: Sequence[Gain], baseline: str, scale: Scale) -> Figure:
    """Draw the gain of every arm: a dot for each run, their mean and its interval."""
    with style():
        figure = Figure(figsize=(1.6 * COLUMN, 0.6 + 0.24 * len(gains)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0.0, color=LIGHT["muted"], lw=0.8)
        for place, gain in enumerate(gains):
            summary = gain.pooled.summary
            assert summary is not None, "a gain has at least one run"
            colour = LIGHT[{"better": "better", "worse": "worse"}.get(gain.pooled.word, "plain")]
            if summary.interval is not None:
                ends = [end * scale.factor for end in summary.interval]
                axes.plot(ends, [place, place], color=colour, lw=1.8, alpha=0.6)
            dots = [value * scale.factor for value in gain.by_run.values()]
            axes.plot(dots, [place] * len(dots), "o", ms=3.2, color=colour, alpha=0.5, mew=0)
            axes.plot([summary.mean * scale.factor], [place], "|", ms=10, mew=1.8, color=colour)
        labels = [f"{gain.arm} ({gain.n_won} of {len(gain.by_run)})" for gain in gains]
        axes.set_yticks(range(len(gains)), labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(gains) - 0.4, -0.6)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_xlabel(
            f"Test {scale.noun} minus that of {baseline}{f' ({scale.points.strip()})' if scale.points else ''}"
        )
    return figure


def analyse(chosen: argparse.Namespace) -> Result:
    """Return the arms of the runs and their gains."""
    runs = load_runs(chosen.runs, at_least=2)
    names = run_names(runs)
    found, scale = compare_runs(runs), one_scale(names, runs)
    arms = arms_by_name(names, runs)
    if chosen.baseline not in arms:
        raise Refused(unknown("arm with test values", chosen.baseline, arms))
    gains = gains_of(arms, chosen.baseline, same_images=found.is_same_data)
    if not gains:
        raise Refused(
            f"A gain needs a run with test values of {chosen.baseline} and of another arm for one seed, but "
            f"{' and '.join(names)} have none: finish the searches."
        )
    notes = [*found.notes, repeated_seeds(names, runs)]
    unit = f" ({scale.unit.strip()})" if scale.unit.strip() else ""
    places = [
        f"{FOUND} of {name}: {placement_words(arm.placement, run.table)}"
        for name, run in zip(names, runs, strict=True)
        if (arm := arm_called(arms_of(run), FOUND)) is not None
    ]
    text = [
        *(note for note in notes if note),
        f"Test {scale.noun}{unit}, mean ± sd over the seeds",
        arms_table(names, arms, scale),
        *places,
        f"\nGain over {chosen.baseline}{f' in{scale.points}' if scale.points else ''}, over the runs",
        gains_table(gains, chosen.baseline, scale),
        f"Interval of {gains[0].arm}: {covers_of(gains[0].pooled)}.",
    ]
    rows = rows_of(names, arms, gains, chosen.baseline)
    return Result("\n".join(text), rows, partial(draw, gains, chosen.baseline, scale))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, at least two")
    parser.add_argument("--baseline", default=BARE, metavar="ARM", help="the arm that gains refer to (default: none)")
    return run_script(parser, analyse, arguments)


if __name__ == "__main__":
    sys.exit(main())
