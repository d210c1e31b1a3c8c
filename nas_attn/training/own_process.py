"""The process in which a training runs is not its own: what it does to it is undone, and its end is only its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import _exit
from typing import NoReturn


@contextmanager
def shared_process() -> Iterator[None]:
    """Context manager for a training: its `os._exit` raises SystemExit, and a process that it forked ends here.

    Such a process would otherwise run on as a second search. The working directory is that of before at the end.
    """
    process, folder = os.getpid(), None
    with suppress(OSError):  # the folder may be gone
        folder = os.getcwd()
    try:
        with _exits_raised():
            yield
    finally:
        if os.getpid() != process:
            _exit(0)
        with suppress(OSError):
            os.chdir(folder or ".")


@contextmanager
def _exits_raised() -> Iterator[None]:
    """Context manager: `os._exit` raises SystemExit in this thread of this process."""
    process, thread, before = os.getpid(), threading.get_ident(), os._exit

    def exit_of_training(status: int) -> NoReturn:
        if os.getpid() == process and threading.get_ident() == thread:
            raise SystemExit(f"os._exit({status})")
        _exit(status)

    os._exit = exit_of_training
    try:
        yield
    finally:
        os._exit = before
