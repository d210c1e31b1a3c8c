"""The scale of a run: CPU time and memory of the driver, opening and reporting, over a ledger of many trials.

    python benchmarks/ledger.py [--trials 100 2000 10000] [--report 2000] [--timed 60]

A short search with a trivial training (digits' space, 15 parameters, executor `local`) makes the run folder; further
finished trials of random placements are then written to its ledger by SQL, in Optuna's schema. Each figure comes from
a process of its own, as CPU time where not stated otherwise, so that other work on the machine hardly matters:

- `open`: from the checked request to stages that can hand out a trial.
- `trial`: ask, one report, the end and the display, median of `--timed` trials; `row`: the mean per row of the ledger,
  since proposals that are answered from the ledger are rows as well; `rows`: rows per trial.
- `first`: from the start of the process to the begin of the first training of a resumed run (wall clock and CPU).
- `report`: reading the run and writing its report; size of `report.html`.

Goals: `trial` at 10,000 trials at most 1.2 times that at 100; `open` 5 s, `first` 15 s and 1.0 GB at 10,000 trials;
the report of 2,000 trials 8 s and 1.5 MB.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from nas_attn import search
from nas_attn.records import Outcome
from nas_attn.run.folder import RunFolder, load_run
from nas_attn.run.request import Request, bind, read_settings
from nas_attn.space.search_space import SearchSpace

SPACE = {
    "title": "Five sites of three parameters",
    "backbone": {
        "name": "densenet", "growth_rate": 4, "block_config": [1, 1, 1], "num_init_features": 8, "stem": "small"
    },
    "sites": [{"match": ["denseblock*", "transition*"], "attentions": ["se", "cbam", "eca"]}],
    "attentions": {"se": {"reduction": [2, 4]}, "cbam": {"reduction": [2, 4], "kernel_size": [3, 5, 7]}, "eca": {}},
}  # fmt: skip
BEGUN = 12
"""Number of trials that the short search runs."""


def train(model: Any, run: Any) -> float:
    """Report one epoch, and return a value at once."""
    run.report(1, 0.5)
    return 0.5


def stated(folder: Path, n_trials: int) -> dict[str, Any]:
    """Return the settings of the run."""
    shape = {"num_classes": 10, "in_channels": 1, "image_size": 8}
    few = {"epochs": 1, "seeds": 3, "top": 2, "executor": "local"}
    space = SearchSpace.from_dict(SPACE, where="ledger.py")
    return {"space": space, "train": "ledger:train", "out": folder, "trials": n_trials, **shape, **few}


def make(folder: Path, n_trials: int) -> None:
    """Run a short search, and add finished trials to its ledger up to `n_trials`."""
    record = search(**stated(folder, BEGUN))
    request = bind(read_settings(stated(folder, BEGUN)))
    connection = sqlite3.connect(folder / "study.db")
    (study,) = connection.execute("SELECT study_id FROM studies WHERE study_name = 'search'").fetchone()
    (last,) = connection.execute("SELECT max(trial_id) FROM trials").fetchone()
    known, draw = {row.key for row in record.search}, random.Random(0)
    for number in range(len(record.search), n_trials):
        last += 1
        placement = None
        while placement is None or placement.key in known:
            params = {name: draw.choice(values) for name, values in request.bound.choices.items()}
            placement = request.bound.placement(params)
        known.add(placement.key)
        _insert(connection, request, study, last, number, params, 0.5 + draw.random() / 10)
    connection.commit()
    connection.close()


def _insert(
    connection: sqlite3.Connection, request: Request, study: int, trial: int, number: int, params: Any, value: float
) -> None:
    """Write one finished trial in Optuna's schema."""
    placement = request.bound.placement(params)
    cost = request.bound.cost(placement)
    attributes = {
        "placement": str(placement), "attentions": placement.to_dict(), "key": placement.key, "stage": "search",
        "seed": 0, "epochs": 1, "n_parameters": cost.n_parameters, "n_macs": cost.n_macs, "seconds": 0.1,
        "facts": {"images_per_second": 1000.0 + number},
    }  # fmt: skip
    moments = ("2026-11-29 00:00:00.000000", "2026-11-29 00:00:01.000000")
    connection.execute("INSERT INTO trials VALUES (?, ?, ?, 'COMPLETE', ?, ?)", (trial, number, study, *moments))
    for name, chosen in params.items():
        values = list(request.bound.choices[name])
        text = json.dumps({"name": "CategoricalDistribution", "attributes": {"choices": values}})
        row = (trial, name, values.index(chosen), text)
        connection.execute(
            "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?, ?, ?, ?)", row
        )
    rows = [(trial, key, json.dumps(content)) for key, content in attributes.items()]
    connection.executemany("INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)", rows)
    connection.execute(
        "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, 0, ?, 'FINITE')", (trial, value)
    )
    connection.execute(
        "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) "
        "VALUES (?, 1, ?, 'FINITE')", (trial, value),
    )  # fmt: skip


def measure_trials(folder: Path, n_trials: int, n_timed: int) -> dict[str, float]:
    """Return the CPU seconds of opening and of a trial, and the memory of this process in GB."""
    from rich.console import Console

    from nas_attn.run.opened import OpenLedger
    from nas_attn.run.progress import LiveDisplay

    request = bind(read_settings(stated(folder, n_trials + n_timed + 1000)))
    display = LiveDisplay(Console(file=io.StringIO(), force_terminal=True, width=100))
    clock, trials = time.process_time, []
    with OpenLedger(request, RunFolder(folder), display) as ledger:
        begun = clock()
        stages = ledger.stages
        opened = clock() - begun
        n_before = len(stages.search.records())
        for _ in range(n_timed):
            begun = clock()
            task = stages.ask()
            assert task is not None, "the budget has trials left"
            stages.report(task, 1, 0.5)
            stages.finish(task, Outcome("complete", 0.5, seconds=0.1))
            trials.append(clock() - begun)
        rows = (len(stages.search.records()) - n_before) / n_timed
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return {
        "open": opened,
        "trial": median(trials),
        "row": sum(trials[1:]) / (n_timed - 1) / rows,
        "rows": rows,
        "memory": memory,
    }


def measure_first(folder: Path, n_trials: int) -> dict[str, float]:
    """Return the seconds from the start of this process to the begin of a resumed run's first training."""
    import psutil

    from nas_attn.errors import Interrupted

    found: dict[str, float] = {}

    def first(model: Any, run: Any) -> float:
        found.update(wall=time.time() - psutil.Process().create_time(), cpu=time.process_time())
        raise KeyboardInterrupt

    import ledger

    ledger.train = first
    with suppress(KeyboardInterrupt, Interrupted):
        search(**stated(folder, n_trials + 2))
    return found


def measure_report(folder: Path) -> dict[str, float]:
    """Return the CPU seconds of reading a run and writing its report, and the size of its page in MB."""
    from nas_attn.report.page import write_report

    begun = time.process_time()
    record = load_run(folder)
    read = time.process_time() - begun
    write_report(record, folder)
    return {
        "read": read,
        "report": time.process_time() - begun,
        "size": folder.joinpath("report.html").stat().st_size / 1e6,
    }


def main() -> None:
    """Make the runs, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 2000, 10_000])
    parser.add_argument("--report", type=int, default=2000, help="number of trials of the run that is reported")
    parser.add_argument("--timed", type=int, default=60, help="number of trials that are timed")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part, folder, number = options.part[0], Path(options.part[1]), int(options.part[2])
        measures = {
            "trial": lambda: measure_trials(folder, number, options.timed),
            "report": lambda: measure_report(folder),
        }
        found = measures[part]() if part in measures else {"first": measure_first, "make": make}[part](folder, number)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as root:
        for number in options.trials:
            folder = Path(root) / str(number)
            _part("make", folder, number, options.timed)
            print(number, "trials:", _part("trial", folder, number, options.timed), flush=True)
            print(number, "trials, resumed:", _part("first", folder, number, options.timed), flush=True)
        folder = Path(root) / "report"
        _part("make", folder, options.report, options.timed)
        print(options.report, "trials, report:", _part("report", folder, options.report, options.timed), flush=True)


def _part(part: str, folder: Path, number: int, n_timed: int) -> Any:
    """Measure one part in a process of its own."""
    command = [sys.executable, __file__, "--timed", str(n_timed), "--part", part, str(folder), str(number)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
