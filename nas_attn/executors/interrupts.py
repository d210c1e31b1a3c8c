"""Ctrl-C, SIGTERM and SIGHUP, deferred until the ledger is in a consistent state."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import _exit  # the function itself, which is replaced while a training runs
from types import FrameType

from nas_attn.training.time_limit import TimedOut, raise_in

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_AGAIN_SECONDS = 0.02
_AT_ONCE = b"Interrupted twice, so the run ends at once: the same command resumes it.\n"


class Interrupts:
    """Context manager: the first signal sets `pending`, a second one ends the process at once.

    Inside `abruptly` the first signal also raises KeyboardInterrupt, which ends a long computation; where Python loses
    that exception, as in a finalizer, it is raised again. Python receives signals only in the main thread; in another
    thread this does nothing.
    """

    def __init__(self) -> None:
        self.pending = False
        self._abrupt = self._is_expired = self._is_lost = False
        self._before: dict[signal.Signals, object] = {}
        self._show_lost = sys.unraisablehook

    def __enter__(self) -> Interrupts:
        self._show_lost = sys.unraisablehook
        sys.unraisablehook = self._raise_again
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
        sys.unraisablehook = self._show_lost

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

    def _raise_again(self, lost: sys.UnraisableHookArgs) -> None:
        """Send this process the signal again whose exception Python has lost; show any other lost exception."""
        if not (self.pending and isinstance(lost.exc_value, KeyboardInterrupt)):
            self._show_lost(lost)
        elif self._abrupt and hasattr(signal, "pthread_kill"):
            self._is_lost = True
            main = threading.main_thread().ident
            threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, (main, signal.SIGINT)).start()

    def _take(self, number: int, __: FrameType | None) -> None:
        if self._is_lost and number == signal.SIGINT:
            self._is_lost = False
            if self._abrupt:
                raise KeyboardInterrupt
            return
        if self._is_expired and number == signal.SIGINT:
            if self._abrupt:
                self._is_expired = False
                raise TimedOut
            return
        if self.pending:
            with suppress(OSError):  # the terminal may be gone
                os.write(2, _AT_ONCE)
            _exit(130)
        self.pending = True
        if self._abrupt:
            raise KeyboardInterrupt
