"""Which schema the tables of a database have: one that this version reads and writes, an older or a newer one."""

from __future__ import annotations

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import select

from nas_attn.errors import RunError
from nas_attn.study.storage.tables import SCHEMA, VERSION


def refuse_other_schema(storage: RDBStorage, where: str, address: str) -> None:
    """Refuse tables that another version of Optuna has made or migrated.

    Args:
        where: The database as a sentence names it.
        address: Its address without a password, for a command.
    Raises: RunError in one sentence.
    """
    with storage.engine.connect() as connection:
        found = connection.execute(select(VERSION.c.schema_version)).scalar()
    refuse_other_version(found, where)
    current, newest = storage.get_current_version(), storage.get_head_version()
    if current == newest:
        return
    rule = f"The tables of {where} must have the schema {newest} of Optuna {optuna.__version__}, but have {current}"
    if current in storage.get_all_versions():
        raise RunError(
            f"{rule} of an older version: make a copy of the database, migrate it by `optuna storage upgrade --storage "
            f"{address}`, and repeat the command."
        )
    raise RunError(
        f"{rule}, which a newer version wrote: upgrade optuna and nas_attn, or choose another --out; its trials are "
        "untouched."
    )


def refuse_other_version(found: int | None, where: str) -> None:
    """Refuse tables whose stated version is not the one that the ledger reads. Raises: RunError in one sentence."""
    if found != SCHEMA:
        raise RunError(
            f"The tables of {where} must have version {SCHEMA} of Optuna's schema, but have {found}: upgrade nas_attn, "
            "or choose another database or --out; its trials are untouched."
        )
