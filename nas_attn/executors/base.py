"""What an executor and a job promise each other."""

from __future__ import annotations

from typing import Protocol

from nas_attn.records import Outcome, Task

INTERRUPTED = Outcome("fail", cause="interrupted", reason="The run was interrupted; this trial is run again.")


class Job(Protocol):
    """Hands out tasks and takes their results; called from one thread only."""

    def ask(self) -> Task | None:
        """Return the next task, or None while nothing can begin until a running task ends."""
        ...

    def report(self, task: Task, epoch: int, value: float) -> bool:
        """Take one epoch's value; return whether the task shall stop here."""
        ...

    def finish(self, task: Task, outcome: Outcome) -> None:
        """Take how a task ended; every task that was asked for is finished exactly once."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether nothing runs and nothing more will begin, or the job has given up."""
        ...
