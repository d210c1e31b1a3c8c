"""Shared by the tests of whole runs: a tiny space, its command line, and the checks of a run folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from nas_attn.records import RANDOM, RunRecord, TrialRecord
from nas_attn.run.folder import load_run

ROOT = Path(__file__).resolve().parent.parent

TINY = """
title = "A tiny DenseNet for tests"

[backbone]
name = "densenet"
growth_rate = 4
block_config = [1, 1]
num_init_features = 8
stem = "small"

[[sites]]
match = ["denseblock*"]
attentions = ["se", "cbam"]

[attentions.se]
reduction = [2, 4]

[attentions.cbam]
reduction = 4
kernel_size = [3, 7]
"""

SETTINGS = {"trials": 5, "epochs": 2, "batch_size": 64, "seeds": 2, "top": 1, "controls": 1, "cpus_per_trial": 1}

EMPTY_FIGURES = """
import sys
from markupsafe import Markup
from nas_attn.__main__ import main
from nas_attn.report.chart import Chart

Chart.write = lambda chart, folder: []
Chart.inline = lambda chart: [Markup()] * max(1, len(chart.views))
sys.argv[0] = "nas-attn"
sys.exit(main())
"""


def tiny_space(folder: Path) -> Path:
    """Write the tiny space: two sites of 12 and 10 channels, 25 placements."""
    path = folder / "tiny.toml"
    path.write_text(TINY)
    return path


def command(space: Path, out: Path, **settings: object) -> list[str]:
    """Return the command line of a run with few, short trials."""
    words = [sys.executable, "-m", "nas_attn", "search", "--space", str(space), "--out", str(out)]
    for name, value in {**SETTINGS, "executor": "local", **settings}.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start a command in its own process group; its report has empty figures, as in the process of the tests."""
    return subprocess.Popen(
        [sys.executable, "-c", EMPTY_FIGURES, *words[words.index("nas_attn") + 1 :]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 400) -> tuple[int, str]:
    """Wait for a command; return its exit code and its output."""
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def wait_for(
    log: Path, words: str, process: subprocess.Popen[str], timeout: float = 240, *, every: float = 0.005
) -> None:
    """Wait until a run's log contains `words`, or, without words, until a file exists.

    Raises: AssertionError if the process ends before that, or after a time that the busiest machine does not need.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if log.exists() and (not words or words in log.read_text()):
            return
        assert process.poll() is None, f"the run ended before it said {words!r}: {process.communicate()[0]}"
        time.sleep(every)
    kill(process)
    raise AssertionError(f"the run never said {words!r}")


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a driver without any clean-up, as a loss of power would."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=20)
    assert process.stdout is not None
    process.stdout.close()


def trained(rows: tuple[TrialRecord, ...]) -> list[tuple[str, str, int]]:
    """Return (stage, key, seed) of the rows that ended with a value of their own."""
    return [(row.stage, row.key, row.seed) for row in rows if row.state == "complete" and row.answered_from is None]


def check_finished(out: Path, **settings: int) -> RunRecord:
    """Check the invariants of a finished run, however often it was interrupted; return it."""
    wanted = {**SETTINGS, **settings}
    run = load_run(out)
    rows = (*run.search, *run.confirm, *run.retrain)
    assert "running" not in {row.state for row in rows}
    assert len({key for _, key, _ in trained(run.search)}) == wanted["trials"]
    repeated = {name: n for name, n in Counter(trained((*run.confirm, *run.retrain))).items() if n > 1}
    assert not repeated, "nothing that was finished is run again"
    seeds = [20_000 + index for index in range(wanted["seeds"])]
    complete = [row for row in run.retrain if row.state == "complete"]
    arms = {row.key for row in complete if row.label != RANDOM}
    assert {(row.key, row.seed) for row in complete if row.label != RANDOM} == {
        (k, seed) for k in arms for seed in seeds
    }
    controls = sorted(row.seed for row in complete if row.label == RANDOM)
    assert controls in (seeds, []), "one random control a seed, unless the space has none of this size"
    assert run.best is not None
    names = {
        "best.json",
        "best.safetensors",
        "best-so-far.json",
        "config.json",
        "report.html",
        "report.md",
        "MODEL.md",
        "arms.tex",
        "trials.csv",
        "arms.csv",
        "arms",
        "predictions",
    }
    assert names <= {path.name for path in out.iterdir()}
    assert not list(out.glob("*.part"))
    return run
