"""Ctrl-C, SIGTERM and SIGHUP, deferred until the ledger is in a consistent state."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from os import _exit  # the function itself, which is replaced while a training runs
from types import FrameType

from nas_attn.training.time_limit import TimedOut, raise_in

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupts:
    """Context manager: the first signal sets `pending`, a second one ends the process at once.

    Inside `abruptly` the first signal also raises KeyboardInterrupt, which ends a long computation. Python receives
    signals only in the main thread; in another thread this does nothing.
    """

    def __init__(self) -> None:
        self.pending = False
        self._abrupt = self._is_expired = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupts:
        self.hold()
        return self

    def hold(self) -> None:
        """Install the signal handlers; call it again after a library (Ray) has installed its own."""
        if threading.current_thread() is threading.main_thread():
            for name in _SIGNALS:
                if name is not signal.SIGINT and signal.getsignal(name) is signal.SIG_IGN:
                    continue  # such as SIGHUP under `nohup`
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
        self._abrupt, self._is_expired = True, False
        try:
            yield
        finally:
            self._abrupt = self._is_expired = False

    @contextmanager
    def gently(self) -> Iterator[None]:
        """Context manager: defer signals in a part of `abruptly` that must be complete, such as a ledger write."""
        self._abrupt = False
        yield
        if self.pending:
            raise KeyboardInterrupt
        if self._is_expired:
            self._is_expired = False
            raise TimedOut
        self._abrupt = True

    def expire(self, thread: int) -> None:
        """End the computation inside `abruptly` by TimedOut; called from another thread.

        In the main thread this also ends a wait in a system call, which only a signal does.

        Args:
            thread: Identifier of the thread that computes.
        """
        if thread != threading.main_thread().ident:
            raise_in(thread, TimedOut)
            return
        self._is_expired = True
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(thread, signal.SIGINT)
        else:
            _thread.interrupt_main()

    def _take(self, number: int, __: FrameType | None) -> None:
        if self._is_expired and number == signal.SIGINT:
            if self._abrupt:
                self._is_expired = False
                raise TimedOut
            return
        if self.pending:
            _exit(130)
        self.pending = True
        if self._abrupt:
            raise KeyboardInterrupt
