"""The row of a trial: how a `TrialRecord` is written as a trial of an Optuna study, and read back."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from optuna.trial import TrialState

from nas_attn.errors import SpaceError, in_plain_words
from nas_attn.placement import Placement
from nas_attn.records import Stage, State, TrialRecord
from nas_attn.study.storage.reading import StoredTrial

log = logging.getLogger(__name__)

STATES: dict[State, TrialState] = {
    "running": TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "fail": TrialState.FAIL,
}
_NAMES = {state: name for name, state in STATES.items()} | {TrialState.WAITING: "running"}


def attributes_of(record: TrialRecord) -> dict[str, Any]:
    """Return what is stored beside the parameters of a row, its values and its curve; unknown values are left out."""
    optional = {
        "label": record.label,
        "answered_from": record.answered_from,
        "n_parameters": record.n_parameters,
        "n_macs": record.n_macs,
        "values": dict(record.values) or None,
    }
    return {
        "placement": str(record.placement),
        "attentions": record.placement.to_dict(),
        "key": record.key,
        "stage": record.stage,
        "seed": record.seed,
        "epochs": record.epochs,
        **{name: value for name, value in optional.items() if value is not None},
    }


def ending_attributes(record: TrialRecord) -> dict[str, Any]:
    """Return what is stored of a row when its trial ends, beside its values."""
    stored: dict[str, Any] = {"seconds": round(record.seconds, 3)}
    if record.facts:
        stored["facts"] = dict(record.facts)
    if record.values:
        stored["values"] = dict(record.values)
    if record.reason is not None:
        stored |= {"cause": record.cause, "reason": record.reason}
    return stored


def values_of(record: TrialRecord) -> list[float]:
    """Return the values of a row, one per objective; empty without a value, and of a stopped one with several."""
    if record.value is None or (record.values and record.state != "complete"):
        return []
    return [record.value, *record.values.values()]


def records_of(trials: Iterable[StoredTrial], study: str) -> Iterator[TrialRecord]:
    """Yield the trials that can be read as rows; the others are named in the log."""
    for trial in trials:
        try:
            record = None if trial.fault else _sound(record_of(trial))
        except (AttributeError, KeyError, TypeError, ValueError, SpaceError) as error:
            trial.damaged("its content", error)
            record = None
        if record is None:
            log.warning("Trial %d of '%s' is damaged and left out: %s.", trial.number, study, trial.fault)
        else:
            yield record


def _sound(record: TrialRecord) -> TrialRecord:
    """Return a row whose values have the types and ranges that its readers rely on. Raises: TypeError or ValueError."""
    numbers = [record.seconds, *record.curve.values(), *record.facts.values(), *record.values.values()]
    numbers += [record.value] if record.value is not None else []
    counts = [record.seed, record.epochs]
    counts += [count for count in (record.n_parameters, record.n_macs, record.answered_from) if count is not None]
    words = [record.key, *(word for word in (record.label, record.cause, record.reason) if word is not None)]
    if not all(isinstance(word, str) for word in words) or record.stage not in get_args(Stage):
        raise TypeError(f"its key, stage, label, cause and reason must be words, but are {[record.stage, *words]}")
    if not all(type(count) is int for count in counts):
        raise TypeError(f"its seed, epochs and counts must be whole numbers, but are {counts}")
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise ValueError(f"its values must be finite numbers, but are {numbers[:5]}")
    if record.state == "complete" and record.value is None:
        raise ValueError("a finished trial must have a value")
    return record


def record_of(trial: StoredTrial) -> TrialRecord:
    """Return a stored trial as a row."""
    attributes = trial.user_attrs
    stage: Stage = attributes.get("stage", "search")
    state = _NAMES[trial.state]
    curve = dict(sorted(trial.intermediate_values.items()))
    value = trial.value
    if state == "pruned" and value is None and curve:  # as older versions wrote it
        value = curve[max(curve)]
    reason = attributes.get("reason")
    return TrialRecord(
        number=trial.number,
        stage=stage,
        state=state,
        placement=Placement.from_dict(attributes["attentions"]),
        key=attributes["key"],
        seed=attributes.get("seed", 0),
        epochs=attributes.get("epochs", 0),
        value=value if state in ("complete", "pruned") else None,
        curve=curve,
        params=dict(trial.params),
        n_parameters=attributes.get("n_parameters"),
        n_macs=attributes.get("n_macs"),
        label=attributes.get("label"),
        cause=attributes.get("cause"),
        reason=in_plain_words(reason) if isinstance(reason, str) else reason,  # older versions stored any text
        answered_from=attributes.get("answered_from"),
        seconds=attributes.get("seconds", 0.0),
        facts=attributes.get("facts", {}),
        values=attributes.get("values", {}),
    )
