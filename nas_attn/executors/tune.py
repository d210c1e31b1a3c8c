"""Run a job's tasks in Ray Tune's workers: Tune places and supervises them, the job decides.

Import this after `ray_session` is entered: Ray and Tune read their settings at import.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import ActorDiedError, RayTaskError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from nas_attn.errors import Interrupted
from nas_attn.executors.base import INTERRUPTED, Job
from nas_attn.executors.interrupts import Interrupts
from nas_attn.executors.resources import Crew
from nas_attn.executors.worker import Worker
from nas_attn.records import Outcome, Task
from nas_attn.training.context import Setting


def run_tune(job: Job, setting: Setting, crew: Crew, interrupts: Interrupts) -> None:
    """Work until the job is finished; a Ray session must be open.

    Raises: Interrupted after a signal, once the running tasks are marked in the ledger.
    """
    if job.is_finished:
        return  # Tune would wait ten minutes for a first trial before it asks its stopper
    folder = tempfile.mkdtemp(prefix="nas_attn-tune-")
    desk = _Desk(job, interrupts)
    trainable = tune.with_resources(tune.with_parameters(Worker, setting=setting), {"cpu": crew.cpus, "gpu": crew.gpus})
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric="n_reports",
            mode="max",
            search_alg=_Asker(desk, crew.workers),
            scheduler=_Decider(desk),
            num_samples=-1,
            max_concurrent_trials=crew.workers,
            reuse_actors=True,
            trial_dirname_creator=_short_name,
            trial_name_creator=_short_name,
        ),
        run_config=tune.RunConfig(
            storage_path=folder,
            name="session",
            verbose=0,
            stop=_Stopper(desk),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    finally:
        desk.abandon()
        shutil.rmtree(folder, ignore_errors=True)
    if interrupts.pending:
        raise Interrupted("Interrupted: the same command goes on from here.")


class _Desk:
    """Which of Tune's trials works on which task.

    Tune writes its parts into its folder, which nothing ever reads: a desk leaves itself out.
    """

    def __init__(self, job: Job, interrupts: Interrupts) -> None:
        self.job, self.interrupts = job, interrupts
        self.tasks: dict[str, Task] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def ask(self, trial_id: str) -> Task | None:
        task = self.job.ask()
        if task is not None:
            self.tasks[trial_id] = task
        return task

    def finish(self, trial_id: str, outcome: Outcome) -> None:
        task = self.tasks.pop(trial_id, None)
        if task is not None:
            self.job.finish(task, outcome)

    def abandon(self) -> None:
        """Mark what still runs: Tune's own interrupt handling leaves it untold."""
        for trial_id in list(self.tasks):
            self.finish(trial_id, INTERRUPTED)


class _Asker(Searcher):
    """Gives Tune the job's tasks one by one."""

    def __init__(self, desk: _Desk, workers: int) -> None:
        super().__init__(metric="n_reports", mode="max")
        self._desk, self._workers = desk, workers

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the next task as a config, or None to wait; the stopper, not the searcher, ends the session."""
        if self._desk.job.is_finished or len(self._desk.tasks) >= self._workers:
            return None
        task = self._desk.ask(trial_id)
        return None if task is None else {"task": task}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take a trial that ended without an outcome: its worker died."""
        if error:
            reason = "The worker process died (killed from outside, out of memory, or a crash in native code)."
            self._desk.finish(trial_id, Outcome("fail", cause="crashed", reason=reason))

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the ledger is the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a run is resumed from the ledger, never from Tune's folder."""


class _Decider(FIFOScheduler):
    """Passes each report to the job, and ends a trial when the job says so or its outcome is there."""

    def __init__(self, desk: _Desk) -> None:
        super().__init__()
        self._desk = desk

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Return STOP at the end of a trial, else CONTINUE."""
        task = self._desk.tasks.get(trial.trial_id)
        if task is None:
            return str(TrialScheduler.STOP)
        for epoch, value in result["reports"]:
            if self._desk.job.report(task, epoch, value):
                self._desk.finish(trial.trial_id, Outcome("pruned", seconds=result["time_total_s"]))
                return str(TrialScheduler.STOP)
        if result["outcome"] is None:
            return str(TrialScheduler.CONTINUE)
        self._desk.finish(trial.trial_id, result["outcome"])
        return str(TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Take what a worker raised outside the training; one that died without a word is left to the searcher."""
        reason = _raised(trial)
        if reason is not None:
            self._desk.finish(trial.trial_id, Outcome("fail", cause="error", reason=reason))


class _Stopper(tune.Stopper):
    """Ends the session after a signal, or when the job has given up."""

    def __init__(self, desk: _Desk) -> None:
        self._desk = desk

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stop one trial: that is the scheduler's."""
        return False

    def stop_all(self) -> bool:
        """Whether the whole session ends now."""
        return self._desk.interrupts.pending or self._desk.job.is_finished


def _short_name(trial: Trial) -> str:
    return str(trial.trial_id)


def _raised(trial: Trial) -> str | None:
    """Return what ended a trial if its worker lives, or could not even be made; None if the worker died."""
    path = Path(trial.pickled_error_file or "")
    if not path.is_file():
        return None
    error = cloudpickle.loads(path.read_bytes())
    if not isinstance(error, RayTaskError) and not (isinstance(error, ActorDiedError) and error.actor_init_failed):
        return None
    last = str(error).strip().splitlines()[-1]
    return f"The worker could not begin the trial: {last.strip()}"
