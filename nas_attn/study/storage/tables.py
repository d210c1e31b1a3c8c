"""The tables of Optuna's database schema that the ledger reads and writes, and the form of their values."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from sqlalchemy import Column, DateTime, Enum, Float, Integer, MetaData, String, Table, Text

SCHEMA: Final = 12
"""Version of the schema, as its table `version_info` states it."""

_metadata = MetaData()
_KEY = String(512)

VERSION = Table("version_info", _metadata, Column("version_info_id", Integer), Column("schema_version", Integer))
STUDIES = Table("studies", _metadata, Column("study_id", Integer, primary_key=True), Column("study_name", _KEY))
NOTES = Table(
    "study_user_attributes",
    _metadata,
    Column("study_user_attribute_id", Integer, primary_key=True),
    Column("study_id", Integer),
    Column("key", _KEY),
    Column("value_json", Text),
)
TRIALS = Table(
    "trials",
    _metadata,
    Column("trial_id", Integer, primary_key=True),
    Column("number", Integer),
    Column("study_id", Integer),
    Column("state", Enum("RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING", name="trialstate")),
    Column("datetime_start", DateTime),
    Column("datetime_complete", DateTime),
)
PARAMS = Table(
    "trial_params",
    _metadata,
    Column("param_id", Integer, primary_key=True),
    Column("trial_id", Integer),
    Column("param_name", _KEY),
    Column("param_value", Float(53)),
    Column("distribution_json", Text),
)
ATTRIBUTES = Table(
    "trial_user_attributes",
    _metadata,
    Column("trial_user_attribute_id", Integer, primary_key=True),
    Column("trial_id", Integer),
    Column("key", _KEY),
    Column("value_json", Text),
)
VALUES = Table(
    "trial_values",
    _metadata,
    Column("trial_value_id", Integer, primary_key=True),
    Column("trial_id", Integer),
    Column("objective", Integer),
    Column("value", Float(53)),
    Column("value_type", Enum("FINITE", "INF_POS", "INF_NEG", name="trialvaluetype")),
)
CURVES = Table(
    "trial_intermediate_values",
    _metadata,
    Column("trial_intermediate_value_id", Integer, primary_key=True),
    Column("trial_id", Integer),
    Column("step", Integer),
    Column("intermediate_value", Float(53)),
    Column("intermediate_value_type", Enum("FINITE", "INF_POS", "INF_NEG", "NAN", name="trialintermediatevaluetype")),
)

_NOT_FINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}


def stored_value(value: float) -> tuple[float | None, str]:
    """Return a number as the schema stores it: a finite one itself, any other by its kind.

    >>> stored_value(0.5), stored_value(-math.inf)
    ((0.5, 'FINITE'), (None, 'INF_NEG'))
    """
    if math.isfinite(value):
        return float(value), "FINITE"
    return None, "NAN" if math.isnan(value) else "INF_POS" if value > 0 else "INF_NEG"


def read_value(value: float | None, kind: str) -> float:
    """Return a stored number.

    Raises: ValueError if it is none.
    """
    if kind in _NOT_FINITE:
        return _NOT_FINITE[kind]
    if kind != "FINITE":
        raise ValueError(f"a value has no kind {kind!r}")
    if not isinstance(value, int | float):
        raise ValueError(f"a value must be a number, but is {value!r}")
    return float(value)


def categories_json(choices: tuple[Any, ...]) -> str:
    """Return the distribution of a categorical parameter as the schema stores it."""
    return json.dumps({"name": "CategoricalDistribution", "attributes": {"choices": choices}})
