"""A training that crashes the command itself: the next one records it with its place, and gives it up after a while."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from runs import tiny_space
from scripted import ledger_in, small_space

from nas_attn import load_run
from nas_attn.placement import NONE
from nas_attn.run.crash_file import CRASH, CrashFile
from nas_attn.study.ledger import FINAL
from nas_attn.study.planned import PlannedRun, PlannedRuns
from nas_attn.study.sampling import MAX_CRASHES

TRAINING = """
import ctypes, os

def train(model, run):
    if run.stage == "search" and run.number in {numbers}:
        ctypes.string_at(0)
    run.report(1, 0.5)
    return 0.5
"""


def command(folder: Path) -> list[str]:
    settings = {
        "trials": 2,
        "epochs": 1,
        "seeds": 1,
        "top": 1,
        "controls": 0,
        "executor": "local",
        "train": "mine:train",
    }
    settings |= {"num-classes": 10, "in-channels": 1, "image-size": 8, "train": "mine:train"}
    settings |= {"space": tiny_space(folder), "out": "run"}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "nas_attn", "search", *words]


def test_a_crash_is_read_with_the_last_place_in_the_users_own_code(tmp_path: Path) -> None:
    assert CrashFile(tmp_path).open() is None
    library, mine = sysconfig.get_path("stdlib"), tmp_path / "mine.py"
    (tmp_path / CRASH).write_text(
        "Fatal Python error: Aborted\n\nCurrent thread 0x1 (most recent call first):\n"
        f'  File "{library}/os.py", line 9 in abort\n  File "{mine}", line 7 in train\n  File "{mine}", line 2 in m\n'
    )
    file = CrashFile(tmp_path)
    assert file.open() == "Aborted (mine.py:7)"
    file.close()
    assert CrashFile(tmp_path).open() is None, "it is read once"
    (tmp_path / CRASH).write_text("")
    assert CrashFile(tmp_path).open() is None, "a killed driver leaves an empty file"


def test_a_training_that_crashed_its_driver_is_tried_a_few_times(tmp_path: Path) -> None:
    for number in range(MAX_CRASHES + 1):
        with ledger_in(tmp_path, FINAL) as ledger:
            assert ledger.sweep("Aborted (mine.py:7)" if number else None) == (number > 0)
            runs = PlannedRuns(ledger, small_space())
            runs.plan([PlannedRun("retrain", "none", NONE, 1, 2)])
            assert (runs.ask() is None) is (number == MAX_CRASHES)
    with ledger_in(tmp_path, FINAL) as ledger:
        assert {(row.cause, row.reason) for row in ledger.records()} == {
            ("crashed", "The training crashed with the process of the run: Aborted (mine.py:7).")
        }


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform == "win32", reason="the code of a crash is that of a signal")
def test_a_crash_in_native_code_is_a_row_with_its_place_and_is_given_up(tmp_path: Path) -> None:
    words = command(tmp_path)
    (tmp_path / "mine.py").write_text(TRAINING.format(numbers=set(range(MAX_CRASHES))))
    for number in range(MAX_CRASHES):
        assert subprocess.run(words, cwd=tmp_path, capture_output=True).returncode == -11, number
        assert (tmp_path / "run" / CRASH).read_text().startswith("Fatal Python error: Segmentation fault")
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "crashed in native code of a training: Segmentation fault (mine.py:6)" in ended.stdout
    assert not (tmp_path / "run" / CRASH).exists()
    run = load_run(tmp_path / "run")
    failed = [row for row in run.search if row.state == "fail"]
    assert [row.cause for row in failed] == ["crashed"] * MAX_CRASHES
    reason = "The training crashed with the process of the run: Segmentation fault (mine.py:6)."
    assert {row.reason for row in failed} == {reason}
    assert len({row.key for row in failed}) == 1
    assert len({row.key for row in run.search if row.state == "complete"}) == 2
    assert run.best is not None
