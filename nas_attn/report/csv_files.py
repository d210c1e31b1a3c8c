"""`trials.csv` and `arms.csv`: the numbers of the report in long form. Values are as measured, not in per cent."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from io import StringIO

from nas_attn.records import Attempt, RunRecord, TrialRecord
from nas_attn.report.tables import BARE, FOUND, Arm, against, arm_called, arms_of, trials_of
from nas_attn.statistics import Comparison, Summary

TRIAL_COLUMNS = (
    "stage",
    "number",
    "label",
    "state",
    "split",
    "value",
    "seed",
    "epochs",
    "n_sites",
    "n_parameters",
    "n_macs",
    "seconds",
    "answered_from",
    "cause",
    "reason",
    "key",
    "placement",
    "params",
    "curve",
    "facts",
)
SUMMARY_COLUMNS = ("n", "mean", "sd", "low", "high")
DIFFERENCE_COLUMNS = ("n", "difference", "sd", "low", "high", "verdict")
MEASURED_COLUMNS = (
    "latency_ms",
    "latency_spread_ms",
    "latency_ratio",
    "image_ms",
    "image_spread_ms",
    "forward_bytes",
    "training_bytes",
)
BENCH_COLUMNS = ("device", "threads", "precision", "batch_size", "torch")
ARM_COLUMNS = (
    "arm",
    "split",
    "epochs",
    *SUMMARY_COLUMNS,
    *(f"against_none_{name}" for name in DIFFERENCE_COLUMNS),
    *(f"found_against_this_{name}" for name in DIFFERENCE_COLUMNS),
    "n_sites",
    "n_parameters",
    "n_macs",
    *MEASURED_COLUMNS,
    *BENCH_COLUMNS,
    "not_measured",
    "over_limit",
    "n_failed",
    "key",
    "placement",
)


def trials_csv(run: RunRecord) -> str:
    """Return all trials of all stages, one per row."""
    return _csv(TRIAL_COLUMNS, (_trial_row(trial) for trial in trials_of(run)))


def _trial_row(trial: TrialRecord) -> list[object]:
    return [
        trial.stage,
        trial.number,
        trial.label,
        trial.state,
        "test" if trial.stage == "retrain" else "val",
        trial.value,
        trial.seed,
        trial.epochs,
        len(trial.placement),
        trial.n_parameters,
        trial.n_macs,
        trial.seconds,
        trial.answered_from,
        trial.cause,
        trial.reason,
        trial.key,
        trial.placement.canonical,
        json.dumps(dict(trial.params), sort_keys=True),
        json.dumps(dict(trial.curve)),
        json.dumps(dict(trial.facts), sort_keys=True),
    ]


def arms_csv(run: RunRecord) -> str:
    """Return the arms, one per row; the values by seed are the `retrain` rows of `trials.csv`."""
    arms = arms_of(run)
    none, found = arm_called(arms, BARE), arm_called(arms, FOUND)
    return _csv(ARM_COLUMNS, (_arm_row(arm, none, found) for arm in arms))


def _arm_row(arm: Arm, none: Arm | None, found: Arm | None) -> list[object]:
    return [
        arm.label,
        "test",
        arm.epochs,
        *_summary_cells(arm.summary),
        *_difference_cells(against(arm, none) if none and none.label != arm.label else None),
        *_difference_cells(against(found, arm) if found and found.label != arm.label else None),
        len(arm.placement),
        arm.n_parameters,
        arm.n_macs,
        *_measured_cells(arm.attempt),
        arm.over,
        len(arm.failures),
        arm.placement.key,
        arm.placement.canonical,
    ]


def _summary_cells(summary: Summary | None) -> list[object]:
    if summary is None:
        return [0, None, None, None, None]
    return [summary.n, summary.mean, summary.sd, summary.low, summary.high]


def _measured_cells(attempt: Attempt | None) -> list[object]:
    if attempt is None:
        return [None] * (len(MEASURED_COLUMNS) + len(BENCH_COLUMNS) + 1)
    figures = [getattr(attempt.measured, name, None) for name in MEASURED_COLUMNS]
    bench = attempt.bench
    return [*figures, bench.device, bench.threads, bench.precision, bench.shape[0], bench.torch, attempt.reason]


def _difference_cells(comparison: Comparison | None) -> list[object]:
    if comparison is None:
        return [None] * len(DIFFERENCE_COLUMNS)
    return [*_summary_cells(comparison.summary), comparison.word]


def _csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
