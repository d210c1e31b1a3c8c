"""What a training prints has a log, and a training that takes too long, or leaves something behind, ends alone."""

from __future__ import annotations

import io
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from runs import tiny_space
from torch import nn

import nas_attn
from nas_attn.config.durations import seconds_of
from nas_attn.training.output import HEAD, TAIL, Output, captured
from nas_attn.training.trial import Run

SHAPE = {"num_classes": 10, "in_channels": 1, "image_size": 8}
SHORT = {"trials": 3, "epochs": 1, "seeds": 1, "top": 1, "controls": 0, "cpus_per_trial": 1, "executor": "local"}


def is_marked(model: nn.Module, run: Run) -> bool:
    """Return whether this is the search's trial of SE everywhere, the second one."""
    return run.stage == "search" and str(model.placement).startswith("se")


def test_what_a_training_prints_stands_in_its_log_and_not_in_the_terminal(tmp_path: Path, capsys):
    def training(model: nn.Module, run: Run) -> float:
        print("hello from", run.stage)
        sys.stderr.write("a warning\n")
        run.report(1, 0.5)
        if is_marked(model, run):
            raise ValueError("my fault")
        return 0.5

    run = nas_attn.search(tiny_space(tmp_path), train=training, out=tmp_path / "run", **SHORT, **SHAPE)
    log = (tmp_path / "run/trials/search-0.txt").read_text()
    assert log == "hello from search\na warning\n"
    failed = next(row for row in run.search if row.state == "fail")
    text = (tmp_path / f"run/trials/search-{failed.number}.txt").read_text()
    assert "ValueError: my fault" in text
    assert "in training" in text
    shown = capsys.readouterr()
    assert "hello" not in shown.out + shown.err
    assert sys.stdout is not None
    assert not hasattr(sys.stdout, "_output"), "the caller's stream is back"


def test_show_output_also_prints_it_under_the_name_of_its_trial(tmp_path: Path, capsys):
    def training(model: nn.Module, run: Run) -> float:
        print("hello")
        return 0.5

    nas_attn.search(
        tiny_space(tmp_path), train=training, out=tmp_path / "run", show_output=True, **{**SHORT, "trials": 1}, **SHAPE
    )
    assert "[search 0]\nhello\n[confirm 0]\nhello\n" in capsys.readouterr().out


def test_only_the_threads_own_text_is_taken_and_a_long_one_is_cut_in_the_middle(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    output = Output()
    with captured(output, thread=threading.get_ident()):
        print("mine")
        other = threading.Thread(target=print, args=("of another thread",))
        other.start()
        other.join()
        with output.paused():
            print("of the display")
        print("x" * (HEAD + TAIL + 10) + "end", end="")
    assert terminal.getvalue() == "of another thread\nof the display\n"
    text = output.rest()
    assert text.startswith("mine\n")
    assert text.endswith("xend")
    assert "\n[18 characters are left out here]\n" in text


@pytest.mark.parametrize("way", ["loop", "sleep", "catches everything"])
def test_a_training_that_takes_too_long_has_timed_out_and_the_search_goes_on(way, tmp_path: Path):
    def training(model: nn.Module, run: Run) -> float:
        until = time.monotonic() + 60
        while is_marked(model, run) and time.monotonic() < until:
            try:
                time.sleep(60 if way == "sleep" else 0.01)
            except BaseException:
                if way != "catches everything":
                    raise
                until = min(until, time.monotonic() + 0.1)
        return 0.5

    before = signal.getsignal(signal.SIGINT)
    priors = {**SHORT, "trial_timeout": "0.5s"}
    run = nas_attn.search(tiny_space(tmp_path), train=training, out=tmp_path / "run", **priors, **SHAPE)
    timed_out = [row for row in run.search if row.cause == "timeout"]
    assert len(timed_out) == 1, "it is not proposed again"
    assert all("longer than the 0.5 s of --trial-timeout, and was ended" in row.reason for row in timed_out)
    assert {row.state for row in (*run.confirm, *run.retrain)} == {"complete"}
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_that_a_training_forked_does_not_run_on_as_the_search(tmp_path: Path):
    driver = os.getpid()

    def training(model: nn.Module, run: Run) -> float:
        child = os.fork()
        if child == 0:
            return 0.9
        os.waitpid(child, 0)
        return 0.5

    run = nas_attn.search(tiny_space(tmp_path), train=training, out=tmp_path / "run", **SHORT, **SHAPE)
    assert os.getpid() == driver
    assert {row.value for row in (*run.search, *run.confirm, *run.retrain)} == {0.5}


def test_exits_working_folders_and_threads_of_a_training_stay_its_own(tmp_path: Path):
    late: list[str] = []

    def report_late(run: Run) -> None:
        time.sleep(0.05)
        try:
            run.report(1, 0.9)
        except RuntimeError as error:
            late.append(str(error))

    def training(model: nn.Module, run: Run) -> float:
        os.chdir("/")
        threading.Thread(target=report_late, args=(run,)).start()
        if is_marked(model, run):
            os._exit(3)
        return 0.5

    before = os.getcwd(), os._exit
    run = nas_attn.search(tiny_space(tmp_path), train=training, out=tmp_path / "run", **SHORT, **SHAPE)
    assert (os.getcwd(), os._exit) == before
    assert any("SystemExit: os._exit(3)" in (row.reason or "") for row in run.search)
    assert set(late) == {"A report must be made before the training returns, but it has ended."}


def test_streams_signals_and_variables_that_a_training_changes_are_those_of_before_in_the_next(tmp_path: Path, capfd):
    found = []

    def training(model: nn.Module, run: Run) -> float:
        has_alarm = signal.getitimer(signal.ITIMER_REAL)[0] > 50_000
        sys.stdout.buffer.write(b"raw \xff")
        found.append((signal.getsignal(signal.SIGINT), dict(os.environ), sys.getrecursionlimit(), has_alarm))
        if is_marked(model, run):
            sys.stdout.close()
            os.close(1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.setitimer(signal.ITIMER_REAL, 90_000)
            os.environ.clear()
            sys.setrecursionlimit(sys.getrecursionlimit() + 99)
            resource.setrlimit(resource.RLIMIT_NOFILE, (20, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        return 0.5

    run = nas_attn.search(tiny_space(tmp_path), train=training, out=tmp_path / "run", **SHORT, **SHAPE)
    assert {row.state for row in (*run.search, *run.confirm, *run.retrain)} == {"complete"}
    assert len(found) > 5
    assert (run.folder / "trials" / "search-0.txt").read_text() == "raw \ufffd"
    assert [state for state in found[1:] if state != found[1]] == []
    os.write(1, b"out")
    os.write(2, b"err")
    assert capfd.readouterr() == ("out", "err")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1.5m", 90), ("2h", 7200), ("45", 45)])
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["soon", "0s", "-1s", ""])
def test_a_limit_that_is_no_duration_is_refused(text, tmp_path: Path):
    with pytest.raises(nas_attn.NasAttnError, match="it must be a duration above 0, such as"):
        nas_attn.search(tiny_space(tmp_path), train=len, out=tmp_path / "run", trial_timeout=text, **SHORT, **SHAPE)
