"""Waiting for a ledger that does not answer: a server that restarts, a database that another program has locked."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from nas_attn.errors import Interrupted, NasAttnError, RunError, RunStopped

log = logging.getLogger(__name__)

Result = TypeVar("Result")

LONGEST = 3600.0
"""Seconds that a running search waits for its ledger before it ends."""

FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0
"""Seconds between the first two attempts, and between later ones: each pause is twice the one before."""

STEP = 0.25
"""Seconds after which a pause looks whether the user has ended it."""

_PASSING_STATES = ("08", "53", "57P", "40001", "40P01", "55P03")
"""Beginnings of PostgreSQL's codes of faults that pass: no connection, no resources, shut down, a conflict."""

_PASSING_WORDS = ("locked", "busy", "is full", "unable to open database file")
"""Words of SQLite's faults that pass."""


class LockTaken(Exception):
    """Another connection has the lock of the run."""


class Patience:
    """Repeats an operation on the ledger while it fails by a fault that passes.

    Args:
        where: What is waited for, e.g. `study.db` or the server's address without a password.
        longest: Seconds after which waiting ends; 0 tries once.
        gives_up: The error that ends it.
        note: Tells the user, in a sentence, that it waits, and that it goes on.
        is_ended: Returns whether the user has asked to end the run.
    """

    def __init__(
        self,
        where: str,
        longest: float = LONGEST,
        *,
        gives_up: type[NasAttnError] = RunStopped,
        note: Callable[[str], object] = lambda _: None,
        is_ended: Callable[[], bool] = lambda: False,
    ) -> None:
        self._where, self._longest, self._gives_up = where, longest, gives_up
        self._note, self._is_ended = note, is_ended
        self._lost: str | None = None

    def keep(self, operation: Callable[[], Result]) -> Result:
        """Return what `operation` returns; it must be repeatable after a commit whose answer was lost.

        Raises: the error of `gives_up` after `longest` seconds, or at once for a fault that does not pass; Interrupted.
        """
        if self._lost is not None:
            raise self._gives_up(self._lost)
        begun, pause = time.monotonic(), FIRST_PAUSE
        is_told = False
        while True:
            try:
                result = operation()
            except (DBAPIError, StorageInternalError, PoolTimeout, LockTaken) as error:
                reason = self._reason(error, time.monotonic() - begun)
                if not is_told:
                    self._say(f"{self._where} does not answer ({reason}): waiting, at most {_span(self._longest)}.")
                    is_told = True
            else:
                if is_told:
                    self._say(f"{self._where} answers again after {_span(time.monotonic() - begun)}: going on.")
                return result
            self._sleep(min(pause, max(0.0, begun + self._longest - time.monotonic())))
            pause = min(2 * pause, LAST_PAUSE)

    def _reason(self, error: Exception, waited: float) -> str:
        """Return the fault in words. Raises: the error of `gives_up` if there is nothing to wait for."""
        reason = fault_in_words(error)
        if not passes(error) or self._longest == 0:
            self._lost = f"The ledger {self._where} must be readable and writable, but: {reason}."
        elif waited >= self._longest:
            self._lost = f"The ledger {self._where} has not answered for {_span(waited)} ({reason})."
        else:
            return reason
        if issubclass(self._gives_up, RunStopped):
            self._lost += " Finished trials are stored; once it answers, the same command resumes the run."
        raise self._gives_up(self._lost) from error

    def _say(self, sentence: str) -> None:
        log.warning("%s", sentence)
        self._note(sentence)

    def _sleep(self, seconds: float) -> None:
        """Wait, unless the user ends the run. Raises: Interrupted."""
        until = time.monotonic() + seconds
        while True:
            if self._is_ended():
                self._lost = f"Interrupted while {self._where} did not answer: the same command resumes the run."
                self._gives_up = Interrupted
                raise Interrupted(self._lost)
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(STEP, left))


def once(where: str) -> Patience:
    """Return what tries once, and refuses in one sentence: for commands that only read."""
    return Patience(where, 0, gives_up=RunError)


def passes(error: BaseException) -> bool:
    """Return whether a fault of a database may pass by itself."""
    if isinstance(error, LockTaken | PoolTimeout):
        return True
    fault = _database_error(error)
    if fault is None:
        return False
    if fault.connection_invalidated:
        return True
    if isinstance(fault.orig, sqlite3.OperationalError):
        return any(word in str(fault.orig) for word in _PASSING_WORDS)
    state = getattr(fault.orig, "sqlstate", "")
    if state is None:  # no server said anything: it cannot be reached
        return type(fault.orig).__name__ in ("OperationalError", "ConnectionTimeout")
    return state.startswith(_PASSING_STATES) if state else False


def fault_in_words(error: BaseException) -> str:
    """Return the cause of a fault in one line, without the statement that failed."""
    fault = _database_error(error)
    text = str(error if fault is None else fault.orig)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = next((line for line in lines if "FATAL:" in line), lines[0] if lines else type(error).__name__)
    return found.split("FATAL:")[-1].strip().rstrip(".")


def _database_error(error: BaseException | None) -> DBAPIError | None:
    """Return the database's own error within Optuna's."""
    while error is not None and not isinstance(error, DBAPIError):
        error = error.__cause__
    return error


def _span(seconds: float) -> str:
    """Return a time in words.

    >>> _span(12.3), _span(3600.0)
    ('12 s', '60 min')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
