"""The settings whose value is the name of a record, with the tables of these records."""

from __future__ import annotations

from collections.abc import Mapping

from nas_attn.executors.catalog import EXECUTORS, ExecutorEntry
from nas_attn.study.samplers.catalog import SAMPLERS, SCHEDULERS, Sampler, Scheduler

RECORDS: Mapping[str, Mapping[str, Sampler] | Mapping[str, Scheduler] | Mapping[str, ExecutorEntry]] = {
    "sampler": SAMPLERS,
    "scheduler": SCHEDULERS,
    "executor": EXECUTORS,
}

OPEN = ("sampler",)
"""Settings whose value may also name code: it then has a colon."""
