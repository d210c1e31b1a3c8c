"""`trials.csv`, `arms.csv`, `screen.csv`: the numbers of the report in long form, as measured, not in per cent."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from io import StringIO

from nas_attn.comparison.answer import Answer
from nas_attn.comparison.contrasts import Contrast
from nas_attn.comparison.objectives import further, objectives_in
from nas_attn.comparison.ranking import Ranking
from nas_attn.records import BARE, FOUND, RANDOM, RunRecord, TrialRecord
from nas_attn.report.front import front_values
from nas_attn.report.tables import Arm, answer_of, arm_called, arms_of, latency_of, trials_of
from nas_attn.statistics import Summary

_FORMULA = re.compile(r"\s*[=@]|\s*[+-](?![\d.,eE+-]*$)")
"""The beginning of what a spreadsheet computes, where it is no number."""

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
SUMMARY_COLUMNS = ("n", "mean", "sd", "low", "high", "interval_covers")
DIFFERENCE_COLUMNS = ("n", "difference", "sd", "low", "high", "interval_covers", "confidence", "p_value", "verdict")
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
    names = [goal.name for goal in further(objectives_in(run.config))]
    rows = ([*_trial_row(trial), *map(trial.values.get, names)] for trial in (*run.screen, *trials_of(run)))
    return _csv([*TRIAL_COLUMNS, *names], rows)


def screen_csv(ranking: Ranking) -> str:
    """Return the placements that a network with shared weights ranked, the best first."""
    rows = enumerate(ranking.in_order(), 1)
    return _csv(
        ("rank", "value", "key", "placement"),
        ([rank, value, placement.key, placement.canonical] for rank, (placement, value) in rows),
    )


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
    arms, answer = arms_of(run), answer_of(run)
    goals = objectives_in(run.config)
    values = [front_values(run, arm.placement, goals) if arm.label != RANDOM else {} for arm in arms]
    names = [goal.name for goal in further(goals)]
    rows = ([*_arm_row(arm, arms, answer), *map(found.get, names)] for arm, found in zip(arms, values, strict=True))
    return _csv([*ARM_COLUMNS, *names], rows)


def _arm_row(arm: Arm, arms: Sequence[Arm], answer: Answer) -> list[object]:
    is_one = arm.label != RANDOM
    return [
        arm.label,
        "test",
        arm.epochs,
        *_summary_cells(arm.summary),
        *_difference_cells(answer.between(arm.label, BARE)),
        *_difference_cells(answer.between(FOUND, arm.label)),
        len(arm.placement),
        arm.n_parameters,
        arm.n_macs,
        *_measured_cells(arm, latency_of(arm, arm_called(arms, BARE))),
        arm.over,
        len(arm.failures),
        arm.placement.key if is_one else None,
        arm.placement.canonical if is_one else None,
    ]


def _summary_cells(summary: Summary | None) -> list[object]:
    if summary is None:
        return [0, *[None] * (len(SUMMARY_COLUMNS) - 1)]
    return [summary.n, summary.mean, summary.sd, summary.low, summary.high, summary.covers or None]


def _measured_cells(arm: Arm, latency_ms: float | None) -> list[object]:
    attempt = arm.attempt
    if attempt is None:
        return [None] * (len(MEASURED_COLUMNS) + len(BENCH_COLUMNS) + 1)
    figures = [latency_ms, *(getattr(attempt.measured, name, None) for name in MEASURED_COLUMNS[1:])]
    bench = attempt.bench
    return [*figures, bench.device, bench.threads, bench.precision, bench.shape[0], bench.torch, attempt.reason]


def _difference_cells(pair: Contrast | None) -> list[object]:
    if pair is None:
        return [None] * len(DIFFERENCE_COLUMNS)
    return [*_summary_cells(pair.summary), pair.confidence, pair.p_value, pair.word]


def _csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(cell, columns))
    writer.writerows(map(cell, row) for row in rows)
    return text.getvalue()


def cell(value: object) -> object:
    """Return a value for a table of text; a text that a spreadsheet would compute gets an apostrophe before it.

    >>> cell("=1+1"), cell("-0.5"), cell(-0.5), cell("@name")
    ("'=1+1", '-0.5', -0.5, "'@name")
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
