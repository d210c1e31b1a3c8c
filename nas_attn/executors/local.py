"""Run a job's tasks in this process, one after the other: for debugging, tests, and where there is no Ray."""

from __future__ import annotations

from collections.abc import Callable

import torch

from nas_attn.config import Resources, n_cores
from nas_attn.errors import ConfigError, Interrupted
from nas_attn.executors.base import INTERRUPTED, Job
from nas_attn.executors.interrupts import Interrupts
from nas_attn.executors.resources import Crew, share_out
from nas_attn.records import Task
from nas_attn.training.context import Setting
from nas_attn.training.trial import Stopped, evaluate, prepare


def crew_here(resources: Resources) -> Crew:
    """Share out this machine. Raises: ConfigError if a trial asks for what is not there."""
    if resources.device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device mps needs a Mac whose GPU torch can use, but none was found: use --device cpu.")
    return share_out(resources, n_cores=n_cores(), n_gpus=torch.cuda.device_count())


def run_local(job: Job, setting: Setting, interrupts: Interrupts) -> None:
    """Work until the job is finished.

    Raises: Interrupted after a signal, once the running task is marked in the ledger.
    """
    prepare(setting)
    while (task := job.ask()) is not None:
        try:
            with interrupts.abruptly():
                outcome = evaluate(task, setting, _reporter(job, task, interrupts))
        except KeyboardInterrupt:
            job.finish(task, INTERRUPTED)
            raise Interrupted("Interrupted: the same command goes on from here.") from None
        job.finish(task, outcome)


def _reporter(job: Job, task: Task, interrupts: Interrupts) -> Callable[[int, float], None]:
    def report(epoch: int, value: float) -> None:
        with interrupts.gently():
            stop = job.report(task, epoch, value)
        if stop:
            raise Stopped

    return report
