"""What every script of this folder does: read runs, print tables, and write a CSV file and a figure where asked."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from matplotlib.figure import Figure

from nas_attn import NasAttnError, load_run
from nas_attn.errors import Refused
from nas_attn.files import write_whole
from nas_attn.records import RunRecord
from nas_attn.report.chart import style
from nas_attn.report.palette import LIGHT
from nas_attn.report.words import Scale, scale_of

FORMATS = (".svg", ".png", ".pdf")
WIDEST = 44
"""Greatest width of a column of words; a longer word is cut."""


@dataclass(frozen=True)
class Result:
    """What a script found.

    Args:
        text: What it prints.
        rows: The rows of the CSV file, as measured and not in per cent; a column that a row lacks stays empty.
        draw: Returns the figure; called only if one is asked for.
    """

    text: str
    rows: Sequence[Mapping[str, Any]]
    draw: Callable[[], Figure]


def parser_of(about: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every script has.

    Args:
        about: The docstring of the script: the text of `--help`.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the numbers, as measured, to this file")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="also draw a figure: .svg, .png or .pdf")
    return parser


def run_script(
    parser: argparse.ArgumentParser,
    analyse: Callable[[argparse.Namespace], Result],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a script and return its exit code; an error that a user can cause is one sentence.

    Args:
        arguments: Those of the command line; None reads `sys.argv`.
    """
    chosen = parser.parse_args(arguments)
    try:
        if chosen.figure is not None and chosen.figure.suffix not in FORMATS:
            raise Refused(f"A figure is a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file, but got {chosen.figure}.")
        result = analyse(chosen)
        print(result.text)
        if chosen.csv is not None:
            _write(chosen.csv, partial(_write_csv, result.rows))
        if chosen.figure is not None:
            _write(chosen.figure, partial(_write_figure, result.draw, chosen.figure.suffix[1:]))
    except NasAttnError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def load_runs(folders: Sequence[Path], *, at_least: int = 1) -> tuple[RunRecord, ...]:
    """Return the runs in these folders.

    Raises: RunError if a folder is no run; Refused if one is stated twice, or there are too few.
    """
    stated = [str(folder.resolve()) for folder in folders]
    twice = next((str(folder) for folder, path in zip(folders, stated, strict=True) if stated.count(path) > 1), None)
    if twice is not None:
        raise Refused(f"A run counts once, but {twice} is stated {stated.count(str(Path(twice).resolve()))} times.")
    if len(folders) < at_least:
        raise Refused(f"At least {at_least} runs are compared, but got {', '.join(map(str, folders))}.")
    return tuple(load_run(folder) for folder in folders)


def one_scale(names: Sequence[str], runs: Sequence[RunRecord]) -> Scale:
    """Return how the values of all runs are written. Raises: Refused if they have different metrics."""
    scales = [scale_of(run) for run in runs]
    if len({scale.noun for scale in scales}) > 1:
        metrics = ", ".join(f"{scale.noun} in {name}" for name, scale in zip(names, scales, strict=True))
        raise Refused(f"Values of one metric are compared, but the runs have several ({metrics}).")
    return scales[0]


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]], n_words: int = 1) -> str:
    """Return a table as text.

    Args:
        n_words: Number of first columns that hold words, aligned to the left; the others hold numbers.

    >>> print(text_table(["arm", "mean"], [["none", "95.0"], ["found #1", "100.0"]]))
    arm        mean
    none       95.0
    found #1  100.0
    """
    cells = [[cell if len(cell) <= WIDEST else f"{cell[: WIDEST - 1]}…" for cell in row] for row in [columns, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [
            cell.ljust(width) if at < n_words else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def range_text(scale: Scale, ends: tuple[float, float] | None) -> str:
    """Return the ends of an interval of a difference, or an empty text if there is none."""
    return " to ".join(scale.signed(end) for end in ends or ())


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    try:
        write_whole(path, write)
    except OSError as error:
        raise Refused(f"{path} must be writable, but: {error.strerror}.") from error
    print(path)


def _write_csv(rows: Sequence[Mapping[str, Any]], file: IO[bytes]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    file.write(text.getvalue().encode())


def _write_figure(draw: Callable[[], Figure], kind: str, file: IO[bytes]) -> None:
    with style():
        draw().savefig(file, format=kind, dpi=300, facecolor=LIGHT["paper"])
