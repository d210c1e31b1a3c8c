"""The ledger as a SQLite file in the run folder: opened as a driver does, or only to be read."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import event, text
from sqlalchemy.pool import NullPool, StaticPool

from nas_attn.errors import RunError, in_plain_words
from nas_attn.study.storage.schemas import refuse_other_schema

OPENING_SECONDS = 20.0
"""Time in which another program may unlock the file when it is opened."""

BUSY_MILLISECONDS = 2000
"""Time that a statement waits for another program; then the driver waits, and can be interrupted."""


def open_storage(path: Path) -> RDBStorage:
    """Open (or create) the SQLite database of a run in WAL mode.

    Commits are quick (`synchronous=NORMAL`); `Ledger.finish` makes them durable. Raises: RunError if the file is not a
    database, or has another schema.
    """

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=OPENING_SECONDS, check_same_thread=False)

    quiet_optuna()
    try:
        storage = RDBStorage(
            "sqlite:///study.db",  # the creator opens the file: a path in a URL would need quoting
            engine_kwargs={"poolclass": StaticPool, "creator": connect},
            skip_compatibility_check=True,
        )
        refuse_other_schema(storage, str(path), f"sqlite:///{path}")
    except RunError:
        raise
    except Exception as error:  # SQLAlchemy, SQLite and Alembic raise different ones
        raise RunError(
            f"The ledger {path} must be a database that this version can read, but: {_cause(error)}. "
            "Move the run folder away, or choose another --out."
        ) from error

    @event.listens_for(storage.engine, "connect")
    def _quick(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")

    storage.engine.dispose()
    return storage


def close_storage(storage: RDBStorage) -> None:
    """Merge a write-ahead log into its database file, so that a copy of that file is complete, and close it."""
    if storage.engine.name == "sqlite":
        with storage.engine.connect() as connection:
            connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
    storage.remove_session()
    storage.engine.dispose()


def open_read_only(ledger: Path) -> RDBStorage:
    """Return Optuna's storage of a SQLite file that is opened read-only; a running driver is not disturbed.

    Raises: RunError if it is not a ledger.
    """
    address = f"{ledger.resolve().as_uri()}?mode=ro"
    if not os.access(ledger.parent, os.W_OK) and not ledger.with_name(f"{ledger.name}-wal").exists():
        address += "&immutable=1"  # SQLite would make its index of the write-ahead log there

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(address, uri=True, timeout=10.0, check_same_thread=False)

    try:
        with closing(connect()) as connection:
            connection.execute("SELECT study_name FROM studies").fetchall()
        return RDBStorage(
            "sqlite://",
            # Each query opens the file again: no connection outlives the file or blocks the driver's checkpoints.
            engine_kwargs={"creator": connect, "poolclass": NullPool},
            skip_compatibility_check=True,
            skip_table_creation=True,
        )
    except (sqlite3.Error, UnicodeDecodeError, StorageInternalError) as error:  # the message may repeat damaged bytes
        raise RunError(
            f"'{ledger}' must be a ledger that a search wrote, but it cannot be read: {_cause(error)}."
        ) from error


def quiet_optuna() -> None:
    """Let Optuna and its migrations log warnings only."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _cause(error: Exception) -> str:
    """Return the cause of a fault without the statement that failed."""
    return in_plain_words(getattr(error, "orig", None) or error).removesuffix(".")
