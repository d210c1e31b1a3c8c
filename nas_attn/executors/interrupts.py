"""Ctrl-C and SIGTERM, deferred until the ledger is in a consistent state."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Context manager: the first signal sets `pending`, a second one ends the process at once.

    Inside `abruptly` the first signal also raises KeyboardInterrupt, which ends a long computation. Python receives
    signals only in the main thread; in another thread this does nothing.
    """

    def __init__(self) -> None:
        self.pending = False
        self._abrupt = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupts:
        self.hold()
        return self

    def hold(self) -> None:
        """Install the signal handlers; call it again after a library (Ray) has installed its own."""
        if threading.current_thread() is threading.main_thread():
            for name in (signal.SIGINT, signal.SIGTERM):
                before = signal.signal(name, self._take)
                self._before.setdefault(name, before)

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)  # type: ignore[arg-type]  # what signal.signal itself returned
        self._before.clear()

    @contextmanager
    def abruptly(self) -> Iterator[None]:
        """Context manager: a signal raises KeyboardInterrupt; a pending one raises it at once."""
        if self.pending:
            raise KeyboardInterrupt
        self._abrupt = True
        try:
            yield
        finally:
            self._abrupt = False

    @contextmanager
    def gently(self) -> Iterator[None]:
        """Context manager: defer signals in a part of `abruptly` that must be complete, such as a ledger write."""
        self._abrupt = False
        yield
        if self.pending:
            raise KeyboardInterrupt
        self._abrupt = True

    def _take(self, _: int, __: FrameType | None) -> None:
        if self.pending:
            os._exit(130)
        self.pending = True
        if self._abrupt:
            raise KeyboardInterrupt
