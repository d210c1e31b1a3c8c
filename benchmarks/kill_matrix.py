"""The kill matrix: a tiny run is killed, stopped and damaged in every way, and the same command must finish it.

    python benchmarks/kill_matrix.py [--kills 200] [--peer-kills 10] [--seed 0] [--file kill_matrix.jsonl] [--quick]

The first run is not disturbed; it measures the time and the lines of the log. Each further row is a new run. Half of
the moments are uniform over the time of the run, the others over the lines of its log plus up to 0.3 s, because most of
a tiny run's time is its start. Ten seconds after a kill no process of the run may be alive. Then the same command
finishes the run, and `tiny_run.py` looks at it. `kill_rows.py` has the signals, `damage_rows.py` the rest.

The results are added to `--file` one by one, so that the matrix can be made in several sittings: rows that are there
are not made again. `--table` prints the table of the file and does nothing else. `--quick` makes the rows of the tests.
The peer is stock Ray Tune with OptunaSearch on a SQLite storage (`stock.py`), continued by `Tuner.restore`. The
script exits with code 1 if one of our rows breaks a rule.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import damage_rows
import kill_rows
import optuna
from kill_rows import Kill, moment_of, of_local, of_tune
from run_log import events
from tiny_run import COLUMNS, LOST, Wrong, finish, look_at, start

PAUSE_SECONDS = 60.0
"""Length of a SIGSTOP; longer than Ray's and SQLite's patience for an answer."""

QUICK_PAUSE_SECONDS = 2.0
PEER = "stock Tune + OptunaSearch"
PEER_KILLS = ("SIGKILL of the driver", "SIGKILL of the raylet", "SIGKILL of the GCS", "SIGINT to the process group")

Row = tuple[str, str, Callable[[Path], tuple[Wrong, int]]]
"""Group and name of a row, and what it does in an empty folder: what was wrong, and the epochs trained again."""


def undisturbed(folder: Path, executor: str) -> tuple[float, int]:
    """Run once without a fault; return its time in seconds and the number of lines of its log."""
    begun = time.monotonic()
    code, wrong = finish(folder, executor)
    length = time.monotonic() - begun
    wrong |= look_at(folder / "run", [])
    if code or wrong:
        sys.exit(f"The undisturbed run with {executor} must obey every rule, but: {wrong}")
    return length, len(events(folder / "run" / "log.txt"))


def interrupted(folder: Path) -> None:
    """Begin a run and end it by Ctrl-C after six lines of its log."""
    command = start(folder, "local")
    kill_rows.Moment(6, 0.0).wait(command, folder)
    command.process.send_signal(signal.SIGINT)
    command.process.wait()


def signal_rows(executor: str, kills: list[Kill], n: int, draw: random.Random, work: Path) -> list[Row]:
    """Return rows for `n` kills, all of `kills` in turn."""
    length, n_events = undisturbed(work, executor)
    rows: list[Row] = []
    for number in range(n):
        kill = kills[number % len(kills)]
        by_log = number // len(kills) % 2 == 1 or "worker" in kill.name
        moment = moment_of(draw, length, n_events, by_log=by_log)

        def act(folder: Path, kill: Kill = kill, moment: kill_rows.Moment = moment) -> tuple[Wrong, int]:
            return kill_rows.strike(folder, executor, kill, moment)

        rows.append((f"{executor}: {kill.name}", f"{number}: {moment}", act))
    return rows


def peer_rows(kills: list[Kill], n: int, draw: random.Random) -> list[Row]:
    """Return rows for `n` kills of the peer."""
    chosen = [kill for kill in kills if kill.name in PEER_KILLS]
    rows: list[Row] = []
    for number in range(n):
        kill, seconds = chosen[number % len(chosen)], draw.uniform(0, 3)

        def act(folder: Path, kill: Kill = kill, seconds: float = seconds) -> tuple[Wrong, int]:
            return kill_rows.strike_stock(folder, kill, seconds), 0

        rows.append((f"{PEER}: {kill.name}", f"{number}: {seconds:.1f} s", act))
    return rows


def rows_of(options: argparse.Namespace, work: Path) -> list[Row]:
    """Return all rows that were asked for."""
    draw = random.Random(options.seed)
    for name in ("local", "interrupted", "tune"):
        (work / name).mkdir()
    pause = QUICK_PAUSE_SECONDS if options.quick else PAUSE_SECONDS
    local = 5 if options.quick else options.kills // 4
    rows = signal_rows("local", of_local(pause), local, draw, work / "local")
    interrupted(work / "interrupted")
    plain = damage_rows.rows(work / "local", work / "interrupted", draw)
    if options.quick:
        plain = draw.sample(plain, 8)
    rows += [(group, name, lambda folder, act=act: (act(folder), 0)) for group, name, act in plain]  # type: ignore[misc]
    if options.quick:
        return rows
    of_ray = of_tune(pause)
    rows += signal_rows("tune", of_ray, options.kills - local, draw, work / "tune")
    return rows + peer_rows(of_ray, options.peer_kills, draw)


def make(row: Row) -> dict[str, Any]:
    """Make one row in an empty folder, and return it as it is stored."""
    group, name, act = row
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True, prefix="kill-matrix-") as folder:
        try:
            wrong, again = act(Path(folder))
        except Exception as error:  # of reading the run: a rule that is broken, and no end of the matrix
            wrong, again = {LOST: f"{type(error).__name__}: {error}"}, 0
    seconds = round(time.monotonic() - begun, 1)
    return {
        "group": group,
        "name": name,
        "wrong": wrong,
        "epochs": again,
        "seconds": seconds,
        "date": str(date.today()),
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return the Markdown table: one line a group, with the rows that obey each rule."""
    groups = list(dict.fromkeys(result["group"] for result in results))
    head = ["fault", "rows", *COLUMNS, "epochs trained again, at most"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for group in groups:
        of_group = [result for result in results if result["group"] == group]
        cells = [group, str(len(of_group))]
        for column in COLUMNS:
            right = sum(column not in result["wrong"] for result in of_group)
            cells.append("all" if right == len(of_group) else f"**{right}**")
        lines.append(" | ".join([*cells, str(max(result["epochs"] for result in of_group))]))
    return "\n".join(f"| {line} |" for line in lines)


def read(file: Path) -> list[dict[str, Any]]:
    """Return the results of a file; a last line that was cut is left out."""
    found = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def main() -> None:
    """Make the rows that the file does not have, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="runs that get a signal, three of four with Ray Tune")
    parser.add_argument("--peer-kills", type=int, default=10, help="runs of the peer that get a signal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--file", type=Path, default=Path("kill_matrix.jsonl"), help="results of all sittings")
    parser.add_argument("--only", default="", help="make only the groups whose name contains this")
    parser.add_argument("--quick", action="store_true", help="some rows without Ray, for the tests")
    parser.add_argument("--table", action="store_true", help="print the table of the file")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    results = read(options.file)
    if not options.table:
        done = {(result["group"], result["name"]) for result in results}
        with tempfile.TemporaryDirectory(prefix="kill-matrix-") as work, options.file.open("a") as file:
            for row in rows_of(options, Path(work)):
                if row[:2] in done or options.only not in row[0]:
                    continue
                results.append(make(row))
                print(json.dumps(results[-1]), file=file, flush=True)
                wrong = "; ".join(f"{column}: {what}" for column, what in results[-1]["wrong"].items())
                print(f"{row[0]:<48} {row[1]:<28} {results[-1]['seconds']:5.1f} s  {wrong or 'ok'}", flush=True)
    print(table(results))
    sys.exit(any(result["wrong"] for result in results if not result["group"].startswith(PEER)))


if __name__ == "__main__":
    main()
