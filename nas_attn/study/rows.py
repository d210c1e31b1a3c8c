"""The row of a trial: how a `TrialRecord` is written as a trial of an Optuna study, and read back."""

from __future__ import annotations

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from nas_attn.placement import Placement
from nas_attn.records import Stage, State, TrialRecord

STATES: dict[State, TrialState] = {
    "running": TrialState.RUNNING,
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "fail": TrialState.FAIL,
}
_NAMES = {state: name for name, state in STATES.items()} | {TrialState.WAITING: "running"}


def template(record: TrialRecord, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    """Return a row as an Optuna trial; unknown values are left out."""
    optional = {
        "label": record.label,
        "answered_from": record.answered_from,
        "n_parameters": record.n_parameters,
        "n_macs": record.n_macs,
    }
    attributes = {
        "placement": str(record.placement),
        "attentions": record.placement.to_dict(),
        "key": record.key,
        "stage": record.stage,
        "seed": record.seed,
        "epochs": record.epochs,
        **{name: value for name, value in optional.items() if value is not None},
    }
    return optuna.trial.create_trial(
        state=STATES[record.state],
        value=record.value,
        params=dict(record.params),
        distributions=distributions,
        user_attrs=attributes,
        intermediate_values=dict(record.curve),
    )


def record_of(trial: FrozenTrial) -> TrialRecord:
    """Return an Optuna trial as a row."""
    attributes = trial.user_attrs
    stage: Stage = attributes.get("stage", "search")
    state = _NAMES[trial.state]
    curve = dict(sorted(trial.intermediate_values.items()))
    value = trial.value
    if state == "pruned" and value is None and curve:  # as older versions wrote it
        value = curve[max(curve)]
    return TrialRecord(
        number=trial.number,
        stage=stage,
        state=state,
        placement=Placement.from_dict(attributes.get("attentions", {})),
        key=attributes.get("key", ""),
        seed=attributes.get("seed", 0),
        epochs=attributes.get("epochs", 0),
        value=value if state in ("complete", "pruned") else None,
        curve=curve,
        params=dict(trial.params),
        n_parameters=attributes.get("n_parameters"),
        n_macs=attributes.get("n_macs"),
        label=attributes.get("label"),
        cause=attributes.get("cause"),
        reason=attributes.get("reason"),
        answered_from=attributes.get("answered_from"),
        seconds=attributes.get("seconds", 0.0),
        facts=attributes.get("facts", {}),
    )
