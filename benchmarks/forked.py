"""A command of nas_attn in a fork of this process, which has imported everything that a run needs.

A command of its own spends most of a tiny run's time on imports. A fork is a process like any other for signals, locks
and files, leads its own session, and begins where `main` does.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import psutil
from processes import Processes

IMPORTED = (
    "nas_attn.backbones.networks.families",
    "nas_attn.executors.local",
    "nas_attn.report.page",
    "nas_attn.run.arm_costs",
    "nas_attn.run.export",
    "nas_attn.run.job",
    "nas_attn.training.trial",
)


def import_everything() -> None:
    """Import what a run needs."""
    for name in IMPORTED:
        import_module(name)


class Child:
    """A child process with the methods of `subprocess.Popen` that the matrix uses.

    Args:
        seconds: CPU time, once it has ended.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.seconds = 0.0

    def poll(self) -> int | None:
        """Return the exit code, or None while it lives."""
        if self.returncode is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                self.seconds = usage.ru_utime + usage.ru_stime
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code. Raises: TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("nas-attn", timeout or 0.0)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal if it lives."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class ForkedCommand(Processes):
    """A started command with its descendants, in its own session; see `processes.Command`.

    Args:
        act: What it does; returns the exit code.
        output: File for its output.
    """

    def __init__(self, act: Callable[[], int], folder: Path, output: Path) -> None:
        self.begun = time.time()
        sys.stdout.flush()
        sys.stderr.flush()
        output.write_text("")  # before the fork, so that nobody reads an earlier command's output as this one's
        pid = os.fork()
        if pid == 0:
            _become(act, folder, output)
        self.process = Child(pid)

    def alive(self) -> list[psutil.Process]:
        """Return the processes of its session that have not ended."""
        found = []
        for pid in psutil.pids():
            with suppress(OSError, psutil.Error):
                if os.getsid(pid) == self.process.pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    found.append(psutil.Process(pid))
        return found


def _become(act: Callable[[], int], folder: Path, output: Path) -> None:
    """Become the command: nothing of the parent's exit is done here."""
    code = 1
    try:
        atexit._clear()
        os.setsid()
        os.chdir(folder)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(file, number)
        code = act()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
