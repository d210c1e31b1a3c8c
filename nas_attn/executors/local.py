"""The executor `local`: this process, one task after the other; for debugging, tests and systems without Ray."""

from __future__ import annotations

from collections.abc import Callable

from nas_attn.config import Resources
from nas_attn.errors import Interrupted
from nas_attn.executors.base import INTERRUPTED, RESUMABLE, Job
from nas_attn.executors.interrupts import Interrupts
from nas_attn.executors.resources import Allocation, local_allocation
from nas_attn.records import Task
from nas_attn.training.context import TrialContext


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
        from nas_attn.training.ends import outcome_of
        from nas_attn.training.trial import evaluate, prepare  # loads torch

        prepare(context)
        while (task := job.ask()) is not None:
            try:
                with interrupts.abruptly():
                    outcome = evaluate(task, context, _reporter(job, task, interrupts))
            except KeyboardInterrupt as error:
                if interrupts.pending:
                    job.finish(task, INTERRUPTED)
                    raise Interrupted(RESUMABLE) from None
                outcome = outcome_of(error, task.stage, 0.0)  # the training's own
            job.finish(task, outcome)

    def close(self) -> None:
        """Do nothing."""


def _reporter(job: Job, task: Task, interrupts: Interrupts) -> Callable[[int, float], None]:
    from nas_attn.training.ends import Stopped

    def report(epoch: int, value: float) -> None:
        with interrupts.gently():
            stop = job.report(task, epoch, value)
        if stop:
            raise Stopped

    return report
