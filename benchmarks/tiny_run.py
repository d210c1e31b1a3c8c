"""A tiny run that the kill matrix ends, damages and repeats, and the rules that it must obey when it is finished.

Each rule belongs to a column of the matrix; see `COLUMNS`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from forked import ForkedCommand
from processes import Command
from run_log import Event

from nas_attn import load_model, load_run
from nas_attn.errors import NasAttnError
from nas_attn.records import AGAIN, RunRecord

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
SETTINGS = {"trials": 3, "epochs": 2, "batch_size": 16, "seeds": 1, "top": 1, "controls": 0, "cpus_per_trial": 1}
IMAGES = {"train": 24, "val": 18, "test": 18}
STAGES = {
    "start": "Starting the workers",
    "search": "Searching",
    "confirm": "Confirming the best",
    "retrain": "Retraining the arms",
    "export": "Exporting the arms",
    "report": "Writing the report",
    "costs": "Measuring time and memory",
}
"""The stages of a run, and the words with which its output begins each."""

FILES = ("best.json", "best.safetensors", "config.json", "report.html", "trials.csv", "arms.csv")
PATIENCE_SECONDS = 10.0
"""Time after which no process of an ended command may be alive."""

HUNG_SECONDS = 600.0

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


AnyCommand = Command | ForkedCommand


@dataclass(frozen=True)
class Moment:
    """The moment of a fault: in a stage that a command begins, for the first or the second time.

    Args:
        length: Of the stage in an undisturbed run, in seconds.
        share: Of this length that has passed.
    """

    stage: str
    times: int
    length: float
    share: float

    def wait(self, command: AnyCommand, folder: Path) -> None:
        """Wait for this moment, or for the end of the command."""
        words = STAGES[self.stage]
        while command.process.poll() is None and text_of(folder).count(words) < self.times:
            time.sleep(0.02)
        with suppress(subprocess.TimeoutExpired):
            command.process.wait(self.share * self.length)

    def __str__(self) -> str:
        return f"{self.stage}{' again' if self.times == 2 else ''} {self.share:.0%}"


def prepare(folder: Path) -> None:
    """Write the space and the images of the run."""
    (folder / "tiny.toml").write_text(SPACE)
    draw = np.random.default_rng(0)
    arrays = {}
    for part, n in IMAGES.items():
        labels = np.arange(n) % 3
        pixels = draw.integers(0, 120, (n, 8, 8)) + 60 * labels[:, None, None]
        arrays |= {f"{part}_images": pixels.astype(np.uint8), f"{part}_labels": labels}
    np.savez(folder / "tiny.npz", **arrays)


def arguments(executor: str, further: Sequence[str] = ()) -> list[str]:
    """Return the command line of the run, for the folder that holds `tiny.toml`."""
    words = ["search", "--space", "tiny.toml", "--out", "run", "--executor", executor, "--data", "npz:tiny.npz"]
    for name, value in SETTINGS.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return [*words, *(["--workers", "1"] if executor == "tune" else []), *further]


def start(folder: Path, executor: str, before: str = "", further: Sequence[str] = ()) -> AnyCommand:
    """Start or resume the run in a folder: with `local` in a fork of this process, otherwise in a new one.

    Args:
        before: Python code that the process runs first.
        further: Further words of the command line.
    """
    prepare(folder)
    words, output = arguments(executor, further), folder / "output.txt"
    if executor != "local":
        code = f"{before}\nimport sys\nfrom nas_attn.__main__ import main\nsys.exit(main({words!r}))"
        return Command([sys.executable, "-c", code], folder, output)

    def act() -> int:
        from nas_attn.__main__ import main

        exec(before, {})
        return main(words)

    return ForkedCommand(act, folder, output)


def finish(
    folder: Path, executor: str, allowed: tuple[int, ...] = (0,), further: Sequence[str] = ()
) -> tuple[int | str, Wrong]:
    """Repeat the command and wait for its end; return its exit code, and what is wrong with its end."""
    command = start(folder, executor, further=further)
    code = code_of(command)
    wrong = left_by(command)
    if code not in allowed:
        wrong[SENTENCE] = f"the repeated command ended with {code}: {last_line(folder)}"
    return code, wrong | spoken(folder)


def code_of(command: AnyCommand, patience: float = HUNG_SECONDS) -> int | str:
    """Wait for the end of a command; kill it if it hangs."""
    try:
        return command.process.wait(patience)
    except subprocess.TimeoutExpired:
        command.process.kill()
        command.process.wait()
        return f"nothing after {patience:.0f} s"


def left_by(command: AnyCommand) -> Wrong:
    """Return which processes of a command are left, and kill them."""
    names = []
    for process in command.wait_until_gone(PATIENCE_SECONDS):
        with suppress(psutil.Error):
            names.append(" ".join(Path(word).name for word in process.cmdline())[:80] or process.name())
    command.end()
    return {LEFT: f"left: {'; '.join(names)}"} if names else {}


def spoken(folder: Path) -> Wrong:
    """Return what is wrong with the words of the last command: a traceback, or an error that is no sentence of ours."""
    text = text_of(folder)
    if "Traceback (most recent call last)" in text:
        shown = text.partition("Traceback (most recent call last)")[2].splitlines()
        return {SENTENCE: f"a traceback is printed: {' | '.join(shown[-8:])[-600:]}"}
    return {SENTENCE: last_line(folder)} if "(--debug shows the traceback.)" in text else {}


def text_of(folder: Path) -> str:
    """Return what the last command has printed."""
    path = folder / "output.txt"
    return path.read_text(errors="replace") if path.exists() else ""


def last_line(folder: Path) -> str:
    """Return the last line that a command printed."""
    lines = text_of(folder).strip().splitlines()
    return lines[-1][:300] if lines else "nothing"


Trained = tuple[str, str, int]
"""A training of a run: its stage, the key of its placement, its seed."""


def look_at(run_folder: Path, before: list[Event], may_repeat: Collection[Trained] = ()) -> Wrong:
    """Return what is wrong with a finished run.

    Args:
        before: Events up to the fault; trials that had ended then must still be there.
        may_repeat: Trainings that may have been repeated, once, because their files were lost.
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
    twice = [name for name, n in times_trained(run).items() if n > 1 + (name in may_repeat)]
    n_tried = len({row.key for row in trained if row.stage == "search"})
    of_arms = {(row.label == "random", row.key, row.seed) for row in trained if row.stage == "retrain"}
    seeds = Counter("random" if is_random else key for is_random, key, _ in of_arms)  # it has another one for each seed
    if twice or n_tried != SETTINGS["trials"] or set(seeds.values()) != {SETTINGS["seeds"]}:
        wrong[BUDGET] = f"{n_tried} placements, seeds {sorted(seeds.values())}, repeated {twice}"
    known = {("search" if row.stage == "search" else "final", row.number) for row in trained}
    lost = [event for event in before if ("search" if event.stage == "search" else "final", event.number) not in known]
    if lost:
        wrong[LOST] = f"{[(event.stage, event.number) for event in lost]}"
    return wrong | _files_of(run_folder)


def times_trained(run: RunRecord) -> Counter[Trained]:
    """Return how many times each training of a run came to its end."""
    rows = (*run.search, *run.confirm, *run.retrain)
    return Counter(
        (row.stage, row.key, row.seed) for row in rows if row.state == "complete" and row.answered_from is None
    )


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
    """Return the most epochs that one training has trained again after an interruption, as the ledger counts them."""
    try:
        run = load_run(run_folder)
    except NasAttnError:
        return 0
    return max((int(row.facts.get(AGAIN, 0)) for row in (*run.search, *run.confirm, *run.retrain)), default=0)


def completed(found: list[Event]) -> list[Event]:
    """Return the ends of trials that have a value."""
    return [event for event in found if event.kind == "end" and event.state == "complete"]
