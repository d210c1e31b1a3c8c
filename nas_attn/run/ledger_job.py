"""The stages as a job whose ledger may stop answering: the executor then ends, and the run says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nas_attn.errors import Interrupted, NasAttnError, RunStopped
from nas_attn.records import Outcome, Task

if TYPE_CHECKING:
    from nas_attn.study.stages import Stages

_LOST = (RunStopped, Interrupted)
"""What the ledger raises when nothing more can be written to it."""


class LedgerJob:
    """Hands the calls of an executor to the stages; see `nas_attn.executors.base.Job`.

    An error within an executor's callbacks would be taken for one of the trial, so it is kept here until the executor
    has ended. Rows that then stay running are swept by the next command.

    Args:
        at_last: Is called whenever a worker is idle in the last stage: the machine has time for something else.
    """

    def __init__(self, stages: Stages, at_last: Callable[[], object] = lambda: None) -> None:
        self._stages, self._at_last = stages, at_last
        self._error: NasAttnError | None = None

    def ask(self) -> Task | None:
        """Return the next task, or None while nothing can begin."""
        if self._error is None:
            try:
                task = self._stages.ask()
                if task is None and self._stages.stage == "retrain":
                    self._at_last()
                return task
            except _LOST as error:
                self._error = error
        return None

    def report(self, task: Task, epoch: int, value: float) -> bool:
        """Record the value of one epoch; return whether the task must stop here."""
        if self._error is None:
            try:
                return self._stages.report(task, epoch, value)
            except _LOST as error:
                self._error = error
        return True

    def save(self, task: Task, content: bytes) -> None:
        """Store the checkpoint of a running task."""
        self._stages.save(task, content)

    def show(self, task: Task, text: str) -> None:
        """Add to the log of a task what its training printed."""
        self._stages.show(task, text)

    def note(self, sentence: str) -> None:
        """Add a sentence for the end of the run."""
        if self._error is None:
            try:
                self._stages.note(sentence)
            except _LOST as error:
                self._error = error

    def finish(self, task: Task, outcome: Outcome) -> None:
        """Record the outcome of a task."""
        if self._error is None:
            try:
                self._stages.finish(task, outcome)
            except _LOST as error:
                self._error = error

    @property
    def is_finished(self) -> bool:
        """Whether nothing runs and nothing more will begin, or the ledger is lost."""
        return self._error is not None or self._stages.is_finished

    def raise_error(self) -> None:
        """Raise what ended the job, if the ledger did. Raises: RunStopped or Interrupted."""
        if self._error is not None:
            raise self._error
