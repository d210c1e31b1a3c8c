"""The loss of Ray's own processes while they start or a session runs.

It is noticed here, before Ray ends this process without a word.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from nas_attn.errors import RunStopped, in_plain_words

log = logging.getLogger(__name__)

NEEDED = {"gcs_server": "GCS", "raylet": "raylet"}
"""Processes of a session without which no trial can begin or end, with Ray's names for them."""

_SECONDS = 0.25
"""Time between two looks at the processes."""


_LEAVE_SECONDS = 8.0
"""Time that Tune has to end its session after a loss."""

_LAST_LINES = 8
"""Number of lines of a log of Ray's that the log of a run gets."""


class Loss:
    """Whether a process that Ray needs has ended; one for each session of Tune.

    A cluster at an address has its processes elsewhere, and is never seen as lost here.
    """

    def __init__(self) -> None:
        from ray._private import worker

        self._node: Any = getattr(worker, "_global_node", None)
        self._next = 0.0
        self._is_leaving = False
        self.reason: str | None = None

    def __bool__(self) -> bool:
        """Look at the processes, at most four times a second."""
        if self.reason is None and time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS
            self.look()
        return self.reason is not None

    def look(self) -> bool:
        """Look at the processes now; return whether one has ended."""
        if self.reason is None and self._node is not None:
            ended = [(name, process.returncode) for name, process in self._node.dead_processes() if name in NEEDED]
            if ended:
                self.reason = " and ".join(f"{NEEDED[name]} {_end_in_words(code)}" for name, code in ended)
        return self.reason is not None

    def leave(self) -> None:
        """End this process with code 1 if it does not end by itself: Tune may wait for an answer that never comes.

        Ray would end it a minute later without a word. What was trained is in the ledger by now.
        """
        if not self._is_leaving:
            self._is_leaving = True
            threading.Thread(target=self._exit, daemon=True).start()

    def _exit(self) -> None:
        time.sleep(_LEAVE_SECONDS)
        _end_process(self.in_words)

    @property
    def in_words(self) -> str:
        """The sentence on a loss."""
        return (
            f"Ray's own processes must live as long as the run, but {self.reason}: finished trials are stored, and the "
            "same command resumes the run."
        )


class StartWatch:
    """Context manager around the start of Ray's processes: what goes wrong there becomes one sentence.

    Ray waits half a minute for a raylet that has died, and over a minute for a GCS, in native code that then ends this
    process without a word. A thread notices it earlier; if this process is still waiting `PATIENCE` seconds later, it
    says so and ends the process with code 1. Nothing has been trained then. The log of the run gets the last lines of
    Ray's own logs.

    Args:
        folder: The temporary folder of the session.
    Raises: RunStopped in place of what Ray raises.
    """

    PATIENCE = 3.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if isinstance(error, Exception):  # Ray raises plain ones too
            _log_last_lines(self._folder)
            raise RunStopped(_not_started(in_plain_words(error).rstrip("."))) from error

    def _watch(self) -> None:
        found: dict[int, str] = {}
        while not self._ended.wait(_SECONDS):
            running = _children()
            lost = [name for pid, name in found.items() if pid not in running]
            if lost and not self._ended.wait(self.PATIENCE):
                _log_last_lines(self._folder)
                _end_process(_not_started(f"its {NEEDED[lost[0]]} ended"))
            found |= running


def _log_last_lines(folder: Path) -> None:
    """Log the end of what the processes among `NEEDED` wrote into the temporary folder of their session."""
    for path in sorted(folder.glob("session_2*/logs/*")):
        if path.stem in NEEDED:
            with suppress(OSError):
                lines = path.read_text(errors="replace").splitlines()[-_LAST_LINES:]
                if lines:
                    log.warning("The end of Ray's %s:\n%s", path.name, "\n".join(lines))


def _end_process(sentence: str) -> NoReturn:
    """Say why, and end this process with code 1 although its main thread waits in native code."""
    log.error("%s", sentence)
    with suppress(Exception):
        print(f"Error: {sentence}", file=sys.stderr, flush=True)
    os._exit(1)


def _children() -> dict[int, str]:
    """Return the processes among `NEEDED` that this process has started, by their numbers."""
    import psutil

    found = {}
    for child in psutil.Process().children():
        with suppress(psutil.Error, IndexError):
            name = Path(child.cmdline()[0]).name
            if name in NEEDED and child.status() != psutil.STATUS_ZOMBIE:
                found[child.pid] = name
    return found


def _not_started(reason: str) -> str:
    return (
        f"Ray must start its processes on this machine, but could not: {reason}. The same command tries again; "
        "--executor local runs without Ray."
    )


def _end_in_words(code: int) -> str:
    """Return how a process ended.

    >>> _end_in_words(-9), _end_in_words(1)
    ('was ended by SIGKILL', 'ended with code 1')
    """
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
