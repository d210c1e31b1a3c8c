"""A worker that gives no sign of life is found, and a driver that was stopped itself blames nobody."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest

heartbeat = pytest.importorskip("nas_attn.executors.heartbeat")


def trial(status: str = "RUNNING") -> Any:
    return SimpleNamespace(trial_id="a", status=status, temporary_state=SimpleNamespace(ray_actor="worker"))


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now.seconds)
    return now


def look(beats: Any, clock: Any, running: Any, seconds: int) -> list[float]:
    """Look each second; return the silence of the trials that were found."""
    for _ in range(seconds):
        clock.seconds += 1
        found = beats.silent([running])
        if found:
            return [silence for _, silence in found]
    return []


@pytest.mark.parametrize(("timeout", "limit"), [(None, 300), (3.0, 15), (60.0, 70), (10_000.0, 300)])
def test_a_silent_worker_is_found_after_its_limit(timeout, limit, clock):
    beats = heartbeat.Heartbeats(timeout)
    beats.hear(trial(), {"pid": 1, "hostname": socket.gethostname()})
    assert look(beats, clock, trial(), 400) == [limit + 1]


def test_a_new_worker_has_a_minute_and_one_that_waits_has_no_limit(clock):
    beats = heartbeat.Heartbeats(3.0)
    assert look(beats, clock, trial("PENDING"), 400) == []
    assert look(beats, clock, trial(), 400) == [61]


def test_a_driver_that_was_stopped_itself_blames_nobody(clock):
    beats = heartbeat.Heartbeats(3.0)
    beats.hear(trial(), {"pid": 1, "hostname": "elsewhere"})
    assert look(beats, clock, trial(), 10) == []
    clock.seconds += 3600
    assert look(beats, clock, trial(), 10) == []
