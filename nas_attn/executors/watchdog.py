"""Ends what Ray leaves behind when its driver is killed: two of its agents live on for a minute.

Run as a process of its own, with a mark that every process of the run bears in its environment. It waits for the end
of its standard input, which comes when the driver ends, however that happens.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

MARK = "NAS_ATTN_SESSION"

_GRACE_SECONDS = 4.0
"""What Ray's processes get to notice the end of the driver by themselves."""


@contextmanager
def watched(mark: str) -> Iterator[None]:
    """Start a watchdog for the processes that this one starts while inside, and end it with the block."""
    command = [sys.executable, os.path.abspath(__file__), mark]
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)
    os.environ[MARK] = mark
    try:
        yield
    finally:
        os.environ.pop(MARK, None)
        process.kill()
        process.communicate()


def end_marked(mark: str) -> None:
    """Kill every process of this user that bears the mark."""
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                process.kill()


def main() -> None:
    """Wait for the driver's end, then for Ray's own clean-up, then end the rest."""
    sys.stdin.read()
    time.sleep(_GRACE_SECONDS)
    end_marked(sys.argv[1])


if __name__ == "__main__":
    main()
