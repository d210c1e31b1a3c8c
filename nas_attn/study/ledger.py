"""The ledger of a run: every trial is one row of an Optuna study, and only the driver writes it.

The database of a run contains a study of the search trials, one of the confirm and retrain runs, and one of the random
search beside the search if there is one. Rows are written through Optuna's storage interface, so its dashboard and its
command line can read them.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from sqlalchemy import event, text
from sqlalchemy.pool import StaticPool

from nas_attn.errors import RunError, first_line
from nas_attn.placement import Placement, Value
from nas_attn.records import Outcome, Stage, TrialRecord
from nas_attn.space.fit import Cost
from nas_attn.study.rows import STATES, record_of, template

SEARCH = "search"
CONTROL = "random search"
FINAL = "confirm and retrain"


def open_storage(path: Path) -> RDBStorage:
    """Open (or create) the SQLite database of a run in WAL mode.

    Commits are quick (`synchronous=NORMAL`); `Ledger.finish` makes them durable. Raises: RunError if the file is not a
    database.
    """

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=60, check_same_thread=False)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        storage = RDBStorage(
            "sqlite:///study.db",  # the creator opens the file: a path in a URL would need quoting
            engine_kwargs={"poolclass": StaticPool, "creator": connect},
        )
    except Exception as error:  # SQLAlchemy, SQLite and Alembic raise different ones
        raise RunError(
            f"The ledger {path} must be a database that this version can read, but: {first_line(error)}. "
            "Move the run folder away, or choose another --out."
        ) from error

    @event.listens_for(storage.engine, "connect")
    def _quick(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()
    return storage


def close_storage(storage: RDBStorage) -> None:
    """Merge the write-ahead log into the database file, so that a copy of that file is complete."""
    with storage.engine.connect() as connection:
        connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
    storage.remove_session()
    storage.engine.dispose()


class Ledger:
    """The rows of one study: begin a trial, report its epochs, finish it; read all rows.

    Args:
        storage: Storage of the study.
        name: `SEARCH`, `CONTROL` or `FINAL`.
        create: Whether to create a missing study; otherwise it reads as empty.
    """

    def __init__(self, storage: RDBStorage, name: str, *, create: bool = True) -> None:
        self._storage = storage
        known = {study.study_name: study._study_id for study in storage.get_all_studies()}
        if name not in known and create:
            known[name] = storage.create_new_study([StudyDirection.MAXIMIZE], name)
        self._study_id = known.get(name)
        self._ids: dict[int, int] = {}
        self._running: dict[int, TrialRecord] = {}

    def records(self) -> tuple[TrialRecord, ...]:
        """Return all rows, in the order in which they began."""
        if self._study_id is None:
            return ()
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        self._ids = {trial.number: trial._trial_id for trial in trials}
        return tuple(record_of(trial) for trial in trials)

    def begin(
        self,
        stage: Stage,
        placement: Placement,
        seed: int,
        epochs: int,
        cost: Cost,
        *,
        label: str | None = None,
        params: Mapping[str, Value] | None = None,
        choices: Mapping[str, tuple[Value, ...]] | None = None,
    ) -> TrialRecord:
        """Write the row of a trial that begins, and return it.

        Args:
            params, choices: The sampler's parameters and their possible values; a planned run has none.
        """
        record = TrialRecord(
            number=-1,
            stage=stage,
            state="running",
            placement=placement,
            key=placement.key,
            seed=seed,
            epochs=epochs,
            params=params or {},
            n_parameters=cost.n_parameters,
            n_macs=cost.n_macs,
            label=label,
        )
        record = self.add(record, choices or {})
        self._running[record.number] = record
        return record

    def add(self, record: TrialRecord, choices: Mapping[str, tuple[Value, ...]]) -> TrialRecord:
        """Write one row, in the state of `record`, in one transaction; return it with its number."""
        assert self._study_id is not None, "a ledger that was opened for reading cannot be written"
        trial = template(record, {name: CategoricalDistribution(values) for name, values in choices.items()})
        trial_id = self._storage.create_new_trial(self._study_id, template_trial=trial)
        number = self._storage.get_trial_number_from_id(trial_id)
        self._ids[number] = trial_id
        return replace(record, number=number)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Add one point to the curve of a running trial."""
        self._storage.set_trial_intermediate_value(self._ids[number], epoch, value)
        self._running[number] = self._running[number].with_epoch(epoch, value)

    def finish(self, number: int, outcome: Outcome) -> TrialRecord:
        """Write the outcome of a running trial, and return its row; it survives a loss of power."""
        record = self._running.pop(number).ended(outcome)
        self._write_end(number, outcome, record.value)
        return record

    def _write_end(self, number: int, outcome: Outcome, value: float | None) -> None:
        trial_id = self._ids[number]
        self._storage.set_trial_user_attr(trial_id, "seconds", round(outcome.seconds, 3))
        if outcome.facts:
            self._storage.set_trial_user_attr(trial_id, "facts", dict(outcome.facts))
        if outcome.reason is not None:
            self._storage.set_trial_user_attr(trial_id, "cause", outcome.cause)
            self._storage.set_trial_user_attr(trial_id, "reason", outcome.reason)
        values = None if value is None else [value]
        self._pragma("synchronous=FULL")
        self._storage.set_trial_state_values(trial_id, STATES[outcome.state], values)
        self._pragma("wal_checkpoint(PASSIVE)")
        self._pragma("synchronous=NORMAL")

    def set_note(self, name: str, content: Mapping[str, Any]) -> None:
        """Store a note beside the rows."""
        assert self._study_id is not None, "a ledger that was opened for reading cannot be written"
        self._storage.set_study_user_attr(self._study_id, name, dict(content))

    def note(self, name: str) -> dict[str, Any]:
        """Return the note with this name, or an empty one."""
        notes = {} if self._study_id is None else self._storage.get_study_user_attrs(self._study_id)
        return dict(notes.get(name, {}))

    def sweep(self) -> int:
        """Mark the rows that a dead driver left running as interrupted; return their number."""
        dead = [record.number for record in self.records() if record.state == "running"]
        for number in dead:
            reason = "The run ended while this trial was running; it is run again."
            self._write_end(number, Outcome("fail", cause="interrupted", reason=reason), None)
        return len(dead)

    def _pragma(self, pragma: str) -> None:
        with self._storage.engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA {pragma}")
