"""The traces that a run leaves in its folder, and the refusal of a folder whose ledger is lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from nas_attn.errors import RunError
from nas_attn.files import write_whole

BEGUN = "ledger"
"""Key of `config.json` with the name of the ledger, once that exists."""

DATABASE = "study.db"
"""Name of the ledger in a run folder."""

_RESULTS = ("best.json", "best-so-far.json", "arms", "retrained", "predictions", "report.html", "trials.csv")


def refuse_lost_ledger(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a run whose ledger is missing or empty beside traces of trials; it must not begin anew in silence.

    Args:
        config: Its `config.json`.
    Raises: RunError that names what is there.
    """
    if _is_elsewhere(config):
        return
    database = folder / DATABASE
    found = [name for name in _RESULTS if (folder / name).exists()]
    if not database.exists():
        if config.get(BEGUN) == DATABASE or found:
            raise _lost(folder, "is missing", found)
    elif not database.stat().st_size and not _has_log(database):
        if config.get(BEGUN) == DATABASE or found:
            raise _lost(folder, "is empty", found)
    elif found and _count(database, "SELECT COUNT(*) FROM trials") == 0:
        raise _lost(folder, "has no trial", found)


def _is_elsewhere(config: Mapping[str, Any]) -> bool:
    """Return whether the run keeps its ledger in a database of its own choice."""
    return any(isinstance(group, Mapping) and bool(group.get("storage")) for group in (config, *config.values()))


def _has_log(database: Path) -> bool:
    """Return whether a write-ahead log holds what the database does not yet."""
    log = database.with_name(f"{database.name}-wal")
    return log.exists() and log.stat().st_size > 0


def refuse_unwritable(folder: Path) -> None:
    """Refuse a folder in which no file can be written, before a result is lost there. Raises: RunError."""
    probe = folder / ".probe"
    try:
        write_whole(probe, lambda file: file.write(b"\0"))
        probe.unlink()
    except OSError as error:
        raise RunError(
            f"A run writes its results to {folder}, which must be writable, but: {error.strerror or error}. Make room "
            "or change its permissions, or choose another --out."
        ) from error


def has_values(folder: Path, config: Mapping[str, Any]) -> bool:
    """Return whether a run has any trial with a value; True if that cannot be read.

    Args:
        config: Its `config.json`.
    """
    if _is_elsewhere(config):
        return True
    return _count(folder / DATABASE, "SELECT COUNT(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED')") != 0


def _count(database: Path, query: str) -> int | None:
    """Return a number from the ledger, 0 without a table; None if that cannot be read: opening the ledger says why."""
    if not database.exists():
        return 0
    alone = "" if _has_log(database) else "&immutable=1"  # no file is made beside it
    with suppress(sqlite3.Error), closing(_connected(database, alone)) as opened:
        if opened.execute("SELECT 1 FROM sqlite_master WHERE name = 'trials'").fetchone() is None:
            return 0
        return int(opened.execute(query).fetchone()[0])
    return None


def _connected(database: Path, option: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro{option}", uri=True)


def _lost(folder: Path, what: str, found: list[str]) -> RunError:
    there = ", ".join(["config.json", *found])
    return RunError(
        f"The ledger of a run holds all its trials, but {folder / DATABASE} {what} beside {there}: restore it from a "
        "copy, or choose another --out to begin anew; nothing was changed."
    )
