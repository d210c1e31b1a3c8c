"""Where the ledgers of a run lie: the SQLite file of its folder, or a PostgreSQL database that many runs share."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from nas_attn.comparison.objectives import Objective
from nas_attn.study.ledger import SEARCH, Ledger
from nas_attn.study.storage.patience import Patience, once
from nas_attn.study.storage.sqlite import close_storage, open_read_only, open_storage
from nas_attn.study.storage.tables import STUDIES, TRIALS

if TYPE_CHECKING:
    from nas_attn.study.storage.postgresql import Lock

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
        from nas_attn.study.storage.postgresql import read_address, shown

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
        is_read_only: Whether it was opened for reading.
        lock: The driver's lock in a shared database.
    """

    def __init__(
        self,
        place: Place,
        storage: RDBStorage,
        patience: Patience,
        *,
        is_read_only: bool = False,
        lock: Lock | None = None,
    ) -> None:
        self.place, self.storage, self.patience = place, storage, patience
        self._is_read_only, self._lock = is_read_only, lock

    def trials(self, name: str) -> list[FrozenTrial]:
        """Return the trials of a ledger as Optuna reads them; empty if it does not exist."""
        known = {study.study_name: study._study_id for study in self.storage.get_all_studies()}
        study_id = known.get(self.place.study(name))
        return [] if study_id is None else self.storage.get_all_trials(study_id, deepcopy=False)

    def state(self) -> object:
        """Return what changes when a trial is written; not for a SQLite file, whose files show it."""
        prefix = f"{self.place.name}/"
        query = select(func.count(), func.max(TRIALS.c.trial_id), func.max(TRIALS.c.datetime_complete))
        query = query.join(STUDIES, STUDIES.c.study_id == TRIALS.c.study_id)
        query = query.where(STUDIES.c.study_name.startswith(prefix, autoescape=True))
        with self.storage.engine.connect() as connection:
            return tuple(connection.execute(query).one())

    def claim(self, ledger: Ledger) -> None:
        """Mark the run as this driver's: after a lost connection it goes on only if no other driver has done so.

        Args:
            ledger: That of the search, which has the mark.
        """
        if self._lock is not None:
            mark = secrets.token_hex(8)
            ledger.set_note("driver", {"mark": mark})
            self._lock.mark(self.place.study(SEARCH), mark)

    def ledger(self, name: str, *, create: bool = True, objectives: Sequence[Objective] = ()) -> Ledger:
        """Return a ledger of the run; one that does not exist reads as empty unless it is created."""
        study = self.place.study(name)
        return Ledger(self.storage, study, create=create, patience=self.patience, objectives=objectives)

    def close(self) -> None:
        """Close the database; a run ends also when it does not answer: rows are committed one by one."""
        with suppress(SQLAlchemyError):
            if not self._is_read_only:
                close_storage(self.storage)
        self.storage.remove_session()
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
    from nas_attn.study.storage.postgresql import open_for_driver, read_address

    storage, lock = open_for_driver(read_address(place.address), place.name)
    return Store(place, storage, patience, lock=lock)


def read_store(place: Place) -> Store:
    """Open the database of a run for reading: nothing is written, and a driver is not disturbed.

    Raises: RunError in one sentence.
    """
    patience = once(place.in_words)
    if place.address is None:
        return Store(place, open_read_only(place.database), patience, is_read_only=True)
    from nas_attn.study.storage.postgresql import open_for_reading, read_address

    return Store(place, open_for_reading(read_address(place.address)), patience, is_read_only=True)


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
