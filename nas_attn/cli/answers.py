"""The output of `nas-attn best` and `nas-attn compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from nas_attn.cli.lists import console_of
from nas_attn.errors import ConfigError
from nas_attn.report.best import best_lines, best_of
from nas_attn.report.compare import Comparison, compare_runs, comparison_chart
from nas_attn.report.words import short
from nas_attn.run.folder import load_run


def print_best(run: Path, *, as_json: bool) -> None:
    """Print what a run recommends, with its numbers and files. Raises: RunError if the folder is no run."""
    record = load_run(run)
    print(json.dumps(best_of(record), indent=2, ensure_ascii=False) if as_json else "\n".join(best_lines(record)))


def print_comparison(runs: Sequence[Path], *, out: Path, as_json: bool) -> None:
    """Print the arms of several runs and write a figure of them.

    Args:
        out: Folder of the figure's files.
    Raises: RunError if a folder is no run; ConfigError for fewer than two runs.
    """
    if len({run.resolve() for run in runs}) < 2:
        raise ConfigError(f"At least two runs are compared, but got {', '.join(map(str, runs))}.")
    found = compare_runs([load_run(run) for run in runs])
    files = comparison_chart(found).write(out) if found.rows else []
    if as_json:
        print(json.dumps(found.to_dict() | {"figures": list(map(str, files))}, indent=2, ensure_ascii=False))
        return
    console = console_of(200)
    for note in found.notes:
        console.print(Text(note, style="yellow"), soft_wrap=True)
    if found.notes:
        console.print()
    console.print(_table(found))
    console.print(f"\nTest {found.scale.noun}: mean and sd over the seeds; *: recommended by its run.")
    for file in files:
        console.print(Text(str(file)), soft_wrap=True)


def _table(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("run", "arm"):
        table.add_column(column)
    for column in (f"test {found.scale.noun}", "95 % interval", "seeds", "epochs", "parameters", "MACs"):
        table.add_column(column, justify="right", no_wrap=True)
    scale, last = found.scale, ""
    for row in found.rows:
        arm, summary = row.arm, row.arm.summary
        assert summary is not None, "an arm without values is no row"
        spread = "" if summary.sd is None else f" \N{PLUS-MINUS SIGN} {scale.number(summary.sd)}"
        cells = (
            "" if row.run == last else row.run,
            f"{arm.label}{' *' if row.is_recommended else ''}",
            f"{scale.number(summary.mean)}{spread}{scale.unit}",
            scale.interval(summary),
            str(summary.n),
            str(arm.epochs),
            "" if arm.n_parameters is None else short(arm.n_parameters),
            "" if arm.n_macs is None else short(arm.n_macs),
        )
        table.add_row(*map(Text, cells))
        last = row.run
    return table
