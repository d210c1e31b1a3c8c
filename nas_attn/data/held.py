"""Cached files that a living process reads are held: who deletes what is not needed leaves them alone.

The hold is the operating system's shared lock, so that it ends with its process. Where the system has none (Windows),
a file that is mapped cannot be deleted anyway.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from nas_attn.files import is_part

_HELD: dict[Path, int] = {}
"""Descriptors of the files that this process holds, open until it ends."""

_WRITING_SECONDS = 3600.0
"""Age of the last write after which a part of a file counts as left by a killed process."""


def hold(path: Path) -> None:
    """Hold a file until this process ends; a file or disk that cannot be locked is left as it is."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return
    before = _HELD.pop(path, None)  # of a file with this name that has been replaced since, or the same
    _HELD[path] = descriptor
    if before is not None:
        os.close(before)


def is_held(path: Path) -> bool:
    """Return whether a living process holds a file, or may still be writing it."""
    try:
        if is_part(path) and time.time() - path.stat().st_mtime < _WRITING_SECONDS:
            return True
        return _is_locked(path)
    except OSError:
        return False


def _is_locked(path: Path) -> bool:
    if sys.platform == "win32":
        return False
    import fcntl

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
