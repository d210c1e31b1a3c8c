"""Ends what Ray leaves behind when its driver is killed: two of its agents live on for a minute or more.

Run as a process of its own, with the driver's id. It reads "PID START" lines from its standard input until that ends,
which it does when the driver ends, however that happens; then it ends those of the processes that are still there. A
driver that was killed while Ray started has told of none: those are known by the driver's id in their session's name.
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
"""What Ray's processes get to notice the end of the driver by themselves."""


@contextmanager
def watchdog() -> Iterator[Callable[[], None]]:
    """Start a watchdog, and yield what hands the processes below this one over to it; the block's end ends it."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(os.getpid())],
        stdin=subprocess.PIPE,
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
    """Wait for the driver's end, then for Ray's own clean-up, then end the rest."""
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


def of_session(words: Sequence[str], driver: int) -> bool:
    """Whether a command line is one of Ray's own, for the session that a driver started.

    >>> of_session(["raylet", "--session-dir=/tmp/ray/session_2026-11-21_11-33-09_038594_26834"], 26834)
    True
    """
    is_ray = any(word.endswith(("raylet", "gcs_server", ".py")) for word in words)
    return is_ray and any(re.search(rf"session_[\d_-]+_{driver}\b", word) for word in words)


if __name__ == "__main__":
    main()
