"""The log file of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAMES = ("nas_attn", "ray")
"""Loggers whose messages a run's log holds."""


class _LogFile(logging.FileHandler):
    """Writes a log as long as the disk takes it; what it does not take is left out."""

    def handleError(self, record: logging.LogRecord) -> None:  # the name is the standard library's
        """Do nothing: the run goes on, and the standard library would print a traceback."""

    def close(self) -> None:
        """Close the file, even if its last lines cannot be written."""
        try:
            super().close()
        except OSError as error:
            self.handleError(logging.makeLogRecord({"msg": error}))


@contextmanager
def logged_to(path: Path) -> Iterator[str | None]:
    """Context manager: write the log of this package and of Ray to a file.

    It yields None, or why there is no log: the run goes on without one.
    """
    try:
        handlers = [_LogFile(path, encoding="utf-8", errors="backslashreplace") for _ in NAMES]
    except OSError as error:
        yield f"There is no log of this session, because {path} cannot be written: {error.strerror}."
        return
    written = list(zip(map(logging.getLogger, NAMES), handlers, strict=True))
    ours = written[0][0]
    level = ours.level
    ours.setLevel(logging.INFO)
    for logger, handler in written:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
    try:
        yield None
    finally:
        ours.setLevel(level)
        for logger, handler in written:
            logger.removeHandler(handler)
            handler.close()
