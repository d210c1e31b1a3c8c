"""The executor `local`: this process, one task after the other; for debugging, tests and systems without Ray."""

from __future__ import annotations

import threading
from dataclasses import replace

from nas_attn.config import Resources
from nas_attn.data.shared import share
from nas_attn.errors import Interrupted
from nas_attn.executors.base import INTERRUPTED, RESUMABLE, Job
from nas_attn.executors.interrupts import Interrupts
from nas_attn.executors.resources import Allocation, local_allocation
from nas_attn.records import Outcome, Task
from nas_attn.training.context import TrialContext
from nas_attn.training.time_limit import TimedOut, TimeLimit, timed_out


class LocalExecutor:
    """Runs the tasks of a job in this process; see `nas_attn.executors.base.Executor`."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def check(self) -> None:
        """Refuse more than this machine has."""
        local_allocation(self._resources)

    def open(self, n_bytes: int = 0) -> None:
        """Do nothing: the worker is this process."""

    @property
    def capacity(self) -> Allocation:
        """One task at a time, on all cores."""
        return local_allocation(self._resources)

    def run(self, job: Job, context: TrialContext, interrupts: Interrupts) -> None:
        """Run tasks until the job is finished."""
        from nas_attn.training.trial import prepare  # loads torch

        try:
            with interrupts.abruptly():
                context = _with_images(context)
                prepare(context)
        except KeyboardInterrupt:
            raise Interrupted(RESUMABLE) from None
        while (task := job.ask()) is not None:
            _Trial(job, task, context, interrupts).run()

    def close(self) -> None:
        """Do nothing."""


def _with_images(context: TrialContext) -> TrialContext:
    """Return the context with the images that the driver, which is this process, has read already."""
    if context.data is None or context.train is not None:
        return context
    return replace(context, images=share(context.data, context.fingerprint))


class _Trial:
    """One training in this process: its reports, its checkpoints, what it prints, and its end."""

    def __init__(self, job: Job, task: Task, context: TrialContext, interrupts: Interrupts) -> None:
        from nas_attn.training.keeper import Keeper
        from nas_attn.training.output import Output

        self._job, self._task, self._context, self._interrupts = job, task, context, interrupts
        self._output = Output(self._show if context.show_output else None)
        self._keeper = Keeper(context.checkpoint_seconds, self._save, task.checkpoint)

    def run(self) -> None:
        """Train, and finish the task. Raises: Interrupted after a signal."""
        try:
            outcome = self._outcome()
        except KeyboardInterrupt:
            unsaved = self._keeper.unsaved()
            if unsaved is not None:
                self._job.save(self._task, unsaved)
            self._finish(INTERRUPTED)
            raise Interrupted(RESUMABLE) from None
        self._finish(outcome)

    def _outcome(self) -> Outcome:
        """Return how the training ended. Raises: KeyboardInterrupt after a signal."""
        from nas_attn.training.ends import outcome_of
        from nas_attn.training.output import captured
        from nas_attn.training.trial import evaluate

        thread = threading.get_ident()
        limit = TimeLimit(self._context.timeout)
        try:
            with (
                self._interrupts.abruptly(),
                limit.enforced(lambda: self._interrupts.expire(thread)),
                captured(self._output, thread=thread),
            ):
                outcome = evaluate(self._task, self._context, self._report, self._keeper)
        except TimedOut as error:
            outcome = outcome_of(error, self._task.stage, self._keeper.seconds)
        except KeyboardInterrupt as error:
            if self._interrupts.pending:
                raise
            outcome = outcome_of(error, self._task.stage, self._keeper.seconds)  # the training's own
        return timed_out(limit.seconds or 0.0, outcome.seconds) if limit.has_passed else outcome

    def _finish(self, outcome: Outcome) -> None:
        rest = self._output.rest()
        if rest:
            self._job.show(self._task, rest)
        self._job.finish(self._task, outcome)

    def _report(self, epoch: int, value: float) -> None:
        from nas_attn.training.ends import Stopped

        self._show()
        with self._interrupts.gently(), self._output.paused():
            stop = self._job.report(self._task, epoch, value)
        if stop:
            raise Stopped

    def _save(self, content: bytes) -> None:
        with self._interrupts.gently(), self._output.paused():
            self._job.save(self._task, content)

    def _show(self) -> None:
        text = self._output.take()
        if text:
            with self._interrupts.gently(), self._output.paused():
                self._job.show(self._task, text)
