"""The rows of a study, read with one query per table: Optuna's own loading takes minutes for 10,000 trials."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Column, Connection, String, select, type_coerce
from sqlalchemy.sql.elements import ColumnElement, TypeCoerce

from nas_attn.study.storage.tables import ATTRIBUTES, CURVES, PARAMS, TRIALS, VALUES, read_value

_FAULTS = (ValueError, TypeError, KeyError, IndexError)
"""What reading a damaged trial raises."""


@dataclass
class StoredTrial:
    """One trial of a study as it is stored.

    Args:
        trial_id: Its number in the database.
        values: Those of the objectives in their order; None without any.
        fault: Why it cannot be read, or None.
    """

    trial_id: int
    number: int
    state: TrialState
    values: list[float] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    user_attrs: dict[str, Any] = field(default_factory=dict)
    intermediate_values: dict[int, float] = field(default_factory=dict)
    fault: str | None = None

    def damaged(self, part: str, error: Exception) -> None:
        """Note what of the trial cannot be read."""
        self.fault = f"{part} cannot be read ({error or type(error).__name__})"

    @property
    def value(self) -> float | None:
        """The value of the first objective."""
        return self.values[0] if self.values else None


def read_trials(connection: Connection, study_id: int) -> list[StoredTrial]:
    """Return the trials of a study in the order of their numbers; those that are damaged say why."""
    of_study = TRIALS.c.study_id == study_id
    query = select(TRIALS.c.trial_id, TRIALS.c.number, _as_text(TRIALS.c.state)).where(of_study)
    trials: dict[int, StoredTrial] = {}
    for trial_id, number, state in connection.execute(query.order_by(TRIALS.c.number)):
        trials[trial_id] = StoredTrial(trial_id, number, TrialState.__members__.get(state, TrialState.FAIL))
        if state not in TrialState.__members__:
            trials[trial_id].damaged("its state", ValueError(f"there is no state {state!r}"))
    for read in (_read_params, _read_attributes, _read_curves, _read_values):
        read(connection, of_study, trials)
    return list(trials.values())


def _as_text(column: Column[Any]) -> TypeCoerce[str]:
    """Return a column of names as text: a name that the schema does not have is a fault of its row alone."""
    return type_coerce(column, String)


def _read_params(connection: Connection, of_study: ColumnElement[bool], trials: dict[int, StoredTrial]) -> None:
    choices: dict[str, list[Any]] = {}
    columns = (PARAMS.c.trial_id, PARAMS.c.param_name, PARAMS.c.param_value, PARAMS.c.distribution_json)
    query = select(*columns).join(TRIALS, TRIALS.c.trial_id == PARAMS.c.trial_id).where(of_study)
    for trial_id, name, index, text in connection.execute(query.order_by(PARAMS.c.param_id)):
        trial = trials.get(trial_id)
        if trial is None:  # a driver has begun it meanwhile
            continue
        try:
            if text not in choices:
                choices[text] = json.loads(text)["attributes"]["choices"]
            trial.params[name] = choices[text][int(index)]
        except _FAULTS as error:
            trial.damaged(f"parameter '{name}'", error)


def _read_attributes(connection: Connection, of_study: ColumnElement[bool], trials: dict[int, StoredTrial]) -> None:
    query = select(ATTRIBUTES.c.trial_id, ATTRIBUTES.c.key, ATTRIBUTES.c.value_json)
    query = query.join(TRIALS, TRIALS.c.trial_id == ATTRIBUTES.c.trial_id).where(of_study)
    for trial_id, key, text in connection.execute(query):
        trial = trials.get(trial_id)
        if trial is None:  # a driver has begun it meanwhile
            continue
        try:
            trial.user_attrs[key] = json.loads(text)
        except _FAULTS as error:
            trial.damaged(f"attribute '{key}'", error)


def _read_curves(connection: Connection, of_study: ColumnElement[bool], trials: dict[int, StoredTrial]) -> None:
    kind_of = _as_text(CURVES.c.intermediate_value_type)
    columns = (CURVES.c.trial_id, CURVES.c.step, CURVES.c.intermediate_value)
    query = select(*columns, kind_of).join(TRIALS, TRIALS.c.trial_id == CURVES.c.trial_id).where(of_study)
    for trial_id, step, value, kind in connection.execute(query):
        trial = trials.get(trial_id)
        if trial is None:  # a driver has begun it meanwhile
            continue
        try:
            if not isinstance(step, int):
                raise ValueError(f"the epoch of a value must be a whole number, but is {step!r}")
            trial.intermediate_values[step] = read_value(value, kind)
        except _FAULTS as error:
            trial.damaged("its curve", error)


def _read_values(connection: Connection, of_study: ColumnElement[bool], trials: dict[int, StoredTrial]) -> None:
    columns = (VALUES.c.trial_id, VALUES.c.objective, VALUES.c.value)
    query = (
        select(*columns, _as_text(VALUES.c.value_type))
        .join(TRIALS, TRIALS.c.trial_id == VALUES.c.trial_id)
        .where(of_study)
    )
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for trial_id, objective, value, kind in connection.execute(query):
        trial = trials.get(trial_id)
        if trial is None:  # a driver has begun it meanwhile
            continue
        try:
            found[trial_id][objective] = read_value(value, kind)
        except _FAULTS as error:
            trial.damaged("its value", error)
    for trial_id, values in found.items():
        trials[trial_id].values = [values[objective] for objective in sorted(values)]
