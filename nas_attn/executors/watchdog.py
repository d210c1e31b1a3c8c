"""Ends what Ray leaves behind when its driver is killed: two of its agents live on for a minute or more.

Run as a process of its own. It reads "PID START" lines from its standard input until that ends, which it does when the
driver ends, however that happens; then it ends those of the processes that are still there.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_GRACE_SECONDS = 4.0
"""What Ray's processes get to notice the end of the driver by themselves."""


@contextmanager
def watchdog() -> Iterator[Callable[[], None]]:
    """Start a watchdog, and yield what hands the processes below this one over to it; the block's end ends it."""
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
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
    time.sleep(_GRACE_SECONDS)
    import psutil

    for pid, start in watched:
        with suppress(psutil.Error):
            process = psutil.Process(int(pid))
            if process.create_time() == float(start):
                process.kill()


if __name__ == "__main__":
    main()
