"""A tiny run that the kill matrix ends, damages and repeats, and the rules that it must obey when it is finished.

Each rule belongs to a column of the matrix; see `COLUMNS`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from processes import Command
from run_log import Event, events

from nas_attn import load_model, load_run
from nas_attn.errors import NasAttnError

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
"""Time after which no process of an ended command may be alive."""

HUNG_SECONDS = 180.0

LOST, RUNNING, BUDGET, BEST, LEFT, SENTENCE = COLUMNS = (
    "nothing lost",
    "no RUNNING row",
    "exact budget",
    "`best.json` valid",
    "nothing left",
    "one sentence",
)

Wrong = dict[str, str]
"""What is wrong, by column."""


@dataclass(frozen=True)
class Moment:
    """The moment of a fault: `seconds` after the log has `n_events` lines that begin or end a trial."""

    n_events: int
    seconds: float

    def wait(self, command: Command, folder: Path) -> None:
        """Wait for this moment, or for the end of the command."""
        while command.process.poll() is None and len(events(folder / "run" / "log.txt")) < self.n_events:
            time.sleep(0.01)
        with suppress(subprocess.TimeoutExpired):
            command.process.wait(self.seconds)

    def __str__(self) -> str:
        return f"line {self.n_events} + {self.seconds:.2f} s"


def arguments(executor: str) -> list[str]:
    """Return the command line of the run, for the folder that holds `tiny.toml`."""
    words = ["search", "--space", "tiny.toml", "--out", "run", "--executor", executor]
    for name, value in SETTINGS.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def start(folder: Path, executor: str, before: str = "") -> Command:
    """Start or resume the run in a folder.

    Args:
        before: Python code that the process runs first.
    """
    (folder / "tiny.toml").write_text(SPACE)
    code = f"{before}\nimport sys\nfrom nas_attn.__main__ import main\nsys.exit(main({arguments(executor)!r}))"
    return Command([sys.executable, "-c", code], folder, folder / "output.txt")


def finish(folder: Path, executor: str, allowed: tuple[int, ...] = (0,)) -> tuple[int | str, Wrong]:
    """Repeat the command and wait for its end; return its exit code, and what is wrong with its end."""
    command = start(folder, executor)
    code = code_of(command)
    wrong = left_by(command)
    if code not in allowed:
        wrong[SENTENCE] = f"the repeated command ended with {code}: {last_line(folder)}"
    return code, wrong | spoken(folder)


def code_of(command: Command) -> int | str:
    """Wait for the end of a command; kill it if it hangs."""
    try:
        return command.process.wait(HUNG_SECONDS)
    except subprocess.TimeoutExpired:
        command.process.kill()
        command.process.wait()
        return f"nothing after {HUNG_SECONDS:.0f} s"


def left_by(command: Command) -> Wrong:
    """Return which processes of a command are left, and kill them."""
    names = []
    for process in command.wait_until_gone(PATIENCE_SECONDS):
        with suppress(psutil.Error):
            names.append(" ".join(process.cmdline())[:80] or process.name())
    command.end()
    return {LEFT: f"left: {'; '.join(names)}"} if names else {}


def spoken(folder: Path) -> Wrong:
    """Return what is wrong with the words of the last command: a traceback, or an error that is no sentence of ours."""
    text = (folder / "output.txt").read_text(errors="replace")
    if "Traceback (most recent call last)" in text:
        return {SENTENCE: "a traceback is printed"}
    return {SENTENCE: last_line(folder)} if "(--debug shows the traceback.)" in text else {}


def last_line(folder: Path) -> str:
    """Return the last line that a command printed."""
    lines = (folder / "output.txt").read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "nothing"


def look_at(run_folder: Path, before: list[Event]) -> Wrong:
    """Return what is wrong with a finished run.

    Args:
        before: Events up to the fault; trials that had ended then must still be there.
    """
    try:
        run = load_run(run_folder)
    except NasAttnError as error:
        return {LOST: str(error)}
    rows = (*run.search, *run.confirm, *run.retrain)
    wrong: Wrong = {}
    n_running = sum(row.state == "running" for row in rows)
    if n_running:
        wrong[RUNNING] = f"{n_running} rows RUNNING"
    trained = [row for row in rows if row.state == "complete" and row.answered_from is None]
    twice = [name for name, n in Counter((row.stage, row.key, row.seed) for row in trained).items() if n > 1]
    n_tried = len({row.key for row in trained if row.stage == "search"})
    of_arms = [row for row in trained if row.stage == "retrain"]  # a random arm has another placement for each seed
    seeds = Counter("random" if row.label == "random" else row.key for row in of_arms)
    if twice or n_tried != SETTINGS["trials"] or set(seeds.values()) != {SETTINGS["seeds"]}:
        wrong[BUDGET] = f"{n_tried} placements, seeds {sorted(seeds.values())}, repeated {twice}"
    known = {("search" if row.stage == "search" else "final", row.number) for row in trained}
    lost = [event for event in before if ("search" if event.stage == "search" else "final", event.number) not in known]
    if lost:
        wrong[LOST] = f"{[(event.stage, event.number) for event in lost]}"
    return wrong | _files_of(run_folder)


def _files_of(run_folder: Path) -> Wrong:
    missing = [name for name in FILES if not (run_folder / name).exists()]
    halves = [path.name for path in run_folder.rglob("*.part")]
    wrong = {LEFT: f"incomplete {halves}"} if halves else {}
    if missing:
        return wrong | {BEST: f"missing {missing}"}
    try:
        load_model(run_folder / "best.json")
    except NasAttnError as error:
        return wrong | {BEST: str(error)}
    return wrong


def n_epochs_again(run_folder: Path) -> int:
    """Return how many epochs of trainings that ended early are in the ledger: the most that was trained again."""
    try:
        run = load_run(run_folder)
    except NasAttnError:
        return 0
    rows = (*run.search, *run.confirm, *run.retrain)
    return sum(len(row.curve) for row in rows if row.cause in ("interrupted", "crashed"))


def completed(found: list[Event]) -> list[Event]:
    """Return the ends of trials that have a value."""
    return [event for event in found if event.kind == "end" and event.state == "complete"]
