"""Which sites, and which attentions there, matter in the searches of one or several runs?

    python analysis/site_importance.py runs/densenet_attn [runs/OTHER ...] [--out FOLDER]

Prints what each attention at each site adds to the validation value, the largest first, and writes the same as
site_importance.csv, with a figure (.svg, .png). The numbers come from a Bayesian regression over all complete trials,
as in the report: shrunk towards zero, with 95 % intervals; a star marks effects whose signs are right, all together,
with 95 % probability. Runs may be on different data, since each has a mean of its own; sites are matched by name.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nas_attn import NasAttnError, load_run
from nas_attn.report.figures import importance_chart
from nas_attn.report.importance import SiteEffects, effects_of, heat_map
from nas_attn.report.words import PER_CENT, Scale, scale_of

COLUMNS = ("sites", "attention", "n_placements", "effect", "low", "high", "clear")


def table_of(found: SiteEffects, scale: Scale) -> str:
    """Return the effects as text, the largest first; a star marks those that are clear."""
    lines = [f"{'site':40} {'attention':12} {'n':>4} {'effect':>10} {'95 % interval':>20}"]
    for effect in sorted(found.effects, key=lambda effect: -abs(effect.mean)):
        name = ", ".join(effect.sites)
        shown = name if len(name) <= 40 else f"{name[:39]}…"
        numbers = f"{effect.n_placements:4} {scale.signed(effect.mean):>10} {scale.signed_interval(effect.summary):>20}"
        lines.append(f"{shown:40} {effect.attention:12} {numbers}{' *' if effect.is_clear else ''}")
    return "\n".join(lines)


def write_csv(found: SiteEffects, path: Path) -> None:
    """Write the effects. Values are as measured, not in per cent."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for effect in found.effects:
            numbers = [effect.n_placements, effect.mean, effect.low, effect.high, int(effect.is_clear)]
            writer.writerow([" ".join(effect.sites), effect.attention, *numbers])


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the runs, print the table and write the files."""
    parser = argparse.ArgumentParser(
        description="Which sites, and which attentions there, matter in the searches of one or several runs?"
    )
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
    found = effects_of(*runs)
    heat = heat_map(found)
    if heat is None:
        print(
            f"These runs must have complete trials with attention whose values differ, but have {found.n_trials} "
            "complete trials that allow no estimate: run more trials.",
            file=sys.stderr,
        )
        return 1
    scale = PER_CENT if all(scale_of(run) == PER_CENT for run in runs) else scale_of(runs[0])
    unit = scale.points or " its unit"
    print(f"{found.n_trials} trials of {len(runs)} run(s); effects on validation {scale.noun} in{unit}")
    print(table_of(found, scale))
    print(found.verdict)
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_csv(found, chosen.out / "site_importance.csv")
    chart = replace(importance_chart(heat, scale), name="site_importance")
    for path in [chosen.out / "site_importance.csv", *chart.write(chosen.out)]:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
