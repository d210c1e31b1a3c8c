"""The protocols between a run and an executor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from nas_attn.records import Outcome, Task

if TYPE_CHECKING:
    from nas_attn.executors.interrupts import Interrupts
    from nas_attn.executors.resources import Allocation
    from nas_attn.training.context import TrialContext

RESUMABLE = "Interrupted: the same command resumes the run."
"""Message of an interrupted run."""

INTERRUPTED = Outcome("fail", cause="interrupted", reason="The run was interrupted; this trial is run again.")


class Job(Protocol):
    """Hands out tasks and takes their results; called from one thread only."""

    def ask(self) -> Task | None:
        """Return the next task, or None while nothing can begin until a running task ends."""
        ...

    def report(self, task: Task, epoch: int, value: float) -> bool:
        """Record the value of one epoch; return whether the task must stop here."""
        ...

    def save(self, task: Task, content: bytes) -> None:
        """Store the checkpoint of a running task in place of an older one."""
        ...

    def show(self, task: Task, text: str) -> None:
        """Add to the log of a task what its training printed."""
        ...

    def note(self, sentence: str) -> None:
        """Record something that the user should know about the run, such as a node that is left out."""
        ...

    def finish(self, task: Task, outcome: Outcome) -> None:
        """Record the outcome of a task; every task is finished exactly once."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether nothing runs and nothing more will begin, or the job has stopped by an error."""
        ...


class Executor(Protocol):
    """Runs the tasks of a job: opened once, run once, closed once, all in the main thread.

    It is created from the run's resources. Everything that a task produces is returned in its outcome: workers need not
    share the driver's disk.
    """

    def check(self) -> None:
        """Refuse unavailable resources before anything is written; returns quickly. Raises: ConfigError."""
        ...

    def open(self, n_bytes: int = 0) -> None:
        """Start the workers, or connect to them.

        Args:
            n_bytes: Size of the images, which every worker reads.
        Raises: ConfigError if that fails.
        """
        ...

    @property
    def capacity(self) -> Allocation:
        """The resources of the tasks; known once the executor is open."""
        ...

    def run(self, job: Job, context: TrialContext, interrupts: Interrupts) -> None:
        """Run tasks until the job is finished.

        Raises: Interrupted after a signal, once every running task is finished as interrupted.
        """
        ...

    def close(self) -> None:
        """End the workers that `open` started; do nothing if it was not called or failed."""
        ...
