"""The log file of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Context manager: write the log of this package and of Ray to a file."""
    written = [
        (logging.getLogger(name), logging.FileHandler(path, encoding="utf-8", errors="backslashreplace"))
        for name in ("nas_attn", "ray")
    ]
    ours = written[0][0]
    level = ours.level
    ours.setLevel(logging.INFO)
    for logger, handler in written:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
    try:
        yield
    finally:
        ours.setLevel(level)
        for logger, handler in written:
            logger.removeHandler(handler)
            handler.close()
