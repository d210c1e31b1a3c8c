"""The loss of Ray's own processes while they start or a session runs.

It is noticed here, before Ray ends this process without a word.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nas_attn.errors import RunStopped, in_plain_words

NEEDED = {"gcs_server": "GCS", "raylet": "raylet"}
"""Processes of a session without which no trial can begin or end, with Ray's names for them."""

_SECONDS = 0.25
"""Time between two looks at the processes."""


class Loss:
    """Whether a process that Ray needs has ended; one for each session of Tune.

    A cluster at an address has its processes elsewhere, and is never seen as lost here.
    """

    def __init__(self) -> None:
        from ray._private import worker

        self._node: Any = getattr(worker, "_global_node", None)
        self._next = 0.0
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

    @property
    def in_words(self) -> str:
        """The sentence on a loss."""
        return (
            f"Ray's own processes must live as long as the run, but {self.reason}: finished trials are stored, and the "
            "same command resumes the run."
        )


@contextmanager
def reported_start() -> Iterator[None]:
    """Context manager: what Ray raises while its processes start becomes one sentence. Raises: RunStopped."""
    try:
        yield
    except Exception as error:  # Ray raises plain ones too
        raise RunStopped(
            f"Ray must start its processes on this machine, but could not: {in_plain_words(error).rstrip('.')}. The "
            "same command tries again; --executor local runs without Ray."
        ) from error


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
