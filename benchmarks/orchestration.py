"""The overhead of the engine: milliseconds per trivial trial, and the load of workers with one-second trials.

    python benchmarks/orchestration.py [--trials 100] [--repeats 3] [--busy-trials 40]

Ours is `nas_attn.search` under Ray Tune with a custom training that returns at once: two workers, the SQLite
ledger, the default sampler, 15 parameters. The peers are Ray Tune with OptunaSearch on a SQLite storage, 15 parameters:

- `stock`: as in its guide, with a function as trial; each trial has its own process.
- `stock, reuse_actors`: the strongest form, a class as trial and `reuse_actors=True`.

A trial's cost is the time between the ends of trials (the last end minus that of the first few, over the trials
between), so it includes neither start-up nor shut-down. Goals: at most 60 ms per trivial trial; workers busy at least
95 % of the time with one-second trials. Ours also builds the (tiny) network of each trial in the worker; the peers
build none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from run_log import events

from nas_attn import search
from nas_attn.space.search_space import SearchSpace

WORKERS = 2
WARM = 4
"""Number of trials that may include start-up: the clock starts when this many have ended."""

SPACE = {
    "title": "Five sites of three parameters",
    "backbone": {
        "name": "densenet", "growth_rate": 4, "block_config": [1, 1, 1], "num_init_features": 8, "stem": "small"
    },
    "sites": [{"match": ["denseblock*", "transition*"], "attentions": ["se", "cbam"]}],
    "attentions": {"se": {"reduction": [2, 4]}, "cbam": {"reduction": 4, "kernel_size": [3, 5, 7]}},
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """The measurements of one run."""

    ms_per_trial: float
    busy: float


def train(model: Any, run: Any, *, seconds: float) -> float:
    """Wait, report one epoch, and return a constant value."""
    time.sleep(seconds)
    run.report(1, 0.5)
    return 0.5


def ours(n_trials: int, seconds: float) -> Cost:
    """Measure our engine over its search stage."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        record = search(
            SearchSpace.from_dict(SPACE, where="orchestration.py"),
            train=partial(train, seconds=seconds),
            out=out,
            num_classes=10,
            in_channels=1,
            image_size=8,
            trials=n_trials,
            epochs=1,
            seeds=1,
            top=1,
            workers=WORKERS,
            cpus_per_trial=1,
        )
        seconds_of = {row.number: row.seconds for row in record.search}
        found = [event for event in events(out / "log.txt") if (event.kind, event.stage) == ("end", "search")]
    return _cost([(event.moment, seconds_of[event.number]) for event in found])


def stock(n_trials: int, seconds: float, *options: str) -> Cost:
    """Measure the peer, in its own process."""
    script = Path(__file__).with_name("stock.py")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(script), folder, "--trials", str(n_trials), "--seconds", str(seconds), *options]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return _cost([(moment, seconds) for moment in json.loads(done.stdout.splitlines()[-1])["ends"]])


def _cost(trials: list[tuple[float, float]]) -> Cost:
    """Return the cost of trials (moment of the end, seconds), from the end of the warm-up to the last end."""
    moments = [moment for moment, _ in trials]
    start, window = moments[WARM - 1], moments[-1] - moments[WARM - 1]
    busy = sum(max(0.0, moment - max(start, moment - seconds)) for moment, seconds in trials)
    return Cost(1000 * window / (len(trials) - WARM), busy / (WORKERS * window))


def main() -> None:
    """Measure all alternately; print medians with their range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100, help="trivial trials in each of our runs")
    parser.add_argument("--stock-trials", type=int, default=30, help="trivial trials in each of the peers' runs")
    parser.add_argument("--busy-trials", type=int, default=40, help="one-second trials in each run")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    contenders = {
        "nas_attn": (ours, options.trials),
        "stock": (stock, options.stock_trials),
        "stock, reuse_actors": (lambda n, seconds: stock(n, seconds, "--reuse"), options.trials),
    }
    trivial: dict[str, list[float]] = {name: [] for name in contenders}
    busy: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.repeats):
        for name, (run, n_trials) in contenders.items():
            if n_trials > WARM:
                trivial[name].append(run(n_trials, 0.0).ms_per_trial)
            if options.busy_trials > WARM:
                busy[name].append(run(options.busy_trials, 1.0).busy)
    print(f"{WORKERS} workers, median (range) of {options.repeats} rounds")
    for name, found in trivial.items():
        if found:
            ratio = median(found) / median(trivial["nas_attn"] or found)
            shown = f"{median(found):7.1f} ms a trivial trial ({min(found):.1f} to {max(found):.1f})"
            print(f"  {name:<20} {shown}, {ratio:.1f} x ours   goal: at most 60")
    for name, found in busy.items():
        if found:
            shown = f"{median(found):6.1%} busy with one-second trials ({min(found):.1%} to {max(found):.1%})"
            print(f"  {name:<20} {shown}   goal: at least 95 %")


if __name__ == "__main__":
    main()
