"""What the driver of a run tells other processes, by small files in the run folder, and what these ask of it."""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nas_attn.files import write_text

DRIVER = "driver.json"
"""Name of the file in a run folder in which a living driver describes itself."""

REQUEST = "finish.request"
"""Name of the file in a run folder that asks its driver to end the search."""

_SECONDS = 2.0
"""Shortest time between two updates of the description."""

_SILENT_SECONDS = 600.0
"""Age of the last update after which a driver on another machine counts as dead."""


@dataclass(frozen=True)
class Driver:
    """A driver as it described itself.

    Args:
        pid, host, started: The process; `started` tells it from a later one with the same number.
        updated: When it wrote this, in seconds since 1970.
        stage: The stage of the run, or `start` before the first trial.
        running, workers: Number of trials that run, and of those that may run at the same time.
        seconds_left: Its estimate at that time; None before a training has ended.
    """

    pid: int
    host: str
    started: str
    updated: float
    stage: str = "start"
    running: int = 0
    workers: int = 0
    seconds_left: float | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the process lives; of another machine, whether it wrote lately."""
        if self.host != socket.gethostname():
            return time.time() - self.updated < _SILENT_SECONDS
        return _started(self.pid) == self.started

    @property
    def left_now(self) -> float | None:
        """The estimate of the time left, less what has passed since."""
        return None if self.seconds_left is None else max(0.0, self.seconds_left - (time.time() - self.updated))


class DriverFile:
    """The description of this process as the driver of a run; a disk that refuses it never ends the run."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / DRIVER
        now, pid = time.time(), os.getpid()
        self._state = Driver(pid, socket.gethostname(), _started(pid) or "", now)
        self._written = -math.inf

    def update(self, changes: Callable[[], Mapping[str, Any]] = dict) -> None:
        """Write the changes, at most every other second; they are computed only then."""
        if time.monotonic() - self._written >= _SECONDS:
            self._written = time.monotonic()
            self._state = replace(self._state, updated=time.time(), **changes())
            with suppress(OSError):
                write_text(self._path, json.dumps(asdict(self._state)) + "\n")

    def remove(self) -> None:
        """Remove the description, and a request that is served."""
        for path in (self._path, self._path.with_name(REQUEST)):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def living_driver(folder: Path) -> Driver | None:
    """Return the driver of a run as it described itself, or None if there is none that lives; nothing is locked."""
    try:
        content: Mapping[str, Any] = json.loads((folder / DRIVER).read_text(encoding="utf-8"))
        driver = Driver(**content)
        return driver if driver.is_alive else None
    except (OSError, ValueError, TypeError):
        return None


def ask_to_finish(folder: Path) -> None:
    """Ask the driver of a run, or its next one, to end the search. Raises: OSError if that cannot be written."""
    write_text(folder / REQUEST, "The search ends, and the run goes on to confirm.\n")


def is_asked_to_finish(folder: Path) -> bool:
    """Return whether a run was asked to end its search."""
    return (folder / REQUEST).exists()


def _started(pid: int) -> str | None:
    """Return what tells a living process from others with its number; None for a dead one."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] == "Z" else fields[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return "alive"
    return "alive"
