"""A signal whose exception Python loses still ends the computation, without a traceback; a second one the process."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
from conftest import RunCommand

from nas_attn.executors.interrupts import Interrupts


class Interrupted:
    """An object during whose finalizer a signal arrives."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass


class Broken:
    def __del__(self) -> None:
        raise ValueError("of a user's finalizer")


def interrupted_sleep() -> None:
    Interrupted()
    time.sleep(20)


def test_an_interrupt_that_a_finalizer_loses_is_raised_again(capfd):
    before = sys.unraisablehook
    begun = time.monotonic()
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.abruptly():
        interrupted_sleep()
    assert time.monotonic() - begun < 10
    assert "Traceback" not in capfd.readouterr().err
    assert sys.unraisablehook is before


def test_an_interrupt_that_is_lost_where_it_is_deferred_stays_pending(capfd):
    with Interrupts() as interrupts:
        Interrupted()
        assert interrupts.pending
        with pytest.raises(KeyboardInterrupt), interrupts.abruptly():
            pass
    assert "Traceback" not in capfd.readouterr().err


def test_other_lost_exceptions_are_shown_as_before(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: shown.append(str(lost.exc_value)))
    with Interrupts():
        Broken()
    assert shown == ["of a user's finalizer"]


TWICE = """
import os, signal
from nas_attn.executors.interrupts import Interrupts

with Interrupts():
    os.kill(os.getpid(), signal.SIGINT)
    print("deferred", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("not reached")
"""


def test_a_second_signal_ends_the_process_at_once_and_says_so(run_python: RunCommand) -> None:
    done = run_python("-c", TWICE)
    assert done.returncode == 130
    assert done.stdout == "deferred\n"
    assert done.stderr == "Interrupted twice, so the run ends at once: the same command resumes it.\n"
