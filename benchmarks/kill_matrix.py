"""The kill matrix: a tiny run is killed, stopped and damaged in every way, and the same command must finish it.

    python benchmarks/kill_matrix.py [--kills 200] [--tune 60] [--peer-kills 10] [--files 80] [--file kill_matrix.jsonl]
    python benchmarks/kill_matrix.py --quick
    python benchmarks/kill_matrix.py --markdown docs/kill_matrix.md

The first run is not disturbed; it measures the stages. Each further row is a new run, which gets the signal up to
`KILLS_A_RUN` times: each time in another stage (start, search, confirm, retrain, export, report, costs), at a moment
uniform over its length, and once while the repeated command resumes. Ten seconds after a kill no process of the run
may be alive. Then the same command finishes the run, and `tiny_run.py` looks at it. `kill_rows.py` has the signals,
`damage_rows.py` files, disk and database, `fault_rows.py` trainings, servers and nodes.

The results are added to `--file` one by one, so that the matrix can be made in several sittings: rows that are there
are not made again. The peer is stock Ray Tune with OptunaSearch on a SQLite storage (`stock.py`), continued by
`Tuner.restore`. The script exits with code 1 if one of our rows breaks a rule.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import damage_rows
import fault_rows
import forked
import kill_rows
import optuna
from kill_rows import Kill, Lengths, Struck, of_local, of_tune
from matrix_page import PEER, page, table
from tiny_run import LOST, Moment, Wrong, code_of, look_at, start, text_of

PAUSE_SECONDS = 60.0
"""Length of a SIGSTOP; longer than Ray's and SQLite's patience for an answer."""

QUICK_PAUSE_SECONDS = 2.0
KILLS_A_RUN = 4
STARTING_SECONDS = 6.0
"""Time from the first word of a run with Ray Tune to its first trial."""

PEER_KILLS = (
    *("SIGKILL of the driver", "SIGKILL of a worker", "SIGKILL of the raylet", "SIGKILL of the GCS"),
    "SIGINT to the process group",
)
DAMAGES_OF_TESTS = 3

Row = tuple[str, str, Callable[[Path], Struck]]
"""Group and name of a row, and what it does in an empty folder."""


@contextmanager
def empty_folder() -> Iterator[Path]:
    """Context manager: a new folder; a fork of this process does not remove it."""
    folder = Path(tempfile.mkdtemp(prefix="kill-matrix-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def undisturbed(folder: Path) -> Lengths:
    """Run once without a fault in this process's fork; return the stages of the run."""
    command = start(folder, "local")
    lengths = kill_rows.timeline(command, folder)
    code, wrong = code_of(command), look_at(folder / "run", [])
    if code or wrong:
        sys.exit(f"The undisturbed run must obey every rule, but ended with {code}: {wrong}\n{text_of(folder)}")
    print(f"An undisturbed run takes {getattr(command.process, 'seconds', 0.0):.1f} s of CPU.", flush=True)
    return lengths


def interrupted(folder: Path) -> None:
    """Begin a run, and end it by Ctrl-C in the retraining."""
    command = start(folder, "local")
    Moment("retrain", 1, 0.2, 0.5).wait(command, folder)
    command.process.send_signal(signal.SIGINT)
    command.process.wait()


def signal_rows(executor: str, kills: list[Kill], n: int, lengths: Lengths, draw: random.Random) -> list[Row]:
    """Return rows with together `n` kills or a little more, all of `kills` in turn."""
    rows: list[Row] = []
    planned = 0
    while planned < n:
        kill = kills[len(rows) % len(kills)]
        n_kills = 1 if kill.stopped is not None and kill.stopped > QUICK_PAUSE_SECONDS else min(KILLS_A_RUN, n)
        moments = kill_rows.moments_of(draw, lengths, n_kills, kill)
        planned += len(moments)

        def act(folder: Path, kill: Kill = kill, moments: list[Moment] = moments) -> Struck:
            return kill_rows.strike(folder, executor, kill, moments)

        rows.append((f"{executor}: {kill.name}", f"{len(rows)}: {', '.join(map(str, moments))}", act))
    return rows


def peer_rows(kills: list[Kill], n: int, draw: random.Random) -> list[Row]:
    """Return rows for `n` kills of the peer."""
    chosen = [kill for kill in kills if kill.name in PEER_KILLS]
    rows: list[Row] = []
    for number in range(n):
        kill, seconds = chosen[number % len(chosen)], draw.uniform(0, 3)

        def act(folder: Path, kill: Kill = kill, seconds: float = seconds) -> Struck:
            return kill_rows.strike_stock(folder, kill, seconds)

        rows.append((f"{PEER}: {kill.name}", f"{number}: {seconds:.1f} s", act))
    return rows


def without_kill(rows: list[tuple[str, str, Callable[[Path], Wrong]]]) -> list[Row]:
    """Return rows that kill nothing as rows of the matrix."""

    def act_of(act: Callable[[Path], Wrong]) -> Callable[[Path], Struck]:
        return lambda folder: (act(folder), 0, 0)

    return [(group, name, act_of(act)) for group, name, act in rows]


def rows_of(options: argparse.Namespace, work: Path) -> list[Row]:
    """Return all rows that were asked for."""
    for name in ("local", "interrupted"):
        (work / name).mkdir()
    lengths = undisturbed(work / "local")
    interrupted(work / "interrupted")
    with_ray = [("start", 1, STARTING_SECONDS), *lengths[1:]]
    damaged = damage_rows.rows(work / "local", work / "interrupted", random.Random(options.seed), options.files)
    if options.quick:
        draw = random.Random(options.seed)
        rows = signal_rows("local", of_local(QUICK_PAUSE_SECONDS), 8, lengths, draw)
        rows += without_kill(draw.sample(damaged, DAMAGES_OF_TESTS))
        return rows + signal_rows("tune", of_tune(QUICK_PAUSE_SECONDS), 1, with_ray, draw)
    of_ray = of_tune(PAUSE_SECONDS)
    seeds = (random.Random(f"{options.seed} {name}") for name in ("local", "tune", "peer"))
    rows = signal_rows("local", of_local(PAUSE_SECONDS), options.kills - options.tune, lengths, next(seeds))
    rows += signal_rows("tune", of_ray, options.tune, with_ray, next(seeds))
    rows += peer_rows(of_ray, options.peer_kills, next(seeds))
    return rows + without_kill([*damaged, *fault_rows.rows()])


def expected_groups() -> list[str]:
    """Return the groups of a full matrix that do not depend on a run's files."""
    signals = [*(("local", kill) for kill in of_local(0)), *(("tune", kill) for kill in of_tune(0))]
    groups = [f"{executor}: {kill.name}" for executor, kill in signals]
    groups += [group for group, _, _ in fault_rows.rows()]
    return list(dict.fromkeys([*groups, *(f"{PEER}: {name}" for name in PEER_KILLS)]))


def make(row: Row) -> dict[str, Any]:
    """Make one row in an empty folder, and return it as it is stored."""
    group, name, act = row
    begun = time.monotonic()
    with empty_folder() as folder:
        try:
            wrong, n_kills, again = act(folder)
        except Exception as error:  # of reading the run: a rule that is broken, and no end of the matrix
            wrong, n_kills, again = {LOST: f"{type(error).__name__}: {error}"}, 0, 0
    seconds = round(time.monotonic() - begun, 1)
    found = {"group": group, "name": name, "wrong": wrong, "kills": n_kills, "epochs": again}
    return {**found, "seconds": seconds, "date": str(date.today())}


def read(file: Path) -> list[dict[str, Any]]:
    """Return the results of a file; a last line that was cut is left out."""
    found = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def make_missing(options: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    """Make the rows that are not among the results, and add them to these and to the file."""
    done = {(result["group"], result["name"]) for result in results}
    forked.import_everything()
    with empty_folder() as work, options.file.open("a") as file:
        for row in rows_of(options, work):
            if row[:2] in done or options.only not in row[0]:
                continue
            result = make(row)
            results.append(result)
            print(json.dumps(result), file=file, flush=True)
            wrong = "; ".join(f"{column}: {what}" for column, what in result["wrong"].items())
            print(f"{row[0]:<44} {row[1]:<60} {result['seconds']:5.1f} s  {wrong or 'ok'}", flush=True)


def main() -> None:
    """Make the rows that the file does not have, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="signals in all, with both executors")
    parser.add_argument("--tune", type=int, default=60, help="how many of them with Ray Tune")
    parser.add_argument("--peer-kills", type=int, default=10, help="signals for the peer")
    parser.add_argument("--files", type=int, default=80, help="runs of which a file is damaged")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--file", type=Path, default=Path("kill_matrix.jsonl"), help="results of all sittings")
    parser.add_argument("--only", default="", help="make only the groups whose name contains this")
    parser.add_argument("--quick", action="store_true", help="some rows, one of them with Ray Tune; nothing is stored")
    parser.add_argument("--markdown", type=Path, help="write the page of the file's results, and do nothing else")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a run respects `nohup`, which the matrix may be made under
    if options.quick:
        options.file = Path("/dev/null")
    results = read(options.file)
    if options.markdown is not None:
        options.markdown.write_text(page(results, expected_groups()))
        return
    make_missing(options, results)
    print(table([result for result in results if not result["group"].startswith(PEER)]))
    sys.exit(any(result["wrong"] for result in results if not result["group"].startswith(PEER)))


if __name__ == "__main__":
    main()
