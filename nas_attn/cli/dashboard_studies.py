"""The studies that the dashboard shows: a copy in memory of a run's ledger, one study per stage, in words.

The ledger keeps confirm and retrain runs in one study, as Optuna's rows need no more. Shown as they are, validation and
test values would share one history, and one of them would be called the best trial; and each trial would list the
options of attentions that it does not have.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from nas_attn.cli.dashboard_notes import (
    TITLES,
    metric_name,
    site_importance,
    study_facts,
    study_note,
    trial_note,
    variance_shares,
)
from nas_attn.comparison.objectives import further, objectives_in
from nas_attn.errors import RunError, first_line
from nas_attn.records import RunRecord, Stage, TrialRecord
from nas_attn.report.importance import searched_sites
from nas_attn.report.words import placement_words
from nas_attn.run.folder import RunFolder, record_of_run
from nas_attn.run.place import place_of_run
from nas_attn.study.ledger import CONTROL, DIRECTIONS, FINAL, SCREEN, SEARCH
from nas_attn.study.store import read_store

LEDGERS: Mapping[Stage, str] = {"screen": SCREEN, "search": SEARCH, "control": CONTROL}
"""Study of the ledger that holds the trials of a stage; `FINAL` holds those of the others."""

DECIMALS = 5
"""Of the values that are shown."""

SHOWN = ("label", "seed", "epochs", "n_parameters", "n_macs", "seconds", "cause", "reason", "answered_from")
"""Attributes of a row of the ledger that are shown beside its placement."""

Row = tuple[FrozenTrial, TrialRecord]


@dataclass(frozen=True)
class Studies:
    """A copy of a run.

    Args:
        storage: One study per stage that has begun, with the ids 0 (the search), 1, 2 and 3.
        importances: What the values depend on, by the id of the study: a name and its share.
    """

    storage: InMemoryStorage
    importances: Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class _Noted:
    """What `optuna_dashboard.save_note` reads of a trial."""

    storage: InMemoryStorage
    study: optuna.Study
    _trial_id: int


def no_studies() -> Studies:
    """Return the copy of a run that has no row yet."""
    return Studies(InMemoryStorage(), {})


def copy_run(folder: Path) -> Studies:
    """Return a copy of the ledger of a run as it is now; a running driver is not disturbed.

    Raises: RunError if the folder is not a run.
    """
    files = RunFolder(folder)
    store = read_store(place_of_run(folder, files.read_config()))
    try:  # the trials first: the rows of the run are then as new or newer
        trials = {name: store.trials(name) for name in (SEARCH, CONTROL, SCREEN, FINAL)}
        return make_studies(record_of_run(files, store), trials)
    except SQLAlchemyError as error:
        raise RunError(f"The ledger {store.place.in_words} must answer, but: {first_line(error)}.") from error
    finally:
        store.close()


def shared_state(folder: Path) -> object:
    """Return what changes in a shared database when a trial is written to it; None without one.

    Raises: RunError if it does not answer.
    """
    files = RunFolder(folder)
    place = place_of_run(folder, files.begun() or {})
    if place.address is None:
        return None
    store = read_store(place)
    try:
        return store.state()
    except SQLAlchemyError as error:
        raise RunError(f"The ledger {place.in_words} must answer, but: {first_line(error)}.") from error
    finally:
        store.close()


def make_studies(run: RunRecord, trials: Mapping[str, Sequence[FrozenTrial]]) -> Studies:
    """Return one study per stage.

    Args:
        trials: Those of the ledger by study; they have the times that the rows of `run` leave out.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage, importances = InMemoryStorage(), {}
    known = {name: {trial.number: trial for trial in found} for name, found in trials.items()}
    for stage in TITLES:
        records: tuple[TrialRecord, ...] = getattr(run, stage)
        source = known.get(LEDGERS.get(stage, FINAL), {})
        rows = [(source[row.number], row) for row in records if row.number in source]
        if rows:
            study_id = _add_study(storage, run, stage, rows)
            importances[study_id] = _importance(run, stage, records)
    return Studies(storage, importances)


def _add_study(storage: InMemoryStorage, run: RunRecord, stage: Stage, rows: Sequence[Row]) -> int:
    """Add the study of a stage; return its id."""
    goals = objectives_in(run.config)
    directions = [DIRECTIONS[goal.direction] for goal in goals] or [DIRECTIONS["max"]]
    study_id = storage.create_new_study(directions, TITLES[stage])
    study = optuna.load_study(study_name=TITLES[stage], storage=storage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([metric_name(run, stage), *(goal.axis for goal in further(goals))])
    for name, text in study_facts(run, stage).items():
        study.set_user_attr(name, text)
    _note(study, study_note(run, stage))
    levels = {} if stage in LEDGERS else _levels([row for _, row in rows])
    searched = searched_sites(run)
    for trial, row in rows:
        trial_id = storage.create_new_trial(study_id, template_trial=_shown(run, trial, row, levels))
        _note(_Noted(storage, study, trial_id), trial_note(run, row, searched))
    return study_id


def _note(owner: Any, text: str) -> None:
    from optuna_dashboard import save_note

    save_note(owner, text)


def _levels(rows: Sequence[TrialRecord]) -> dict[str, tuple[str, ...]]:
    """Return the factors of confirm or retrain runs with their levels: the network, and the seed."""
    found = [_factors(row) for row in rows]
    return {factor: tuple(dict.fromkeys(levels[factor] for levels in found)) for factor in found[0]}


def _factors(row: TrialRecord) -> dict[str, str]:
    """Return what tells the runs of a stage apart, by name."""
    name = "arm" if row.stage == "retrain" else "placement"
    return {name: row.label or placement_words(row.placement, None), "seed": str(row.seed)}


def _shown(run: RunRecord, trial: FrozenTrial, row: TrialRecord, levels: Mapping[str, tuple[str, ...]]) -> FrozenTrial:
    """Return a row as the dashboard shows it: with the parameters that had an effect, and its placement in words."""
    shown = copy.copy(trial)
    params = _factors(row) if levels else {name: trial.params[name] for name in active(trial.params)}
    shown.distributions = {
        name: CategoricalDistribution(levels[name]) if levels else trial.distributions[name] for name in params
    }
    shown.params = params
    told = () if row.stage in LEDGERS else ("label", "seed")  # by the parameters
    known = {name: trial.user_attrs[name] for name in SHOWN if name in trial.user_attrs and name not in told}
    shown.user_attrs = {"placement": placement_words(row.placement, run.table), **known}
    shown.intermediate_values = {step: round(value, DECIMALS) for step, value in trial.intermediate_values.items()}
    shown.values = None if trial.values is None else [round(value, DECIMALS) for value in trial.values]
    return shown


def active(params: Mapping[str, Any]) -> list[str]:
    """Return the names of the parameters that had an effect, in their order.

    >>> active({"s.attention": "se", "s.position": "pre", "s.se.reduction": 4, "s.cbam.reduction": 8})
    ['s.attention', 's.position', 's.se.reduction']
    """
    return [name for name in params if _has_effect(name, params)]


def _has_effect(name: str, params: Mapping[str, Any]) -> bool:
    head, last = name.rsplit(".", 1) if "." in name else ("", name)
    if last == "attention":
        return True
    if last in ("position", "wiring"):
        return bool(params.get(f"{head}.attention") != "none")
    decision, _, attention = head.rpartition(".")
    return bool(params.get(f"{decision}.attention", attention) == attention)


def _importance(run: RunRecord, stage: Stage, rows: tuple[TrialRecord, ...]) -> dict[str, float]:
    """Return what the values of a stage depend on; a screen has one value."""
    if stage == "screen":
        return {}
    if stage in LEDGERS:
        return {f"{site}.attention": share for site, share in site_importance(replace(run, search=rows)).items()}
    done = [row for row in rows if row.state == "complete" and row.value is not None]
    return variance_shares([_factors(row) for row in done], [row.value or 0.0 for row in done])
