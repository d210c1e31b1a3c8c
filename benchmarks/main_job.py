"""The README's first command: its total time, its memory, the load of its workers, and the time to its first epoch.

    python benchmarks/main_job.py [--repeats 1] [--starts 5] [-- MORE OPTIONS OF THE COMMAND]

It runs `python run_search.py --space densenet_attn` in a temporary folder as its own process. Arguments after `--` are
passed to that command: `-- --trials 4 --epochs 2 --seeds 2` is a smaller job. Meaning of the result:

- `total` is the time from the command to its end, including the report. Beside it is the time of its trainings alone
  on the same number of workers: their seconds / workers.
- `memory` is the peak of the proportional set size (shared pages counted once) of all its processes together, sampled
  every half second by psutil.
- The seconds of a stage are from the end of the previous stage to the end of its last run. `start` ends when the first
  trial begins; the start of its worker counts as `search`. At the end of a stage, idle workers begin to retrain the
  fixed arms, so the earlier stages include some of the retraining.
- `busy` is the sum of the trainings' seconds over workers x (last end - first begin).
- `first epoch` is from the command to the end of the first trial's first epoch with `--epochs 1`, validation and report
  included: an upper bound of the time to the first training step. The peers train one epoch of the same size: a plain
  script, and the same inside stock Ray Tune with OptunaSearch; they are measured alternately.

Goals on two cores without a GPU: at most 300 s, 3 GB, and 8 s to the first step.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from processes import ROOT, Command, sampled
from run_log import ends, events

from nas_attn import load_run

COMMAND = [sys.executable, str(ROOT / "run_search.py"), "--space", "densenet_attn"]
GIGABYTE = 1e9


@dataclass(frozen=True)
class Measured:
    """One whole run."""

    total: float
    memory: int
    n_samples: int
    largest: list[tuple[int, str]]
    stages: dict[str, float]
    trained: float
    busy: float
    n_trainings: int


def whole(options: list[str], workers: int) -> Measured:
    """Run the command to its end and measure it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = Command([*COMMAND, "--out", "run", *options], folder, folder / "output.txt")
        with sampled(command) as memory:
            code = command.process.wait()
        total = time.time() - command.begun
        if code != 0:
            raise SystemExit(f"The command ended with code {code}: {(folder / 'output.txt').read_text()[-2000:]}")
        record, log = load_run(folder / "run"), folder / "run" / "log.txt"
        found = events(log)
        print((folder / "output.txt").read_text().strip(), flush=True)
    seconds = [row.seconds for row in (*record.search, *record.confirm, *record.retrain) if row.answered_from is None]
    moments = [found[0].moment] + [
        max(event.moment for event in found if event.kind == "end" and event.stage == stage)
        for stage in ("search", "confirm", "retrain")
    ]
    spans = [command.begun, *moments, command.begun + total]
    names = ("start", "search", "confirm", "retrain", "report")
    stages = {name: spans[index + 1] - spans[index] for index, name in enumerate(names)}
    busy = sum(seconds) / (workers * (moments[-1] - moments[0]))
    return Measured(
        total, memory.peak, memory.n_samples, memory.largest, stages, sum(seconds) / workers, busy, len(seconds)
    )


def first_epoch(options: list[str]) -> float:
    """Return the seconds from the command to the end of its first trial of one epoch; then end the run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = Command([*COMMAND, "--out", "run", *options, "--epochs", "1"], folder, folder / "output.txt")
        log = folder / "run" / "log.txt"
        while not (found := ends(log, "search")):
            if command.process.poll() is not None:
                raise SystemExit(f"The command ended too early: {(folder / 'output.txt').read_text()[-2000:]}")
            time.sleep(0.02)
        command.process.terminate()
        command.process.wait()
        command.wait_until_gone(10)
        command.end()
        return found[0] - command.begun


def peer_first_epoch(*options: str) -> float:
    """Return the same time for the peer."""
    begun = time.time()
    words = [sys.executable, str(Path(__file__).with_name("plain_training.py")), *options]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1]) - begun


def print_whole(measured: list[Measured]) -> None:
    """Print medians and ranges over the repeats."""
    n = len(measured)
    totals = [one.total for one in measured]
    ideal = median(one.trained for one in measured)
    print(f"\nThe whole job, {measured[0].n_trainings} trainings, median (range) of {n}:")
    shown = f"{median(totals):7.1f} s ({min(totals):.1f} to {max(totals):.1f})"
    print(f"  total    {shown}   trainings alone: {ideal:.1f} s, ratio {median(totals) / ideal:.2f}; goal: 300 s")
    peaks = [one.memory / GIGABYTE for one in measured]
    shown = f"{median(peaks):7.2f} GB ({min(peaks):.2f} to {max(peaks):.2f}; {measured[0].n_samples} samples a run)"
    print(f"  memory   {shown}; goal: 3 GB")
    print("           of which", ", ".join(f"{name} {size / GIGABYTE:.2f}" for size, name in measured[0].largest))
    busy = [one.busy for one in measured]
    print(f"  busy     {median(busy):7.1%} ({min(busy):.1%} to {max(busy):.1%})")
    for name in measured[0].stages:
        print(f"  {name:<8} {median(one.stages[name] for one in measured):7.1f} s")


def main() -> None:
    """Measure the whole job, then the starts alternately."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1, help="number of whole runs; 0 skips them")
    parser.add_argument("--starts", type=int, default=5, help="rounds of the start; 0 skips it")
    parser.add_argument("--workers", type=int, default=2, help="number of workers of the command")
    parser.add_argument("options", nargs="*", help="more options of the command")
    options = parser.parse_args()
    more = ["--workers", str(options.workers), *options.options]
    if options.repeats:
        print_whole([whole(more, options.workers) for _ in range(options.repeats)])
    starts: dict[str, list[float]] = {"nas_attn": [], "plain script": [], "stock Tune": []}
    for _ in range(options.starts):
        starts["nas_attn"].append(first_epoch(more))
        starts["plain script"].append(peer_first_epoch())
        starts["stock Tune"].append(peer_first_epoch("--tune"))
    if options.starts:
        print(f"\nFrom the command to the end of the first epoch, median (range) of {options.starts}; goal: 8 s")
        for name, found in starts.items():
            ratio = median(found) / median(starts["nas_attn"])
            print(f"  {name:<13} {median(found):6.2f} s ({min(found):.2f} to {max(found):.2f}), {ratio:.2f} x ours")


if __name__ == "__main__":
    main()
