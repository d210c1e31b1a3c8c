"""What a training reports: checked at the call, counted, and ended when the trial is stopped."""

from __future__ import annotations

import os
import threading

from nas_attn.records import Task
from nas_attn.training.ends import Stopped, as_epoch, as_number
from nas_attn.training.keeper import Keeper
from nas_attn.training.loop import Report


class Reports:
    """The function `report(epoch, value)` of one training.

    Args:
        report: Takes the checked numbers, and raises `Stopped` to stop the training.
        keeper: Stores the curve for the checkpoints.
    """

    def __init__(self, task: Task, report: Report, keeper: Keeper) -> None:
        self._task, self._report, self._keeper = task, report, keeper
        self._process, self._lock = os.getpid(), threading.Lock()
        self._has_ended = False
        self.is_stopped = False

    def __call__(self, epoch: int, value: float) -> None:
        """Report one epoch, from any thread of the training.

        The last value of an epoch counts; a scheduler sees the first one.

        Raises: TypeError or ValueError for anything but a whole number within the schedule, and one number;
        RuntimeError in another process or after the training's end; Stopped if the trial is stopped.
        """
        number = as_epoch(epoch, self._task.epochs)
        checked = as_number(value, f"The value reported for epoch {number}")
        if os.getpid() != self._process:
            raise RuntimeError("A report must be made in the process of the training: pass the value to it.")
        with self._lock:
            if self._has_ended:
                raise RuntimeError("A report must be made before the training returns, but it has ended.")
            if self.is_stopped:
                raise Stopped
            try:
                self._report(number, checked)
            except Stopped:
                self.is_stopped = True
                raise
            self._keeper.curve[number] = checked

    def replay(self) -> None:
        """Report the curve of the checkpoint that the training continues from."""
        for epoch, value in (self._keeper.restored or {}).get("curve", {}).items():
            self(epoch, value)

    def end(self) -> None:
        """Refuse further reports, which threads that the training left behind may make."""
        with self._lock:
            self._has_ended = True
