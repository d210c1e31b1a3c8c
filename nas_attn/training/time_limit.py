"""The longest time of one training: what is raised in it, and the outcome."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nas_attn.records import Outcome

_AGAIN_SECONDS = 1.0
"""Time after which a training that caught the exception gets it again."""


class TimedOut(BaseException):
    """Raised in a training that takes too long; no Exception, so that `except Exception` lets it pass."""


@dataclass
class TimeLimit:
    """The time limit of one training.

    Args:
        seconds: The limit; None has none.
        has_passed: Whether the training was ended because of it.
    """

    seconds: float | None
    has_passed: bool = False

    @contextmanager
    def enforced(self, strike: Callable[[], None]) -> Iterator[None]:
        """Context manager: call `strike` from another thread after the limit, and again until the training ends."""
        if self.seconds is None:
            yield
            return
        has_ended, lock = threading.Event(), threading.Lock()
        watcher = threading.Thread(target=self._watch, args=(strike, has_ended, lock, self.seconds), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            has_ended.set()
            with lock:  # a strike that has begun comes to its end
                pass

    def _watch(
        self, strike: Callable[[], None], has_ended: threading.Event, lock: threading.Lock, seconds: float
    ) -> None:
        delay = seconds
        while not has_ended.wait(delay):
            with lock:
                if not has_ended.is_set():
                    self.has_passed = True
                    strike()
            delay = _AGAIN_SECONDS


def timed_out(limit: float, seconds: float) -> Outcome:
    """Return the outcome of a training that took longer than `--trial-timeout`."""
    reason = f"The training took longer than the {limit:g} s of --trial-timeout, and was ended."
    return Outcome("fail", cause="timeout", reason=reason, seconds=seconds)


def silent(seconds: float) -> Outcome:
    """Return the outcome of a training whose worker gave no sign of life."""
    reason = (
        f"The worker gave no sign of life for {seconds:.0f} s, and was ended: native code that does not return, or a "
        "stopped process."
    )
    return Outcome("fail", cause="timeout", reason=reason, seconds=seconds)


def raise_in(thread: int | None, error: type[BaseException]) -> None:
    """Raise an exception in another thread of this process, at its next step of Python code."""
    if thread is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
