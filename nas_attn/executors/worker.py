"""What runs inside a Ray worker: a training in a thread, whose reports Tune fetches in batches.

The driver imports this file to name the class; torch is imported in the worker alone.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

from ray import tune

from nas_attn.records import Outcome, Task
from nas_attn.training.context import Setting

BATCH_SECONDS = 1.0
"""Reports of this time travel together: a message costs the driver some milliseconds. A step never takes longer, so
that an interrupt need not wait for an epoch's end."""


class Worker(tune.Trainable):
    """Runs one task after the other on warm data; Tune reuses it instead of starting a process a trial.

    A step returns `{"reports": [(epoch, value), ...], "outcome": Outcome or None}`; the driver ends the trial when
    the outcome is there, or when the scheduler stops it.
    """

    def setup(self, config: dict[str, Any], setting: Setting | None = None) -> None:
        """Take the run's setting, and start the first task."""
        assert setting is not None, "the executor passes the setting"
        self._setting = setting
        self._thread: threading.Thread | None = None
        self._start(config["task"])

    def step(self) -> dict[str, Any]:
        """Return what the training reported since the last step, and how it ended, if it has."""
        reports: list[tuple[int, float]] = []
        deadline = time.monotonic() + BATCH_SECONDS
        while True:
            try:
                item = self._reports.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return {"reports": reports, "outcome": None}
            if isinstance(item, Outcome):
                return {"reports": reports, "outcome": item}
            reports.append(item)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """End what the scheduler stopped, and start the next task."""
        self._end()
        self._start(new_config["task"])
        return True

    def cleanup(self) -> None:
        """Let a training that still runs end at its next report."""
        self._stopped.set()

    def _start(self, task: Task) -> None:
        self._stopped = threading.Event()
        self._reports: queue.SimpleQueue[tuple[int, float] | Outcome] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._train, args=(task, self._stopped, self._reports), daemon=True)
        self._thread.start()

    def _end(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _train(
        self, task: Task, stopped: threading.Event, reports: queue.SimpleQueue[tuple[int, float] | Outcome]
    ) -> None:
        from nas_attn.training.trial import Stopped, evaluate, prepare

        def report(epoch: int, value: float) -> None:
            if stopped.is_set():
                raise Stopped
            reports.put((epoch, value))

        try:
            prepare(self._setting)
        except Exception as error:  # a worker that cannot read its data says so as a trial does
            reports.put(Outcome("fail", cause="error", reason=f"{type(error).__name__}: {error}"))
            return
        reports.put(evaluate(task, self._setting, report))
