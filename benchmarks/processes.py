"""All processes of one command, found by a mark in their environment: their memory, and which are still alive."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

ROOT = Path(__file__).resolve().parent.parent
MARK = "NAS_ATTN_BENCHMARK"
INTERVAL_SECONDS = 0.5


class Processes(ABC):
    """A started command with its descendants; `process` is the command itself, which can be waited for."""

    process: Any

    @abstractmethod
    def alive(self) -> list[psutil.Process]:
        """Return those that have not ended."""

    def wait_until_gone(self, seconds: float) -> list[psutil.Process]:
        """Wait at most `seconds` for the end of all processes; return those that are left."""
        deadline = time.monotonic() + seconds
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def end(self) -> None:
        """Kill the processes that are left."""
        for process in self.alive():
            with suppress(psutil.Error):
                process.kill()
        self.process.wait()


class Command(Processes):
    """A started command with all its descendants, also those that leave its process group.

    Args:
        words: The command line; it imports this checkout's package.
        output: File for its output.
    """

    def __init__(self, words: list[str], folder: Path, output: Path) -> None:
        self._mark = uuid4().hex
        self._path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.begun = time.time()
        with output.open("w") as file:
            self.process = subprocess.Popen(
                words,
                cwd=folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, MARK: self._mark, "PYTHONPATH": self._path},
                start_new_session=True,
            )

    def alive(self) -> list[psutil.Process]:
        """Return the processes with the mark that have not ended."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


class Memory:
    """The largest sum of the proportional set sizes (PSS: shared pages counted once) over all samples, in bytes.

    `largest` are the greatest processes of that sample, by name.
    """

    def __init__(self) -> None:
        self.peak = 0
        self.n_samples = 0
        self.largest: list[tuple[int, str]] = []

    def sample(self, command: Command) -> None:
        """Take one sample; a process that has ended counts as 0."""
        sizes = []
        for process in command.alive():
            with suppress(psutil.Error):
                memory = process.memory_full_info()
                sizes.append((getattr(memory, "pss", memory.rss), short_name(process)))
        total = sum(size for size, _ in sizes)
        if total > self.peak:
            self.peak, self.largest = total, sorted(sizes, reverse=True)[:5]
        self.n_samples += 1


def short_name(process: psutil.Process) -> str:
    """Return the file name of the first argument that is neither an option nor an interpreter."""
    words = [word for word in process.cmdline() if not word.startswith("-")]
    names = [Path(word).name for word in words if "python" not in Path(word).name] or [process.name()]
    return names[0]


@contextmanager
def sampled(command: Command) -> Iterator[Memory]:
    """Context manager: sample the memory of a command."""
    memory, ended = Memory(), threading.Event()

    def sample() -> None:
        while not ended.wait(INTERVAL_SECONDS):
            memory.sample(command)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        ended.set()
        thread.join()
