"""Where the ledgers of a run lie: the SQLite file of its folder, or a PostgreSQL database that many runs share."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage

from nas_attn.study.ledger import SEARCH, Ledger
from nas_attn.study.patience import Patience, once
from nas_attn.study.storage import close_storage, open_read_only, open_storage

DATABASE = "study.db"
"""Name of the SQLite file in a run folder."""

READS_FROM = "NAS_ATTN_STORAGE"
"""Environment variable with the address from which commands read a run of a shared database."""


@dataclass(frozen=True)
class Place:
    """Where the ledgers of a run lie.

    Args:
        folder: The run folder, with the SQLite file unless there is an address.
        address: Address of a shared PostgreSQL database, possibly with a password; None for the SQLite file.
        name: The run's name in the shared database; empty for the SQLite file.
    """

    folder: Path
    address: str | None = None
    name: str = ""

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.folder / DATABASE

    @property
    def in_words(self) -> str:
        """The place as it is shown, without a password."""
        if self.address is None:
            return str(self.database)
        from nas_attn.study.postgresql import read_address, shown

        return shown(read_address(self.address))

    def study(self, name: str) -> str:
        """Return the name of a study in the database."""
        return f"{self.name}/{name}" if self.name else name

    def to_dict(self) -> dict[str, str] | None:
        """Return what `config.json` stores: no password; None for the SQLite file."""
        return None if self.address is None else {"url": self.in_words, "name": self.name}


class Store:
    """The open database of a run.

    Args:
        patience: What happens when it does not answer.
    """

    def __init__(self, place: Place, storage: RDBStorage, patience: Patience) -> None:
        self.place, self.storage, self.patience = place, storage, patience

    def ledger(self, name: str, *, create: bool = True) -> Ledger:
        """Return a ledger of the run; one that does not exist reads as empty unless it is created."""
        return Ledger(self.storage, self.place.study(name), create=create, patience=self.patience)

    def close(self) -> None:
        """Close the database, or what is left of it: an open run ends also when the database does not answer."""
        try:
            close_storage(self.storage)
        except Exception:  # rows are committed one by one: closing only tidies up
            self.storage.engine.dispose()


def open_store(
    place: Place,
    *,
    note: Callable[[str], object] = lambda _: None,
    is_ended: Callable[[], bool] = lambda: False,
) -> Store:
    """Open the database of a run for its driver.

    Args:
        note, is_ended: See `Patience`.
    Raises: RunError in one sentence.
    """
    patience = Patience(place.in_words, note=note, is_ended=is_ended)
    if place.address is None:
        return Store(place, open_storage(place.database), patience)
    from nas_attn.study.postgresql import MARK, open_for_driver, read_address

    storage, lock = open_for_driver(read_address(place.address), place.name)
    store, mark = Store(place, storage, patience), secrets.token_hex(8)
    store.ledger(SEARCH).set_note(MARK, {"mark": mark})
    lock.mark(place.study(SEARCH), mark)
    return store


def read_store(place: Place) -> Store:
    """Open the database of a run for reading: nothing is written, and a driver is not disturbed.

    Raises: RunError in one sentence.
    """
    patience = once(place.in_words)
    if place.address is None:
        return Store(place, open_read_only(place.database), patience)
    from nas_attn.study.postgresql import open_for_reading, read_address

    return Store(place, open_for_reading(read_address(place.address)), patience)


def stored_place(folder: Path, config: Any, environment: dict[str, str]) -> Place:
    """Return where the ledgers of an existing run lie, to read them.

    Args:
        config: Its `config.json`.
        environment: May hold, under `READS_FROM`, another address of the database, such as one of a read-only role.
    """
    stored = config.get("storage")
    if not isinstance(stored, dict) or "url" not in stored:
        return Place(folder)
    return Place(folder, environment.get(READS_FROM) or str(stored["url"]), str(stored.get("name", "")))
