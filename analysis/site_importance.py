"""Which sites, and which attentions there, matter over all trials of one or several runs?

    python analysis/site_importance.py runs/densenet_attn [runs/OTHER ...] [--out FOLDER]

Prints a table of marginal means and writes it as site_importance.csv, with a figure (.svg, .png). The mean of each run
is subtracted from its values, so that runs on different data can be pooled; sites are matched by name. A marginal mean
is a hint: the sampler tries more of what did well, so the sites are not independent.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from nas_attn import NasAttnError, load_run
from nas_attn.records import RunRecord
from nas_attn.report.figures import importance_chart
from nas_attn.report.importance import Marginal, Row, heat_map, marginals, rows_of, searched_sites
from nas_attn.report.words import PER_CENT, Scale, scale_of

COLUMNS = ("sites", "attention", "n", "mean", "low", "high", "against_none", "against_none_low", "against_none_high")


def pooled(runs: Sequence[RunRecord]) -> tuple[list[Row], list[str]]:
    """Return the placements of all runs, with values relative to the mean of their run, and all searched sites."""
    rows: list[Row] = []
    sites: dict[str, None] = {}
    for run in runs:
        found = rows_of(run.search)
        mean = fmean([value for _, value in found]) if found else 0.0
        rows += [(placement, value - mean) for placement, value in found]
        sites |= dict.fromkeys(searched_sites(run))
    return rows, list(sites)


def table_of(found: Sequence[Marginal], scale: Scale) -> str:
    """Return the marginal means as text, the largest effects first; a star marks an interval that excludes zero."""
    lines = [f"{'site':40} {'attention':12} {'n':>4} {'against none':>14} {'95 % interval':>20}"]
    effects = [(marginal, marginal.effect) for marginal in found if marginal.effect is not None]
    for marginal, effect in sorted(effects, key=lambda pair: -abs(pair[1].mean)):
        name = ", ".join(marginal.sites)
        shown = name if len(name) <= 40 else f"{name[:39]}…"
        star = " *" if marginal.is_clear else ""
        interval = scale.signed_interval(effect) or "-"
        numbers = f"{marginal.summary.n:4} {scale.signed(effect.mean):>14} {interval:>20}{star}"
        lines.append(f"{shown:40} {marginal.attention:12} {numbers}")
    return "\n".join(lines)


def write_csv(found: Sequence[Marginal], path: Path) -> None:
    """Write the marginal means. Values are as measured, not in per cent."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for marginal in found:
            summary, effect = marginal.summary, marginal.effect
            against = [effect.mean, effect.low, effect.high] if effect else [None, None, None]
            writer.writerow(
                [
                    " ".join(marginal.sites),
                    marginal.attention,
                    summary.n,
                    summary.mean,
                    summary.low,
                    summary.high,
                    *against,
                ]
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the runs, print the table and write the files."""
    parser = argparse.ArgumentParser(description="Which sites, and which attentions there, matter over all trials?")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, such as runs/densenet_attn")
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="FOLDER", help="folder of the files (default: the current one)"
    )
    chosen = parser.parse_args(arguments)
    try:
        runs = [load_run(folder) for folder in chosen.runs]
    except NasAttnError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    rows, sites = pooled(runs)
    found = marginals(rows, sites)
    heat = heat_map(found)
    if heat is None:
        print("These runs have no complete trial with attention.", file=sys.stderr)
        return 1
    scale = PER_CENT if all(scale_of(run) == PER_CENT for run in runs) else scale_of(runs[0])
    unit = scale.points or " its unit"
    print(f"{len(rows)} placements of {len(runs)} run(s); differences of validation {scale.noun} in{unit}")
    print(table_of(found, scale))
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_csv(found, chosen.out / "site_importance.csv")
    chart = replace(importance_chart(heat, scale), name="site_importance")
    for path in [chosen.out / "site_importance.csv", *chart.write(chosen.out)]:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
