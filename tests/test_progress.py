"""The display of a running job, in a terminal of 80 columns and in a pipe."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
from engine import OpenRun, score, work
from rich.console import Console

from nas_attn.executors.resources import Allocation
from nas_attn.records import Task
from nas_attn.run.progress import LiveDisplay, PlainDisplay

WIDTH = 80


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=WIDTH, height=24, highlight=False, color_system=None)


def shown(display: LiveDisplay) -> list[str]:
    """Return the lines that the live display would draw now."""
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False)
    console.print(display._render())
    return console.file.getvalue().splitlines()


def test_the_live_display_says_how_far_each_stage_is(tmp_path: Path) -> None:
    with LiveDisplay(terminal()) as display:
        assert shown(display)[0].startswith("Reading the data ...")
        display.reading(3, 12)
        assert "3/12" in shown(display)[1]
        display.stage("start")
        assert shown(display)[0].startswith("Starting the workers ...")
        with OpenRun(tmp_path) as stages:
            work(stages, stop_after=5)
            display.update(stages)
            lines = shown(display)
            assert lines[0].startswith("Searching ...")
            assert [line.split()[0] for line in lines[1:4]] == ["search", "confirm", "retrain"]
            assert lines[1].endswith("5/12")
            assert "1 of 1 workers busy, 0 failed" in lines[4]
            assert lines[5].startswith("best so far: ")
        with OpenRun(tmp_path) as stages:
            work(stages)
            display.update(stages)
            assert shown(display)[1].endswith("12/12")
        display.stage("report")
        assert shown(display)[0].startswith("Writing the report ...")


@pytest.mark.parametrize("display", [LiveDisplay, PlainDisplay])
def test_a_display_is_entered_and_left_in_any_state(display: type[LiveDisplay | PlainDisplay]) -> None:
    console = terminal()
    with display(console) as opened:
        opened.stage("read")
    assert "Reading the data ..." in console.file.getvalue()


def test_a_line_of_the_plain_display_counts_every_worker_that_has_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=0.1)  # a moment passes between an end and the next begin, and 20 s in a trial
    now = [0.0]
    monkeypatch.setattr("nas_attn.run.progress.time", SimpleNamespace(monotonic=lambda: now[0] + next(clock)))
    console = terminal()
    display = PlainDisplay(console)
    display.resources(Allocation(2, 1, 0.0, "cpu"))
    with OpenRun(tmp_path, trials=4, seeds=1, top=1) as stages:
        running: list[Task] = []
        while not stages.is_finished:
            while len(running) < 2 and (task := stages.ask()) is not None:
                running.append(task)
                display.update(stages)
            now[0] += 20
            task = running.pop(0)
            stages.finish(task, score(task))
            display.update(stages)
    lines = [line for line in console.file.getvalue().splitlines() if " running, " in line]
    assert lines[0].startswith("search 0/4, confirm 0/4, retrain 0/4; 2 running, ")
    assert len(lines) > 6
    assert {line.split("; ")[1].split(",")[0] for line in lines} == {"2 running"}
