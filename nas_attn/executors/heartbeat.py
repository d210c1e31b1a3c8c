"""The signs of life of Tune's workers, and the end of a worker that gives none."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import ray
from ray.tune.experiment import Trial

SILENT_SECONDS = 300.0
"""Time without a sign of life after which a worker is ended; a living one gives a sign each second."""

_FEWEST_SECONDS, _FIRST_SECONDS = 15.0, 60.0
"""The least such time where `--trial-timeout` is shorter, and before a new worker's first sign: it loads torch."""

_PAUSE_SECONDS = 5.0
"""Time between two looks after which the driver itself must have been stopped, so that nobody was silent."""


class Heartbeats:
    """When each running trial was last heard of, and the process of its worker.

    Args:
        timeout: Longest time of one training; a worker may not be silent for longer.
    """

    def __init__(self, timeout: float | None) -> None:
        self._limit = SILENT_SECONDS if timeout is None else min(SILENT_SECONDS, max(_FEWEST_SECONDS, timeout + 10))
        self._heard: dict[str, float] = {}
        self._processes: dict[Any, tuple[int, str]] = {}
        self._looked = time.monotonic()

    def hear(self, trial: Trial, result: dict[str, Any]) -> None:
        """Take a result as a sign of life."""
        self._heard[trial.trial_id] = time.monotonic()
        self._processes[_actor(trial)] = (int(result["pid"]), str(result["hostname"]))

    def silent(self, trials: Iterable[Trial]) -> list[tuple[Trial, float]]:
        """Return the running trials whose workers have been silent for too long, with the seconds."""
        now = time.monotonic()
        was_stopped, self._looked = now - self._looked > _PAUSE_SECONDS, now
        found = []
        for trial in trials:
            if was_stopped or trial.status != Trial.RUNNING or trial.trial_id not in self._heard:
                self._heard[trial.trial_id] = now
            seconds = now - self._heard[trial.trial_id]
            if seconds > (self._limit if _actor(trial) in self._processes else max(self._limit, _FIRST_SECONDS)):
                found.append((trial, seconds))
        return found

    def end_worker(self, trial: Trial) -> None:
        """Kill the worker of a trial, also one that is stopped or holds the interpreter; Tune notices its death."""
        actor = _actor(trial)
        if actor is None:
            return
        ray.kill(actor)
        number, host = self._processes.get(actor, (0, ""))
        if number and host == socket.gethostname():  # Ray asks the process itself to end, which a stopped one cannot
            with suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)

    def forget(self, trial: Trial) -> None:
        """Forget a trial that has ended; its worker may run another one."""
        self._heard.pop(trial.trial_id, None)


def _actor(trial: Trial) -> Any:
    """Return the handle of a trial's worker, or None while it has none."""
    return trial.temporary_state.ray_actor
