"""The ledger in a PostgreSQL database that many runs share: its address, its lock, and its opening.

The one connection of a driver takes the run's advisory lock before it is used: no row is written without the lock, and
the lock ends with the connection.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Any

from optuna.storages import RDBStorage
from sqlalchemy import URL, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from nas_attn.errors import ConfigError, RunError, RunStopped
from nas_attn.study.storage.addresses import without_password
from nas_attn.study.storage.patience import LockTaken, fault_in_words
from nas_attn.study.storage.schemas import refuse_other_schema, refuse_other_version
from nas_attn.study.storage.sqlite import quiet_optuna

EXAMPLE = "postgresql+psycopg://user@host/database"

_NAMES = ("postgresql+psycopg", "postgresql", "postgres")
_SECRET = ("password", "sslpassword")

MARK = "driver"
"""Name of the note that the driver of a run writes when it begins."""

_MARK_OF = (
    "SELECT value_json FROM study_user_attributes a JOIN studies s ON s.study_id = a.study_id "
    "WHERE a.key = %s AND s.study_name = %s"
)

_TIMES: Mapping[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""A server that is gone is noticed within half a minute."""


class TakenOver(RunStopped):
    """Another driver has gone on with the run."""


def read_address(stated: str) -> URL:
    """Return the address of a database.

    Raises: ConfigError if it is no address of a PostgreSQL database, or its driver is not installed; the message never
    shows what was stated, which may hold a password.
    """
    try:
        address = make_url(stated)
    except (ArgumentError, ValueError):
        raise ConfigError(
            f"--storage must be the address of a PostgreSQL database, such as {EXAMPLE}, but it cannot be read as one."
        ) from None
    if address.drivername not in _NAMES:
        raise ConfigError(
            f"--storage must be the address of a PostgreSQL database, such as {EXAMPLE} (without --storage the ledger "
            f"is a SQLite file in the run folder), but got one of '{address.drivername}'."
        )
    if not address.database:
        raise ConfigError(f"--storage must name a database, as in {EXAMPLE}, but got {shown(address)}.")
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise ConfigError(
            "--storage needs the package psycopg, but it is not installed: pip install 'nas_attn[postgresql]'."
        ) from None
    return address.set(drivername=_NAMES[0])


def shown(address: URL) -> str:
    """Return an address without any password, as it is stored and shown."""
    return address._replace(password=None).difference_update_query(_SECRET).render_as_string(hide_password=False)


def new_name(folder: str) -> str:
    """Return the name of a new run in a shared database: that of its folder, and a random part."""
    readable = folder.encode("ascii", "replace").decode().replace("\0", "?")[:200]
    return f"{readable}-{secrets.token_hex(4)}"


def open_for_driver(address: URL, name: str) -> tuple[RDBStorage, Lock]:
    """Open a database for the driver of a run, and take the run's lock; missing tables are created.

    Raises: RunError in one sentence.
    """
    _make_tables(address)
    storage = _opened(address, poolclass=QueuePool, pool_size=1, max_overflow=0)
    storage.engine.dispose()
    lock = Lock(name)
    event.listen(storage.engine, "connect", lock.take)
    try:
        storage.engine.connect().close()
    except LockTaken:
        storage.engine.dispose()
        raise RunError(
            f"A run has one driver at a time, but another live process has the lock of '{name}' in {shown(address)}: "
            "wait for it, or choose another --out."
        ) from None
    return storage, lock


def open_for_reading(address: URL) -> RDBStorage:
    """Open a database for reading; no right to write is needed.

    Raises: RunError in one sentence.
    """
    quiet_optuna()
    if _schema(address) is None:
        raise RunError(f"The database {shown(address)} must hold the ledger of the run, but it has no tables of one.")
    return _opened(address, poolclass=NullPool)


def check(address: URL) -> None:
    """Check that a database answers and holds tables of this version, or none. Raises: RunError in one sentence."""
    if _schema(address) is not None:
        storage = _opened(address, poolclass=NullPool)
        refuse_other_schema(storage, shown(address), shown(address))
        storage.engine.dispose()


def study_note(address: URL, study: str, key: str) -> Any:
    """Return a note of a study, None without it. Raises: RunError if the study does not exist."""
    found = _query(
        address,
        "SELECT (SELECT value_json FROM study_user_attributes a WHERE a.study_id = s.study_id AND key = %s) "
        "FROM studies s WHERE study_name = %s",
        (key, study),
    )
    if not found:
        raise RunError(f"{shown(address)} must hold the run, but it has no study '{study}'.")
    return None if found[0][0] is None else json.loads(found[0][0])


def _make_tables(address: URL) -> None:
    """Create the tables in a database that has none."""
    quiet_optuna()
    if _schema(address) is not None:
        return
    try:
        made = _opened(address, makes_tables=True, poolclass=NullPool)
    except DBAPIError as error:
        if _schema(address) is None:  # else another driver was quicker
            raise RunError(
                f"The role of --storage must be allowed to create tables in {shown(address)}, but: "
                f"{fault_in_words(error)}."
            ) from None
    else:
        made.engine.dispose()


def _schema(address: URL) -> int | None:
    """Return the version of the schema, or None in an empty database. Raises: RunError in one sentence."""
    if not _query(address, "SELECT to_regclass('version_info')")[0][0]:
        return None
    found = _query(address, "SELECT schema_version FROM version_info")
    version = found[0][0] if found else None
    refuse_other_version(version, shown(address))
    return version


def _query(address: URL, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
    """Return the rows of a query over a connection of its own. Raises: RunError in one sentence."""
    engine = create_engine(address, poolclass=NullPool, connect_args=dict(_TIMES))
    try:
        with engine.connect() as connection:
            return list(connection.exec_driver_sql(statement, values))
    except DBAPIError as error:
        raise RunError(f"--storage must name a database that answers, but {shown(address)} does not: "
                       f"{without_password(fault_in_words(error))}.") from error  # fmt: skip
    finally:
        engine.dispose()


def _opened(address: URL, *, makes_tables: bool = False, **engine: Any) -> RDBStorage:
    text = address.render_as_string(hide_password=False)
    return RDBStorage(
        text.replace("{", "{{").replace("}", "}}"),  # Optuna takes it for a template
        engine_kwargs={"connect_args": dict(_TIMES), **engine},
        skip_compatibility_check=True,
        skip_table_creation=not makes_tables,
    )


class Lock:
    """The advisory lock of a run, taken on each new connection of its driver before that is used.

    Args:
        name: The run's name in the database.
    """

    def __init__(self, name: str) -> None:
        self._key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        self._study, self._mark = "", ""

    def mark(self, study: str, mark: str) -> None:
        """State the note of a study that must not have changed when a later connection takes the lock again."""
        self._study, self._mark = study, mark

    def take(self, connection: Any, _: Any) -> None:
        """Take the lock. Raises: LockTaken; TakenOver if another driver had the lock in the meantime."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (self._key,))
            is_ours = cursor.fetchone()[0]
            cursor.execute(_MARK_OF, (MARK, self._study))
            found = cursor.fetchone()
        connection.commit()
        if not is_ours:
            connection.close()
            raise LockTaken("another connection has the lock of the run")
        if self._mark and (found is None or json.loads(found[0]) != {"mark": self._mark}):
            connection.close()
            raise TakenOver(
                "A run has one driver at a time, but another one has gone on with this run while the database did not "
                "answer: this one ends."
            )
