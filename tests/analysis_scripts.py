"""Shared by the tests of the analysis scripts: they run on runs that lie in memory."""

from __future__ import annotations

import csv
import importlib
import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from nas_attn.errors import RunError
from nas_attn.records import RunRecord

SCRIPTS = ("rung_correlation", "search_vs_random", "compare_runs", "noise_floor")
SHARED = ("script", "pooling")
FOLDER = Path(__file__).resolve().parent.parent / "analysis"
Runs = dict[str, RunRecord]


def load(name: str) -> ModuleType:
    """Import a module of the folder as a script does that is started there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        return importlib.import_module(name)


def start(name: str, runs: Runs, *arguments: object) -> tuple[int, str, str]:
    """Run a script; return its exit code, its output and its errors."""

    def load_run(path: Path) -> RunRecord:
        if str(path) not in runs:
            raise RunError(f"{path} must be a run folder with a config.json, but there is none.")
        return runs[str(path)]

    module, out, err = load(name), io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(load("script"), "load_run", load_run)
        code = module.main([str(word) for word in arguments])
    return code, out.getvalue(), err.getvalue()


def named(name: str, run: RunRecord) -> RunRecord:
    """Return the same run in a folder of this name."""
    return replace(run, folder=Path(name))


def at_seed(name: str, run: RunRecord, seed: int, sampler: str = "tpe") -> RunRecord:
    """Return the same run as another search seed would number its retrainings, and with a sampler."""
    engine = {**run.config["engine"], "sampler": sampler, "seed": seed}
    retrain = tuple(replace(row, seed=row.seed + seed) for row in run.retrain)
    return replace(run, folder=Path(name), config={**run.config, "engine": engine}, retrain=retrain)


def rows_in(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
