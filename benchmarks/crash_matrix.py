"""Robustness to kill -9: a tiny run is killed at seeded random moments, and the same command resumes it.

    python benchmarks/crash_matrix.py [--kills 20] [--worker-kills 5] [--executor tune] [--peer-kills 3] [--seed 0]

The first run is not killed; it measures the time and the number of lines in the log. Then each row of the table is a
new run, of which the driver or (Ray Tune only) one worker is killed at a random moment. Half of the moments are uniform
over the time of the run, the others over the lines of its log plus up to 0.3 s, because most of a tiny run's time is
its start; a worker is always killed by the log. Ten seconds after the kill of a driver no process of the run may be
alive. Then the same command finishes the run, which must obey these rules:

- no trial that had ended before the kill is lost or repeated (same stage, placement and seed);
- no row is RUNNING; the budget of distinct placements is exact; every arm has every seed;
- `best.json` and its weights load; the page and the tables exist; no file is incomplete.

The peer is stock Ray Tune with OptunaSearch on a SQLite storage (`stock.py`), killed in the same way and continued by
`Tuner.restore`. The script exits with code 1 if one of our rows breaks a rule.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
from processes import Command
from run_log import Event, events

from nas_attn import load_model, load_run

SPACE = """
title = "A tiny DenseNet"

[backbone]
name = "densenet"
growth_rate = 4
block_config = [1, 1]
num_init_features = 8
stem = "small"

[[sites]]
match = ["denseblock*"]
attentions = ["se", "cbam"]

[attentions.se]
reduction = [2, 4]

[attentions.cbam]
reduction = 4
kernel_size = [3, 7]
"""
SETTINGS = {"trials": 5, "epochs": 2, "batch_size": 64, "seeds": 2, "top": 1, "cpus_per_trial": 1}
FILES = ("best.json", "best.safetensors", "config.json", "report.html", "trials.csv", "arms.csv")
PATIENCE_SECONDS = 10.0
HUNG_SECONDS = 120.0
STOCK_TRIALS = 8
STOCK_SECONDS = 4.0
"""Time that the peer's trials of one second take on two workers."""


@dataclass(frozen=True)
class Moment:
    """The moment of a kill: `seconds` after the log has `n_events` lines that begin or end a trial."""

    n_events: int
    seconds: float

    def wait(self, command: Command, folder: Path) -> None:
        """Wait for this moment, or for the end of the command."""
        while command.process.poll() is None and len(events(folder / "run" / "log.txt")) < self.n_events:
            time.sleep(0.005)
        with suppress(subprocess.TimeoutExpired):
            command.process.wait(self.seconds)


def start(folder: Path, executor: str) -> Command:
    """Start or resume the run in a folder."""
    (folder / "tiny.toml").write_text(SPACE)
    words = [sys.executable, "-m", "nas_attn", "search", "--space", "tiny.toml", "--out", "run", "--executor", executor]
    for name, value in SETTINGS.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return Command(words, folder, folder / "output.txt")


def finish(folder: Path, executor: str) -> list[str]:
    """Repeat the command and wait for its end; return the rules that it breaks."""
    command = start(folder, executor)
    code = _code(command)
    left = command.wait_until_gone(PATIENCE_SECONDS)
    command.end()
    wrong = [f"left behind by the second start: {_names(left)}"] if left else []
    if code:
        last = (folder / "output.txt").read_text().strip().splitlines()[-1:]
        wrong.append(f"the second start ended with code {code}: {last}")
    return wrong


def look_at(run_folder: Path, before: list[Event]) -> list[str]:
    """Return the rules that a finished run breaks."""
    run = load_run(run_folder)
    rows = (*run.search, *run.confirm, *run.retrain)
    wrong = []
    n_running = sum(row.state == "running" for row in rows)
    if n_running:
        wrong.append(f"{n_running} rows RUNNING")
    trained = [row for row in rows if row.state == "complete" and row.answered_from is None]
    twice = [name for name, n in Counter((row.stage, row.key, row.seed) for row in trained).items() if n > 1]
    if twice:
        wrong.append(f"repeated: {twice}")
    n_tried = len({row.key for row in trained if row.stage == "search"})
    if n_tried != SETTINGS["trials"]:
        wrong.append(f"{n_tried} placements instead of {SETTINGS['trials']}")
    seeds = Counter(row.key for row in trained if row.stage == "retrain")
    if not seeds or set(seeds.values()) != {SETTINGS["seeds"]}:
        wrong.append(f"seeds of the arms: {sorted(seeds.values())}")
    known = {("search" if row.stage == "search" else "final", row.number) for row in trained}
    lost = [event for event in before if ("search" if event.stage == "search" else "final", event.number) not in known]
    if lost:
        wrong.append(f"lost: {[(event.stage, event.number) for event in lost]}")
    missing = [name for name in FILES if not (run_folder / name).exists()]
    halves = [path.name for path in run_folder.rglob("*.part")]
    if missing or halves:
        wrong.append(f"missing {missing}, incomplete {halves}")
    else:
        load_model(run_folder / "best.json")
    return wrong


def kill_driver(folder: Path, executor: str, moment: Moment) -> tuple[str, list[str]]:
    """Kill the driver, resume, and return (progress at the kill, broken rules)."""
    command = start(folder, executor)
    moment.wait(command, folder)
    command.process.send_signal(signal.SIGKILL)
    command.process.wait()
    left = command.wait_until_gone(PATIENCE_SECONDS)
    command.end()
    found = events(folder / "run" / "log.txt")
    wrong = [f"left behind: {_names(left)}"] if left else []
    wrong += finish(folder, executor)
    return _where(found), wrong + look_at(folder / "run", _completed(found))


def kill_worker(folder: Path, executor: str, moment: Moment) -> tuple[str, list[str]]:
    """Kill a Ray worker as soon as there is one after `moment`; the run must finish by itself."""
    command = start(folder, executor)
    moment.wait(command, folder)
    where = "no worker was there"
    while command.process.poll() is None:
        workers = [process for process in command.alive() if _is_worker(process)]
        if workers:
            where = _where(events(folder / "run" / "log.txt"))
            with suppress(psutil.Error):
                workers[0].kill()
            break
        time.sleep(0.05)
    code = _code(command)
    left = command.wait_until_gone(PATIENCE_SECONDS)
    command.end()
    wrong = [f"ended with code {code}"] if code else []
    wrong += [f"left behind: {_names(left)}"] if left else []
    wrong += finish(folder, executor)
    return where, wrong + look_at(folder / "run", _completed(events(folder / "run" / "log.txt")))


def kill_stock(folder: Path, _: str, moment: Moment) -> tuple[str, list[str]]:
    """Kill the peer and restore it; return (progress at the kill, broken rules)."""
    script = str(Path(__file__).with_name("stock.py"))
    words = [sys.executable, script, str(folder), "--trials", str(STOCK_TRIALS), "--seconds", "1"]
    command = Command(words, folder, folder / "output.txt")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not _stock_states(folder)["COMPLETE"]:
        time.sleep(0.1)
    time.sleep(moment.seconds % STOCK_SECONDS)
    command.process.kill()
    command.process.wait()
    left = command.wait_until_gone(PATIENCE_SECONDS)
    command.end()
    states = _stock_states(folder)
    again = Command([*words, "--restore"], folder, folder / "output.txt")
    code = again.process.wait()
    again.wait_until_gone(PATIENCE_SECONDS)
    again.end()
    wrong = [f"left behind: {_names(left)}"] if left else []
    wrong += [f"restore ended with code {code}"] if code else []
    after = _stock_states(folder)
    if after["RUNNING"]:
        wrong.append(f"{after['RUNNING']} rows RUNNING")
    if after["COMPLETE"] != STOCK_TRIALS:
        wrong.append(f"{after['COMPLETE']} trials instead of {STOCK_TRIALS}")
    return f"{states['COMPLETE']} of {STOCK_TRIALS} trials done", wrong


def _code(command: Command) -> int | str:
    """Wait for the end of a command; kill it if it hangs."""
    try:
        return command.process.wait(HUNG_SECONDS)
    except subprocess.TimeoutExpired:
        command.process.kill()
        command.process.wait()
        return f"none after {HUNG_SECONDS:.0f} s"


def _stock_states(folder: Path) -> Counter[str]:
    path = folder / "stock.db"
    if not path.exists():
        return Counter()
    with suppress(Exception):  # the peer may be creating its tables just now
        study = optuna.load_study(study_name="stock", storage=f"sqlite:///{path}")
        return Counter(trial.state.name for trial in study.trials)
    return Counter()


def _completed(found: list[Event]) -> list[Event]:
    return [event for event in found if event.kind == "end" and event.state == "complete"]


def _where(found: list[Event]) -> str:
    """Return the progress of the run as text."""
    if not found:
        return "starting"
    counts = Counter(event.stage for event in _completed(found))
    return ", ".join(f"{name} {counts[name]}" for name in ("search", "confirm", "retrain"))


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return " ".join(process.cmdline()).startswith(("ray::Worker", "ray::ResourceTrainable"))
    return False


def _names(processes: list[psutil.Process]) -> str:
    names = []
    for process in processes:
        with suppress(psutil.Error):
            names.append(" ".join(process.cmdline())[:80] or process.name())
    return "; ".join(names)


def main() -> None:
    """Print the matrix row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="runs whose driver is killed")
    parser.add_argument("--worker-kills", type=int, default=5, help="runs of which one worker is killed (tune only)")
    parser.add_argument("--peer-kills", type=int, default=3, help="runs of the peer whose driver is killed")
    parser.add_argument("--executor", choices=("tune", "local"), default="tune")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        begun = time.monotonic()
        wrong = finish(Path(name), options.executor)
        length = time.monotonic() - begun
        wrong += look_at(Path(name) / "run", [])
        n_events = len(events(Path(name) / "run" / "log.txt"))
        print(f"Undisturbed: {length:.1f} s, {'; '.join(wrong) or 'every rule holds'}", flush=True)
    draw = random.Random(options.seed)
    rows = [("driver", kill_driver)] * options.kills
    rows += [("worker", kill_worker)] * (options.worker_kills if options.executor == "tune" else 0)
    rows += [("stock's driver", kill_stock)] * options.peer_kills
    broken: Counter[str] = Counter()
    for number, (victim, kill) in enumerate(rows, 1):
        by_time, by_log = (
            Moment(0, draw.uniform(0, length)),
            Moment(draw.randint(1, n_events - 1), draw.uniform(0, 0.3)),
        )
        moment = by_log if victim == "worker" or number % 2 == 0 else by_time
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            where, wrong = kill(Path(name), options.executor, moment)
        broken[victim] += bool(wrong)
        when = f"line {moment.n_events:2} + {moment.seconds:5.2f} s"
        print(f"{number:3} {victim:<14} {when}  {where:<34} {'; '.join(wrong) or 'ok'}", flush=True)
    for victim, n in Counter(victim for victim, _ in rows).items():
        print(f"{victim}: {n - broken[victim]} of {n} kills broke no rule")
    sys.exit(1 if broken["driver"] or broken["worker"] else 0)


if __name__ == "__main__":
    main()
