"""Temporary folders of our own for Ray and Tune: short, writable, locked while they are used, removed afterwards.

What a killed process leaves is removed at the next start: a folder whose lock nobody has. The lock is the operating
system's, so that it ends with its process and is seen from other containers that share the folder.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from nas_attn.errors import ConfigError, in_plain_words

PREFIX = "nas_attn-"
KINDS = ("ray", "tune")

_LOCK = "in-use"
_UNLOCKED_SECONDS = 86_400.0
"""Age from which a folder without a lock, such as an older version's, counts as left behind."""

_NEEDED_BYTES = 32 * 2**20
_SOCKET_LETTERS = (103 if sys.platform == "darwin" else 107) - len(
    f"/{PREFIX}ray-12345678/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
)
"""Greatest length of the folder in which a session of Ray can have the sockets that it opens."""


@contextmanager
def temporary_folder(kind: str) -> Iterator[Path]:
    """Context manager: make a folder for one of `KINDS`, and remove it at the end.

    It lies in the first of `RAY_TMPDIR`, `TMPDIR`, /tmp, /var/tmp and /dev/shm that takes it. Those that dead processes
    left in any of them are removed first.

    Raises: ConfigError that names each of them, if there is no folder that is writable, not full and has a short path.
    """
    folder = _make(kind)
    lock = FileLock(folder / _LOCK)
    lock.acquire(timeout=0)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)  # the lock's file, where releasing it made it again


def remove_left_behind() -> None:
    """Remove the folders of dead processes of this user."""
    for parent in _parents():
        with suppress(OSError):
            for folder in [path for kind in KINDS for path in parent.glob(f"{PREFIX}{kind}-*")]:
                with suppress(OSError):
                    _remove_if_dead(folder)


def left_behind() -> list[Path]:
    """Return the folders of dead processes of this user; nothing is removed."""
    found = []
    for parent in _parents():
        with suppress(OSError):
            for folder in [path for kind in KINDS for path in sorted(parent.glob(f"{PREFIX}{kind}-*"))]:
                with suppress(OSError):
                    if _is_ours(folder) and _is_dead(folder):
                        found.append(folder)
    return found


def _is_ours(folder: Path) -> bool:
    state = folder.lstat()
    return folder.is_dir() and not folder.is_symlink() and not (hasattr(os, "getuid") and state.st_uid != os.getuid())


def _is_dead(folder: Path) -> bool:
    """Return whether nobody has the lock of a folder, or one without a lock is old."""
    if not (folder / _LOCK).exists():
        return time.time() - folder.lstat().st_mtime > _UNLOCKED_SECONDS
    lock = FileLock(folder / _LOCK)
    try:
        with lock.acquire(timeout=0):
            return True
    except Timeout:
        return False


def _remove_if_dead(folder: Path) -> None:
    state = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or (hasattr(os, "getuid") and state.st_uid != os.getuid()):
        return
    if not (folder / _LOCK).exists():
        if time.time() - state.st_mtime > _UNLOCKED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
        return
    lock = FileLock(folder / _LOCK)
    with suppress(Timeout), lock.acquire(timeout=0):
        shutil.rmtree(folder, ignore_errors=True)
    if not (folder / _LOCK).exists():
        shutil.rmtree(folder, ignore_errors=True)


def _make(kind: str) -> Path:
    remove_left_behind()
    reasons = []
    for parent in _parents():
        reason = _unfit(parent, kind)
        if reason is None:
            try:
                return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-", dir=parent))
            except OSError as error:
                reason = error.strerror or "it cannot be written"
        reasons.append(f"{in_plain_words(parent)} ({reason})")
    raise ConfigError(
        f"Ray needs a temporary folder that is writable, with {_NEEDED_BYTES // 2**20} MB free and a path of at most "
        f"{_SOCKET_LETTERS} letters, but found only {', '.join(reasons)}: set TMPDIR, or use --executor local."
    )


def _parents() -> list[Path]:
    named = [os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm"]
    return [Path(name) for name in dict.fromkeys(named) if name]


def _unfit(parent: Path, kind: str) -> str | None:
    """Return why a folder cannot hold a temporary one, or None."""
    if not parent.is_absolute():
        return "its path is not absolute"
    try:
        free = shutil.disk_usage(parent).free
    except OSError as error:
        return error.strerror or "it cannot be read"
    if kind == "ray" and len(os.fsencode(parent)) > _SOCKET_LETTERS:
        return f"its path has {len(os.fsencode(parent))} letters"
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return "it cannot be written"
    return f"{free // 2**20} MB free" if free < _NEEDED_BYTES else None
