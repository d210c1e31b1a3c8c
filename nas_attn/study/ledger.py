"""The ledger of a run: every trial is one row of an Optuna study, and only the driver writes it.

The database of a run contains a study of the search trials, one of the confirm and retrain runs, and if there are any,
those of the random search beside the search and of the network with shared weights before it. Rows are written in the
schema of Optuna's database, so that its dashboard and its command line can read them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from sqlalchemy import Connection, func, select

from nas_attn.comparison.objectives import Objective
from nas_attn.placement import NONE, Placement, Value
from nas_attn.records import CRASHED_HERE, Outcome, Stage, TrialRecord
from nas_attn.space.fit import Cost
from nas_attn.study.storage.patience import Patience, once
from nas_attn.study.storage.reading import read_trials
from nas_attn.study.storage.rows import records_of
from nas_attn.study.storage.sqlite import close_storage as close_storage  # with the ledger, for who needs both
from nas_attn.study.storage.sqlite import open_storage as open_storage
from nas_attn.study.storage.tables import NOTES, STUDIES, TRIALS, categories_json
from nas_attn.study.storage.writing import index_of, insert_trial, put_end, put_note, put_point

SEARCH = "search"
CONTROL = "random search"
SCREEN = "shared weights"
FINAL = "confirm and retrain"

DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}

Result = TypeVar("Result")

_DEAD = TrialRecord(
    number=-1,
    stage="search",
    state="fail",
    placement=NONE,
    key="",
    seed=0,
    epochs=0,
    cause="interrupted",
    reason="The run ended while this trial was running; it is run again.",
)
"""How a trial ended whose driver died."""


class Ledger:
    """The rows of one study: begin a trial, report its epochs, finish it; read all rows.

    Args:
        storage: Storage of the study.
        name: `SEARCH`, `CONTROL`, `SCREEN` or `FINAL`.
        create: Whether to create a missing study; otherwise it reads as empty.
        patience: What happens when the database does not answer; None tries once.
        objectives: Those of the run; empty for the usual value, which is made large.
    """

    def __init__(
        self,
        storage: RDBStorage,
        name: str,
        *,
        create: bool = True,
        patience: Patience | None = None,
        objectives: Sequence[Objective] = (),
    ) -> None:
        self._storage, self._name, self._engine = storage, name, storage.engine
        self._directions = [DIRECTIONS[goal.direction] for goal in objectives] or [StudyDirection.MAXIMIZE]
        self._patience = patience or once(str(storage.engine.url.database or "ledger"))
        self._study_id = self._patience.keep(lambda: self._find(create))
        self._next = 0 if self._study_id is None else self._read(self._next_number)
        self.remarks: tuple[str, ...] = ()
        self._ids: dict[int, int] = {}
        self._running: dict[int, TrialRecord] = {}
        self._distributions: dict[str, tuple[tuple[Value, ...], str]] = {}

    def records(self) -> tuple[TrialRecord, ...]:
        """Return all rows, in the order in which they began; a damaged one is named in the log and left out."""
        if self._study_id is None:
            return ()
        trials = self._read(lambda connection: read_trials(connection, self._study_id or 0))
        self._ids = {trial.number: trial.trial_id for trial in trials}
        rows = tuple(records_of(trials, self._name))
        damaged = [str(trial.number) for trial in trials if trial.fault]
        self.remarks = (
            (f"Damaged trials of '{self._name}' are left out: number {', '.join(damaged)}.",) if damaged else ()
        )
        return rows

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
        values: Mapping[str, float] | None = None,
    ) -> TrialRecord:
        """Write the row of a trial that begins, and return it.

        Args:
            params, choices: The sampler's parameters and their possible values; a planned run has none.
            values: The objectives that are known before the training, by name.
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
            values=values or {},
        )
        record = self.add(record, choices or {})
        self._running[record.number] = record
        return record

    def add(self, record: TrialRecord, choices: Mapping[str, tuple[Value, ...]]) -> TrialRecord:
        """Write one row, in the state of `record`, in one transaction; return it with its number."""
        assert self._study_id is not None, "a ledger that was opened for reading cannot be written"
        number, study_id = self._next, self._study_id
        stored = {name: self._stored(name, record.params[name], choices[name]) for name in record.params}

        query = select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id, TRIALS.c.number == number)
        attempts = itertools.count()

        def write(connection: Connection) -> int:
            # A commit whose answer was lost may have written the row; looking for it takes a pass over all rows.
            known = connection.execute(query).scalar() if next(attempts) else None
            return int(known) if known is not None else insert_trial(connection, study_id, number, record, stored)

        self._ids[number] = self._write(write)
        self._next = number + 1
        return replace(record, number=number)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Add one point to the curve of a running trial."""
        self._write(lambda connection: put_point(connection, self._ids[number], epoch, value))
        self._running[number] = self._running[number].with_epoch(epoch, value)

    def finish(self, number: int, outcome: Outcome) -> TrialRecord:
        """Write the outcome of a running trial, and return its row; it survives a loss of power."""
        record = self._running[number].ended(outcome)
        self._write_end(self._ids[number], record)
        del self._running[number]
        return record

    def _write_end(self, trial_id: int, record: TrialRecord) -> None:
        self._pragma("synchronous=FULL")
        self._write(lambda connection: put_end(connection, trial_id, record))
        self._pragma("wal_checkpoint(PASSIVE)")
        self._pragma("synchronous=NORMAL")

    def set_note(self, name: str, content: Mapping[str, Any]) -> None:
        """Store a note beside the rows."""
        assert self._study_id is not None, "a ledger that was opened for reading cannot be written"
        study_id = self._study_id
        self._write(lambda connection: put_note(connection, study_id, name, content))

    def note(self, name: str) -> dict[str, Any]:
        """Return the note with this name, or an empty one."""
        query = select(NOTES.c.value_json).where(NOTES.c.study_id == self._study_id, NOTES.c.key == name)
        text = None if self._study_id is None else self._read(lambda connection: connection.execute(query).scalar())
        return {} if text is None else dict(json.loads(text))

    def sweep(self, crash: str | None = None) -> int:
        """Mark the rows that a dead driver left running as interrupted; return their number.

        Args:
            crash: How the driver crashed in the training that it ran itself, which is then marked as crashed.
        """
        ended = _DEAD if crash is None else replace(_DEAD, cause="crashed", reason=f"{CRASHED_HERE}: {crash}.")
        query = select(TRIALS.c.trial_id).where(
            TRIALS.c.study_id == self._study_id, TRIALS.c.state.in_(("RUNNING", "WAITING"))
        )
        dead = self._read(lambda connection: connection.execute(query).scalars().all())
        for trial_id in dead:
            self._write_end(trial_id, ended)
        return len(dead)

    def _find(self, create: bool) -> int | None:
        """Return the number of the study in the database, or None."""
        query = select(STUDIES.c.study_id).where(STUDIES.c.study_name == self._name)
        with self._engine.connect() as connection:
            found = connection.execute(query).scalar()
        if found is None and create:
            found = self._storage.create_new_study(self._directions, self._name)
        return found

    def _next_number(self, connection: Connection) -> int:
        query = select(func.max(TRIALS.c.number)).where(TRIALS.c.study_id == self._study_id)
        last = connection.execute(query).scalar()
        return 0 if last is None else int(last) + 1

    def _stored(self, name: str, value: Value, values: tuple[Value, ...]) -> tuple[int, str]:
        """Return the index of a parameter's value, and its possible values as the schema stores them."""
        known = self._distributions.get(name)
        if known is None or known[0] is not values:
            known = self._distributions[name] = (values, categories_json(values))
        return index_of(value, values), known[1]

    def _read(self, operation: Callable[[Connection], Result]) -> Result:
        def attempt() -> Result:
            with self._engine.connect() as connection:
                return operation(connection)

        return self._patience.keep(attempt)

    def _write(self, operation: Callable[[Connection], Result]) -> Result:
        """Carry out one transaction; `operation` may be repeated after a commit whose answer was lost."""

        def attempt() -> Result:
            with self._engine.begin() as connection:
                return operation(connection)

        return self._patience.keep(attempt)

    def _pragma(self, pragma: str) -> None:
        """Set how SQLite writes; another database makes each commit durable."""
        if self._engine.name == "sqlite":
            self._read(lambda connection: connection.exec_driver_sql(f"PRAGMA {pragma}").close())
