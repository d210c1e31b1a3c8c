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

    Such a process would otherwise run on as a second search. The working directory and the standard input, output and
    error are those of before at the end.
    """
    process, folder = os.getpid(), None
    with suppress(OSError):  # the folder may be gone
        folder = os.getcwd()
    try:
        with _exits_raised(), _standard_descriptors():
            yield
    finally:
        if os.getpid() != process:
            _exit(0)
        with suppress(OSError):
            os.chdir(folder or ".")


@contextmanager
def _standard_descriptors() -> Iterator[None]:
    """Context manager: at the end the descriptors 0 to 2 are those of before, also where they were closed meanwhile.

    The next file that is opened would take a closed one's number, and what a library prints would be written into it.
    """
    copies: dict[int, int] = {}
    for number in range(3):
        with suppress(OSError):  # closed already
            copies[number] = os.dup(number)
    try:
        yield
    finally:
        for number, copy in copies.items():
            with suppress(OSError):
                if not _is_same_file(number, copy):
                    os.dup2(copy, number)
                os.close(copy)


def _is_same_file(number: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(number, other)
    except OSError:  # closed
        return False


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
