"""What the ledger writes in Optuna's tables; each function may be repeated after a commit whose answer was lost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.storages._rdb.models import TrialModel
from sqlalchemy import Connection, Table, insert, update
from sqlalchemy.dialects import postgresql, sqlite

from nas_attn.placement import Value
from nas_attn.records import TrialRecord
from nas_attn.study.storage.rows import STATES, attributes_of, ending_attributes, values_of
from nas_attn.study.storage.tables import ATTRIBUTES, CURVES, NOTES, PARAMS, TRIALS, VALUES, stored_value

_UTC_TIMES = hasattr(TrialModel, "_datetime_start_utc")
"""Whether this version of Optuna stores the time of a trial as UTC; older ones store that of the place."""


def insert_trial(
    connection: Connection, study_id: int, number: int, record: TrialRecord, params: Mapping[str, tuple[int, str]]
) -> int:
    """Write a new trial; return its number in the database.

    Args:
        params: The index of each parameter's value, and its possible values as the schema stores them.
    """
    ended = None if record.state == "running" else _now()
    trial = {
        "study_id": study_id, "number": number, "state": STATES[record.state].name, "datetime_start": _now(),
        "datetime_complete": ended,
    }  # fmt: skip
    trial_id = int(connection.execute(insert(TRIALS).returning(TRIALS.c.trial_id), trial).scalar_one())
    _insert_all(
        connection,
        PARAMS,
        [
            {"trial_id": trial_id, "param_name": name, "param_value": float(index), "distribution_json": text}
            for name, (index, text) in params.items()
        ],
    )
    _insert_all(
        connection,
        ATTRIBUTES,
        [
            {"trial_id": trial_id, "key": key, "value_json": json.dumps(content)}
            for key, content in attributes_of(record).items()
        ],
    )
    _insert_all(connection, CURVES, [_point(trial_id, *point) for point in record.curve.items()])
    _insert_all(connection, VALUES, [_value(trial_id, *value) for value in enumerate(values_of(record))])
    return trial_id


def put_point(connection: Connection, trial_id: int, epoch: int, value: float) -> None:
    """Write one point of a curve."""
    _put_all(connection, CURVES, ("trial_id", "step"), [_point(trial_id, epoch, value)])


def put_end(connection: Connection, trial_id: int, record: TrialRecord) -> None:
    """Write how a trial ended."""
    attributes = [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(content)}
        for key, content in ending_attributes(record).items()
    ]
    _put_all(connection, ATTRIBUTES, ("trial_id", "key"), attributes)
    values = [_value(trial_id, *value) for value in enumerate(values_of(record))]
    _put_all(connection, VALUES, ("trial_id", "objective"), values)
    state = {"state": STATES[record.state].name, "datetime_complete": _now()}
    connection.execute(update(TRIALS).where(TRIALS.c.trial_id == trial_id), state)


def put_note(connection: Connection, study_id: int, name: str, content: Mapping[str, Any]) -> None:
    """Write a note of a study."""
    row = {"study_id": study_id, "key": name, "value_json": json.dumps(dict(content))}
    _put_all(connection, NOTES, ("study_id", "key"), [row])


def index_of(value: Value, values: Sequence[Value]) -> int:
    """Return the position of a value; `True` is not `1`.

    >>> index_of(True, (1, True))
    1
    """
    same = [index for index, known in enumerate(values) if known == value and type(known) is type(value)]
    return same[0] if same else values.index(value)


def _point(trial_id: int, epoch: int, value: float) -> dict[str, Any]:
    number, kind = stored_value(value)
    return {"trial_id": trial_id, "step": epoch, "intermediate_value": number, "intermediate_value_type": kind}


def _value(trial_id: int, objective: int, value: float) -> dict[str, Any]:
    number, kind = stored_value(value)
    return {"trial_id": trial_id, "objective": objective, "value": number, "value_type": kind}


def _insert_all(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), rows)


def _put_all(connection: Connection, table: Table, keys: Sequence[str], rows: list[dict[str, Any]]) -> None:
    """Insert rows; one whose keys are there already is replaced."""
    if not rows:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table)
    others = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=list(keys), set_=others), rows)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None) if _UTC_TIMES else datetime.now()
