"""Ctrl-C and SIGTERM, held back until the ledger can be closed cleanly."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """While it is entered, a first signal sets `pending`, and a second one leaves the process at once.

    Inside `abruptly` a signal raises KeyboardInterrupt instead, so that a long computation need not be waited for.
    Outside the main thread Python cannot take signals: then nothing is held back.
    """

    def __init__(self) -> None:
        self.pending = False
        self._abrupt = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupts:
        self.hold()
        return self

    def hold(self) -> None:
        """Take the signals, again if something has taken them since: Ray puts in handlers of its own."""
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
        """Let a signal raise KeyboardInterrupt inside; one that is pending already raises at once."""
        if self.pending:
            raise KeyboardInterrupt
        self._abrupt = True
        try:
            yield
        finally:
            self._abrupt = False

    @contextmanager
    def gently(self) -> Iterator[None]:
        """Hold signals back inside a part of `abruptly` that must not be cut, such as a write to the ledger."""
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
