"""Rows of the kill matrix for what else fails: a training, a worker's memory, a database server, a node.

The trainings run with Ray Tune where they concern a worker. The server is a PostgreSQL of the rows' own
(`tests/postgres_server.py`), the nodes are those of `two_nodes.py`, which needs root.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from processes import ROOT
from tiny_run import (
    BEST,
    BUDGET,
    LOST,
    SENTENCE,
    SETTINGS,
    Moment,
    Wrong,
    code_of,
    finish,
    last_line,
    left_by,
    look_at,
    spoken,
    start,
)

from nas_attn import load_run

Row = Callable[[Path], Wrong]

_TRAINING = """
import os, pathlib, resource, signal, time
kept = []

def train(model, run):
    run.report(1, 0.4)
    if run.stage == "search":
        {fault}
    run.report(2, 0.5)
    return 0.5
"""
_OWN = ["--train", "mine:train", "--trial-timeout=8s"]
_FAULTS = {
    "a training hangs": ("run.number == 1 and time.sleep(1000)", "timeout"),
    "a training hangs and takes no signal": (
        "run.number == 1 and (signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)), time.sleep(1000))",
        "timeout",
    ),
    "a worker is killed for its memory": (
        "marker = pathlib.Path('{folder}/killed')\n"
        "        if run.number == 1 and not marker.exists():\n"
        "            marker.touch()\n"
        "            os.kill(os.getpid(), signal.SIGKILL)",
        None,
    ),
    "a training needs too much memory": ("run.number == 1 and kept.append(bytearray(1 << 50))", "oom"),
    "a training leaks to the limit of its process": (
        "limit = int(open('/proc/self/statm').read().split()[0]) * 4096 + (300 << 20)\n"
        "        first = not kept\n"
        "        first and resource.setrlimit(resource.RLIMIT_AS, (limit, -1))\n"
        "        kept.append(bytearray(200 << 20))",
        "oom",
    ),
}
"""What a training of the search does, and the cause that the ledger must show; None: none, the trial is run again."""

_ONLY_TUNE = ("a worker is killed for its memory", "a training hangs and takes no signal",
              "a training leaks to the limit of its process")  # fmt: skip


def with_training(folder: Path, fault: str, executor: str) -> Wrong:
    """Run with a training that fails in the search; the run must come to its end, and show the cause."""
    body, cause = _FAULTS[fault]
    (folder / "mine.py").write_text(_TRAINING.format(fault=body.format(folder=folder)))
    code, wrong = finish(folder, executor, further=_OWN)
    wrong = {**look_at(folder / "run", []), **wrong}
    rows = load_run(folder / "run").search if code == 0 else ()
    settled = {row.key for row in rows if row.state == "complete" or row.cause in ("oom", "timeout")}
    if len(settled) == SETTINGS["trials"]:
        wrong.pop(BUDGET, None)
    if cause is not None and cause not in {row.cause for row in rows}:
        wrong[LOST] = f"no trial failed with the cause {cause}: {[(row.state, row.cause) for row in rows]}"
    return wrong


def with_server(folder: Path, seconds: float, stage: str) -> Wrong:
    """Run with the ledger in a PostgreSQL database whose server is killed in mid-search, and started again."""
    sys.path.append(str(ROOT / "tests"))
    from postgres_server import running_server

    with running_server() as server:
        server.execute("CREATE DATABASE matrix")
        further = ["--storage", server.address("matrix")]
        command = start(folder, "local", further=further)
        Moment(stage, 1, 0.2, 0.5).wait(command, folder)
        server.kill()
        again = threading.Timer(seconds, server.start)
        again.start()
        code = code_of(command)
        again.join()
        wrong = left_by(command) | spoken(folder)
        if code:
            wrong[SENTENCE] = f"ended with {code}: {last_line(folder)}"
        os.environ["NAS_ATTN_STORAGE"] = server.address("matrix")  # the run folder holds no password
        try:
            return {**look_at(folder / "run", []), **wrong}
        finally:
            del os.environ["NAS_ATTN_STORAGE"]


def with_nodes(_folder: Path, case: str) -> Wrong:
    """Run a case of `two_nodes.py`; every word of it must hold."""
    words = [sys.executable, str(Path(__file__).with_name("two_nodes.py")), case]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    last = (done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]])[-1]
    return {} if done.returncode == 0 else {BEST: last}


def rows() -> list[tuple[str, str, Row]]:
    """Return the rows: group, name, and what to do in an empty folder."""
    found: list[tuple[str, str, Row]] = []
    for fault in _FAULTS:
        for executor in ("tune",) if fault in _ONLY_TUNE else ("local", "tune"):
            found.append((fault, executor, partial(with_training, fault=fault, executor=executor)))
    for stage, seconds in (("search", 1.0), ("retrain", 3.0), ("costs", 1.0)):
        act = partial(with_server, seconds=seconds, stage=stage)
        found.append(("PostgreSQL is killed and started again", f"{stage}, {seconds:.0f} s", act))
    if os.geteuid() == 0:
        found.append(("a node is lost, another one joins", "two nodes", partial(with_nodes, case="killed")))
        found.append(("a node does not see the data", "two nodes", partial(with_nodes, case="blind")))
    return found
