"""The Ray worker: a training in a thread, whose reports Tune fetches in batches.

The driver imports this file to name the class; torch is imported only in the worker.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

from ray import tune

from nas_attn.records import Outcome, Task
from nas_attn.training.context import TrialContext

BATCH_SECONDS = 1.0
"""Reports of this period are sent together, since a message costs the driver some milliseconds. A step takes at most
this long, so an interrupt does not wait for the end of an epoch."""


class Worker(tune.Trainable):
    """Runs one task after the other on data that it loads once; Tune reuses it instead of starting a process per trial.

    A step returns `{"reports": [(epoch, value), ...], "outcome": Outcome or None}`; the driver ends the trial when
    there is an outcome, or when the scheduler stops it.
    """

    def setup(self, config: dict[str, Any], context: TrialContext | None = None) -> None:
        """Store the run's context, and start the first task."""
        assert context is not None, "the executor passes the context"
        self._context = context
        self._thread: threading.Thread | None = None
        self._start(config["task"])

    def step(self) -> dict[str, Any]:
        """Return the reports since the last step, and the outcome if the training has ended."""
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
        """End a training that the scheduler stopped, and start the next task."""
        self._end()
        self._start(new_config["task"])
        return True

    def cleanup(self) -> None:
        """Stop a running training at its next report."""
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
        from nas_attn.training.ends import Stopped, outcome_of
        from nas_attn.training.trial import evaluate, prepare

        def report(epoch: int, value: float) -> None:
            if stopped.is_set():
                raise Stopped
            reports.put((epoch, value))

        try:
            prepare(self._context)
            outcome = evaluate(task, self._context, report)
        except BaseException as error:  # a worker that cannot read its data reports it as its trial's outcome
            outcome = outcome_of(error, task.stage, 0.0)
        reports.put(outcome)
