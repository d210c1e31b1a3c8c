"""One session of Ray Tune: Tune schedules and supervises the trials; the job decides what runs and what stops.

Import this only inside `ray_session`: Ray and Tune read their environment variables at import.
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
from nas_attn.executors.base import INTERRUPTED, RESUMABLE, Job
from nas_attn.executors.interrupts import Interrupts
from nas_attn.executors.resources import Allocation
from nas_attn.executors.worker import Worker
from nas_attn.records import Outcome, Task
from nas_attn.training.context import TrialContext


def run_tune(job: Job, context: TrialContext, capacity: Allocation, interrupts: Interrupts) -> None:
    """Run tasks until the job is finished; a Ray session must be open.

    Raises: Interrupted after a signal, once every running task is finished as interrupted.
    """
    if job.is_finished:
        return  # Tune would wait ten minutes for a first trial before it calls its stopper
    folder = tempfile.mkdtemp(prefix="nas_attn-tune-")
    session = _Session(job, interrupts)
    trainable = tune.with_resources(
        tune.with_parameters(Worker, context=context), {"cpu": capacity.cpus, "gpu": capacity.gpus}
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric="n_reports",
            mode="max",
            search_alg=_Asker(session, capacity.workers),
            scheduler=_Decider(session),
            num_samples=-1,
            max_concurrent_trials=capacity.workers,
            reuse_actors=True,
            trial_dirname_creator=_short_name,
            trial_name_creator=_short_name,
        ),
        run_config=tune.RunConfig(
            storage_path=folder,
            name="session",
            verbose=0,
            stop=_Stopper(session),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    finally:
        session.abandon()
        shutil.rmtree(folder, ignore_errors=True)
    if interrupts.pending:
        raise Interrupted(RESUMABLE)


class _Session:
    """Maps Tune's trials to tasks.

    Tune pickles its searcher and scheduler; nothing reads that file, so this object pickles as empty.
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
        """Finish the running tasks as interrupted; Tune does not report running trials when it is interrupted."""
        for trial_id in list(self.tasks):
            self.finish(trial_id, INTERRUPTED)


class _Asker(Searcher):
    """Tune's searcher: suggests the job's tasks one by one."""

    def __init__(self, session: _Session, workers: int) -> None:
        super().__init__(metric="n_reports", mode="max")
        self._session, self._workers = session, workers

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the next task as a config, or None to wait; the stopper ends the session, not the searcher."""
        if self._session.job.is_finished or len(self._session.tasks) >= self._workers:
            return None
        task = self._session.ask(trial_id)
        return None if task is None else {"task": task}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Finish a trial without an outcome, whose worker died."""
        if error:
            reason = "The worker process died (killed from outside, out of memory, or a crash in native code)."
            self._session.finish(trial_id, Outcome("fail", cause="crashed", reason=reason))

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger is the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a run resumes from the ledger, never from Tune's folder."""


class _Decider(FIFOScheduler):
    """Tune's scheduler: passes each report to the job, and ends a trial when the job stops it or it has an outcome."""

    def __init__(self, session: _Session) -> None:
        super().__init__()
        self._session = session

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Return STOP at the end of a trial, else CONTINUE."""
        task = self._session.tasks.get(trial.trial_id)
        if task is None:
            return str(TrialScheduler.STOP)
        for epoch, value in result["reports"]:
            if self._session.job.report(task, epoch, value):
                self._session.finish(trial.trial_id, Outcome("pruned", seconds=result["time_total_s"]))
                return str(TrialScheduler.STOP)
        if result["outcome"] is None:
            return str(TrialScheduler.CONTINUE)
        outcome = result.pop(
            "outcome"
        )  # Tune stores the last result of each trial, which must not contain the artifacts
        self._session.finish(trial.trial_id, outcome)
        return str(TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Finish a trial whose worker raised an error outside the training; the searcher handles a dead worker."""
        reason = _raised(trial)
        if reason is not None:
            self._session.finish(trial.trial_id, Outcome("fail", cause="error", reason=reason))


class _Stopper(tune.Stopper):
    """Ends the session after a signal, or when the job is finished."""

    def __init__(self, session: _Session) -> None:
        self._session = session

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stop a single trial: the scheduler does."""
        return False

    def stop_all(self) -> bool:
        """Return whether the session ends now."""
        return self._session.interrupts.pending or self._session.job.is_finished


def _short_name(trial: Trial) -> str:
    return str(trial.trial_id)


def _raised(trial: Trial) -> str | None:
    """Return the error of a trial whose worker is alive or was not created; None if the worker died."""
    path = Path(trial.pickled_error_file or "")
    if not path.is_file():
        return None
    error = cloudpickle.loads(path.read_bytes())
    if not isinstance(error, RayTaskError) and not (isinstance(error, ActorDiedError) and error.actor_init_failed):
        return None
    last = str(error).strip().splitlines()[-1]
    return f"The worker could not begin the trial: {last.strip()}"
