"""Rows of the kill matrix: a process of the run gets a signal at a seeded moment, and the command is repeated."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
from processes import Command
from run_log import events
from tiny_run import (
    BUDGET,
    LOST,
    RUNNING,
    SENTENCE,
    STAGES,
    AnyCommand,
    Moment,
    Wrong,
    code_of,
    completed,
    finish,
    last_line,
    left_by,
    look_at,
    n_epochs_again,
    spoken,
    start,
    text_of,
)

Struck = tuple[Wrong, int, int]
"""What was wrong, the number of kills, and the epochs trained again."""

Victims = Callable[[AnyCommand], list[psutil.Process]]
STOCK_TRIALS = 8
STOCK_SECONDS = 180.0
"""Time without a change in its study after which the peer counts as hanging; its trials take a second each."""


@dataclass(frozen=True)
class Kill:
    """A signal for some processes of a run.

    Args:
        codes: Exit codes of a command that is ended by it; the run may also have ended before (0).
        stopped: Seconds of a SIGSTOP, after which SIGCONT follows; None for other signals.
        of_workers: Whether it is for workers, which exist in some stages alone; the command goes on.
    """

    name: str
    victims: Victims
    signals: tuple[signal.Signals, ...]
    codes: tuple[int, ...]
    stopped: float | None = None
    of_workers: bool = False

    def strike(self, command: Command) -> bool:
        """Send the signals; return whether there was anybody."""
        found = self.victims(command)
        for process in found:
            with suppress(psutil.Error):
                process.send_signal(self.signals[0])
        if self.stopped is not None:
            time.sleep(self.stopped)
            for process in found:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)
        return bool(found)


def driver(command: AnyCommand) -> list[psutil.Process]:
    """Return the driver."""
    with suppress(psutil.Error):
        return [psutil.Process(command.process.pid)]
    return []


def named(*names: str) -> Victims:
    """Return a function that finds the processes whose command line begins with, or whose program is, one of these."""

    def find(command: AnyCommand) -> list[psutil.Process]:
        found = []
        for process in command.alive():
            with suppress(psutil.Error):
                words = process.cmdline() or [""]
                if Path(words[0]).name in names or words[0].startswith(names) or Path(words[-2:][0]).name in names:
                    found.append(process)
        return found

    return find


def everybody_of_ray(command: AnyCommand) -> list[psutil.Process]:
    """Return all processes but the driver and its watchdog."""
    spared = {command.process.pid, *(process.pid for process in named("watchdog.py")(command))}
    return [process for process in command.alive() if process.pid not in spared]


def watchdog_then_driver(command: AnyCommand) -> list[psutil.Process]:
    """Return the watchdog, then the driver."""
    return [*named("watchdog.py")(command), *driver(command)]


def group(command: AnyCommand) -> list[psutil.Process]:
    """Return the processes of the driver's process group."""
    return [process for process in command.alive() if _group_of(process) == command.process.pid]


def _group_of(process: psutil.Process) -> int | None:
    with suppress(OSError):
        return os.getpgid(process.pid)
    return None


def one_worker(command: AnyCommand) -> list[psutil.Process]:
    """Return one worker."""
    return named("ray::")(command)[:1]


def of_tune(pause: float) -> list[Kill]:
    """Return the kills of a run with Ray Tune; `pause` is the length of a SIGSTOP in seconds."""
    kill = (signal.SIGKILL,)
    return [
        Kill("SIGKILL of the driver", driver, kill, (-9,)),
        Kill("SIGKILL of a worker", one_worker, kill, (0,), of_workers=True),
        Kill("SIGKILL of the raylet", named("raylet"), kill, (1,)),
        Kill("SIGKILL of the GCS", named("gcs_server"), kill, (1,)),
        Kill("SIGKILL of all of Ray", everybody_of_ray, kill, (1,)),
        Kill("SIGKILL of watchdog, then driver", watchdog_then_driver, kill, (-9,)),
        Kill("SIGINT to the process group", group, (signal.SIGINT,), (130,)),
        Kill("SIGKILL of the process group", group, kill, (-9,)),
        Kill("SIGTERM of the driver", driver, (signal.SIGTERM,), (130,)),
        Kill("SIGHUP of the driver", driver, (signal.SIGHUP,), (130,)),
        Kill("SIGSTOP of the driver", driver, (signal.SIGSTOP,), (0,), stopped=pause),
        Kill("SIGSTOP of a worker", one_worker, (signal.SIGSTOP,), (0,), stopped=pause, of_workers=True),
    ]


def of_local(pause: float) -> list[Kill]:
    """Return the kills of a run in one process."""
    return [
        Kill("SIGKILL of the driver", driver, (signal.SIGKILL,), (-9,)),
        Kill("SIGINT of the driver", driver, (signal.SIGINT,), (130,)),
        Kill("SIGTERM of the driver", driver, (signal.SIGTERM,), (130,)),
        Kill("SIGHUP of the driver", driver, (signal.SIGHUP,), (130,)),
        Kill("SIGSTOP of the driver", driver, (signal.SIGSTOP,), (0,), stopped=pause),
    ]


Lengths = Sequence[tuple[str, int, float]]
"""The stages of an undisturbed run in their order: name, which time, and seconds."""


def timeline(command: AnyCommand, folder: Path) -> Lengths:
    """Watch an undisturbed run to its end, and return its stages."""
    begun: list[tuple[str, float]] = []
    while command.process.poll() is None:
        found = _stages_in(text_of(folder))
        begun += [(name, time.monotonic()) for name in found[len(begun) :]]
        time.sleep(0.02)
    ends = [moment for _, moment in begun[1:]] + [time.monotonic()]
    names = [name for name, _ in begun]
    return [
        (name, names[: number + 1].count(name), end - moment)
        for number, ((name, moment), end) in enumerate(zip(begun, ends, strict=True))
    ]


def _stages_in(text: str) -> list[str]:
    """Return the stages that an output names, in their order."""
    of_words = {words: name for name, words in STAGES.items()}
    return [name for line in text.splitlines() for words, name in of_words.items() if line.startswith(words)]


def moments_of(draw: random.Random, lengths: Lengths, n: int, kill: Kill) -> list[Moment]:
    """Return seeded moments for the kills of one run: `n` stages in their order, the second kill in the resuming."""
    possible = [length for length in lengths if not kill.of_workers or length[0] in ("search", "confirm", "retrain")]
    chosen = sorted(draw.sample(range(len(possible)), min(n, len(possible))))
    moments = [Moment(*possible[number], draw.random()) for number in chosen]
    if n > 2 and not kill.of_workers:
        moments[1] = Moment(*lengths[0], draw.random())
    return moments


def strike(folder: Path, executor: str, kill: Kill, moments: Sequence[Moment]) -> Struck:
    """Run the command, send the signal at each moment, repeating the command where it ended; then finish the run."""
    wrong: Wrong = {}
    command, before, n_kills = None, [], 0
    for moment in moments:
        command = command or start(folder, executor)
        moment.wait(command, folder)
        is_struck = False
        while command.process.poll() is None and not (is_struck := kill.strike(command)):
            time.sleep(0.05)  # there is no such process yet
        n_kills += is_struck
        if kill.of_workers:
            continue
        wrong = {**_ended(command, kill, folder), **wrong}
        command, before = None, completed(events(folder / "run" / "log.txt"))
    if command is not None:
        wrong = {**_ended(command, kill, folder), **wrong}
    _, at_end = finish(folder, executor)
    return {**look_at(folder / "run", before), **at_end, **wrong}, n_kills, n_epochs_again(folder / "run")


def _ended(command: AnyCommand, kill: Kill, folder: Path) -> Wrong:
    """Wait for the end of a command that got the signal; return what is wrong with it."""
    code = code_of(command)
    wrong = left_by(command)
    if code not in (*kill.codes, 0):
        return {**wrong, SENTENCE: f"ended with {code} instead of {kill.codes[0]}: {last_line(folder)}"}
    return wrong if code == -9 else wrong | spoken(folder)


def strike_stock(folder: Path, kill: Kill, seconds: float) -> Struck:
    """Do the same to stock Ray Tune with OptunaSearch, continued by `Tuner.restore`; return what is wrong."""
    script = str(Path(__file__).with_name("stock.py"))
    words = [sys.executable, script, str(folder), "--trials", str(STOCK_TRIALS), "--seconds", "1"]
    command = Command(words, folder, folder / "output.txt")
    deadline = time.monotonic() + STOCK_SECONDS
    while command.process.poll() is None and time.monotonic() < deadline and not _stock_states(folder)["COMPLETE"]:
        time.sleep(0.1)
    time.sleep(seconds)
    before = _stock_states(folder)["COMPLETE"]
    is_struck = False
    while not is_struck and command.process.poll() is None:  # a worker exists only while its trial runs
        is_struck = kill.strike(command)
    code = _stock_code(command, folder)
    wrong = left_by(command)
    if code not in (*kill.codes, 0):
        wrong[SENTENCE] = f"ended with {code}" if isinstance(code, int) else f"hangs: {code}"
    elif code != -9:
        wrong |= spoken(folder)
    again = Command([*words, "--restore"], folder, folder / "output.txt")
    if (code := _stock_code(again, folder)) != 0:
        wrong[LOST] = f"restore ended with {code}" if isinstance(code, int) else f"restore hangs: {code}"
    wrong |= left_by(again)
    after = _stock_states(folder)
    wrong |= {RUNNING: f"{after['RUNNING']} rows RUNNING"} if after["RUNNING"] else {}
    wrong |= {BUDGET: f"{after['COMPLETE']} trials"} if after["COMPLETE"] != STOCK_TRIALS else {}
    return wrong | ({LOST: "rows are gone"} if after["COMPLETE"] < before else {}), int(is_struck), 0


def _stock_code(command: Command, folder: Path) -> int | str:
    """Wait for the end of the peer as long as its study changes; kill it if it hangs."""
    seen, deadline = _stock_states(folder), time.monotonic() + STOCK_SECONDS
    while time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            return int(command.process.wait(2.0))
        states = _stock_states(folder)
        if states != seen:
            seen, deadline = states, time.monotonic() + STOCK_SECONDS
    command.process.kill()
    command.process.wait()
    return f"no change for {STOCK_SECONDS:.0f} s"


def _stock_states(folder: Path) -> Counter[str]:
    path = folder / "stock.db"
    if not path.exists():
        return Counter()
    with suppress(Exception):  # the peer may be creating its tables just now
        study = optuna.load_study(study_name="stock", storage=f"sqlite:///{path}")
        return Counter(trial.state.name for trial in study.trials)
    return Counter()
