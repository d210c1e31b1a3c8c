"""Kills the processes that Ray leaves behind when its driver is killed: two of its agents run for a minute or longer.

It runs as its own process, with the driver's process id as argument. It reads lines "PID START" from its standard
input, which ends when the driver ends in any way; then it kills those processes that still run. If the driver was
killed while Ray started, there are no lines; Ray's processes are then recognised by the driver's id in the name of
their session.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

_GRACE_SECONDS = 4.0
"""Time for Ray's processes to notice the end of the driver themselves."""


@contextmanager
def watchdog() -> Iterator[Callable[[], None]]:
    """Context manager: start a watchdog, and yield a function that reports this process's descendants to it."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # it outlives the driver, and must not hold a pipe of the driver's reader
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )

    def watch() -> None:
        import psutil

        assert process.stdin is not None, "the watchdog was started with a pipe"
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if child.pid == process.pid:
                    continue
                process.stdin.write(f"{child.pid} {child.create_time()}\n")
        process.stdin.flush()

    try:
        yield watch
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    """Wait for the end of the driver and for Ray's own clean-up, then kill the remaining processes."""
    watched = [line.split() for line in sys.stdin]
    ended = time.time()
    time.sleep(_GRACE_SECONDS)
    import psutil

    for pid, start in watched:
        with suppress(psutil.Error):
            process = psutil.Process(int(pid))
            if process.create_time() == float(start):
                process.kill()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.create_time() < ended and of_session(process.cmdline(), int(sys.argv[1])):
                process.kill()


def of_session(arguments: Sequence[str], driver: int) -> bool:
    """Return whether a command line is that of a Ray process in the session of a driver.

    >>> of_session(["raylet", "--session-dir=/tmp/ray/session_2026-11-21_11-33-09_038594_26834"], 26834)
    True
    """
    is_ray = any(argument.endswith(("raylet", "gcs_server", ".py")) for argument in arguments)
    return is_ray and any(re.search(rf"session_[\d_-]+_{driver}\b", argument) for argument in arguments)


if __name__ == "__main__":
    main()
