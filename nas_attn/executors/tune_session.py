"""One session of Ray Tune: Tune schedules and supervises the trials; the job decides what runs and what stops.

Import this only inside `ray_session`: Ray and Tune read their environment variables at import.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.exceptions import ActorDiedError, RayTaskError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from nas_attn.errors import Interrupted, RunStopped
from nas_attn.executors.base import INTERRUPTED, RESUMABLE, Job
from nas_attn.executors.heartbeat import Heartbeats
from nas_attn.executors.interrupts import Interrupts
from nas_attn.executors.loss import Loss
from nas_attn.executors.messages import Message, Printed, Reported, Saved
from nas_attn.executors.nodes import Nodes
from nas_attn.executors.shipping import Shipped
from nas_attn.executors.temporary import temporary_folder
from nas_attn.executors.worker import Worker
from nas_attn.records import Outcome, Task
from nas_attn.training.time_limit import silent

log = logging.getLogger(__name__)

_UNSAVED_SECONDS = 5.0
"""Time that an interrupt waits for the newest state of the running trainings."""


def run_tune(job: Job, shipped: Shipped, timeout: float | None, nodes: Nodes, interrupts: Interrupts) -> None:
    """Run tasks until the job is finished; a Ray session must be open.

    Args:
        shipped: What every worker gets.
        timeout: Longest time of one training in seconds; None has no limit.
    Raises: Interrupted after a signal, once every running task is finished as interrupted.
    """
    if job.is_finished:
        return  # Tune would wait ten minutes for a first trial before it calls its stopper
    session = _Session(job, interrupts, Heartbeats(timeout), nodes)
    try:
        with temporary_folder("tune") as folder:
            _tuner(session, shipped, folder).fit()
    except Exception as error:  # of Tune and Ray, whose processes may have ended
        if not session.loss.look():
            raise
        raise RunStopped(session.loss.in_words) from error
    finally:
        session.abandon()
    if interrupts.pending:
        raise Interrupted(RESUMABLE)
    if session.loss.reason is not None:
        raise RunStopped(session.loss.in_words)


def _tuner(session: _Session, shipped: Shipped, folder: Path) -> tune.Tuner:
    """Return Tune's session over the tasks of a job."""
    nodes = session.nodes
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(Worker, shipped=shipped), nodes.request),
        tune_config=tune.TuneConfig(
            metric="n_reports",
            mode="max",
            search_alg=_Asker(session),
            scheduler=_Decider(session),
            num_samples=-1,
            max_concurrent_trials=nodes.most,
            reuse_actors=True,
            trial_dirname_creator=_short_name,
            trial_name_creator=_short_name,
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            name="session",
            verbose=0,
            stop=_Stopper(session),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )


class _Session:
    """Maps Tune's trials to tasks.

    Tune pickles its searcher and scheduler; nothing reads that file, so this object pickles as empty.
    """

    def __init__(self, job: Job, interrupts: Interrupts, heartbeats: Heartbeats, nodes: Nodes) -> None:
        self.job, self.interrupts, self.heartbeats, self.nodes = job, interrupts, heartbeats, nodes
        self.loss = Loss()
        self._node_of: dict[str, str] = {}
        self.ended_workers: list[Trial] = []
        self.tasks: dict[str, Task] = {}
        self.trials: dict[str, Trial] = {}
        self._refused: deque[Task] = deque()
        self._has_saved = False

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def ask(self, trial_id: str) -> Task | None:
        task = self._refused.popleft() if self._refused else self.job.ask()
        if task is not None:
            self.tasks[trial_id] = task
        return task

    def take(self, trial: Trial, message: Message, seconds: float) -> bool:
        """Pass a message to the job; return whether the trial has ended, after this time."""
        task = self.tasks[trial.trial_id]
        if isinstance(message, Reported):
            if not self.job.report(task, message.epoch, message.value):
                return False
            message = Outcome(
                "pruned", seconds=trial.last_result.get("time_total_s", 0.0) if trial.last_result else 0.0
            )
        if isinstance(message, Saved):
            self.job.save(task, message.content)
            if self.nodes.are_several:  # another node may have to continue there
                self.tasks[trial.trial_id] = replace(task, checkpoint=message.content)
        elif isinstance(message, Printed):
            self.job.show(task, message.text)
        elif self.nodes.excuses(self._node_of.get(trial.trial_id), message):
            self.refuse(trial)
            self.ended_workers.append(trial)
        else:
            self._end(trial.trial_id, message)
        self.tell()
        return isinstance(message, Outcome)

    def _end(self, trial_id: str, outcome: Outcome) -> None:
        """Finish a task, after its node has been given credit for the end."""
        node = self._node_of.pop(trial_id, None)
        if outcome.state != "fail":
            self.nodes.succeed(node)
        self.finish(trial_id, outcome)

    def hear(self, trial: Trial, result: dict[str, Any]) -> None:
        """Take a result as a sign of life of a worker on a node."""
        self.heartbeats.hear(trial, result)
        if trial.trial_id not in self._node_of and self.nodes.are_several:
            task = self.tasks[trial.trial_id]
            log.info("%s %d runs on node %s", task.stage, task.number, self.nodes.name(result["node"]))
        self._node_of[trial.trial_id] = result["node"]
        self.nodes.use(result["node"])

    def bury(self, trial_id: str, outcome: Outcome) -> None:
        """Finish the task of a worker that died; if it may be its node's fault, another node runs the task."""
        node = self._node_of.pop(trial_id, None)
        task = self.tasks.get(trial_id)
        if task is not None and (self.nodes.is_lost(node) or self.nodes.excuses(node, outcome)):
            self._refused.append(self.tasks.pop(trial_id))
            self.trials.pop(trial_id, None)
        else:
            self.finish(trial_id, outcome)
        self.tell()

    def tell(self) -> None:
        """Pass on what the user should know about the nodes."""
        for sentence in self.nodes.news():
            self.job.note(sentence)

    def finish(self, trial_id: str, outcome: Outcome) -> None:
        task = self.tasks.pop(trial_id, None)
        trial = self.trials.pop(trial_id, None)
        if trial is not None:
            self.heartbeats.forget(trial)
        if task is not None:
            is_lost = outcome.cause in ("crashed", "error") and self.loss.look()
            self.job.finish(task, INTERRUPTED if is_lost else outcome)

    def refuse(self, trial: Trial) -> None:
        """Give the task of a trial whose worker cannot run it to the next trial, and end that worker."""
        task = self.tasks.pop(trial.trial_id, None)
        if task is not None:
            self._refused.append(task)
        self.trials.pop(trial.trial_id, None)
        self._node_of.pop(trial.trial_id, None)
        self.heartbeats.forget(trial)
        self.heartbeats.end_worker(trial)

    def end_silent(self) -> None:
        """End the workers that gave no sign of life for too long; their trials have timed out."""
        for trial, seconds in self.heartbeats.silent(list(self.trials.values())):
            self.finish(trial.trial_id, silent(seconds))
            self.heartbeats.end_worker(trial)

    def save_unsaved(self) -> None:
        """Store the newest state of the running trainings, once, before an interrupt ends their workers."""
        if self._has_saved:
            return
        self._has_saved = True
        asked: dict[Any, Task] = {
            trial.temporary_state.ray_actor.unsaved.remote(): self.tasks[name]
            for name, trial in self.trials.items()
            if name in self.tasks and trial.status == Trial.RUNNING and trial.temporary_state.ray_actor is not None
        }
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_UNSAVED_SECONDS) if asked else ([], [])
        for answer in ready:
            try:
                content = ray.get(answer)
            except ray.exceptions.RayError:  # its worker has died; an older checkpoint is kept
                continue
            if content is not None:
                self.job.save(asked[answer], content)

    def abandon(self) -> None:
        """Finish the running tasks as interrupted; Tune does not report running trials when it is interrupted."""
        for trial_id in list(self.tasks):
            self.finish(trial_id, INTERRUPTED)
        while self._refused:
            self.job.finish(self._refused.popleft(), INTERRUPTED)


class _Asker(Searcher):
    """Tune's searcher: suggests the job's tasks one by one."""

    def __init__(self, session: _Session) -> None:
        super().__init__(metric="n_reports", mode="max")
        self._session = session

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the next task as a config, or None to wait; the stopper ends the session, not the searcher."""
        if (
            self._session.loss
            or self._session.job.is_finished
            or len(self._session.tasks) >= self._session.nodes.n_places
        ):
            return None
        task = self._session.ask(trial_id)
        if task is None:
            return None
        content = None if task.checkpoint is None else ray.put(task.checkpoint)
        avoided = self._session.nodes.avoided
        return {"task": replace(task, checkpoint=None), "checkpoint": content, "avoided": avoided}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Finish a trial without an outcome, whose worker died."""
        if error:
            reason = "The worker process died (killed from outside, out of memory, or a crash in native code)."
            self._session.bury(trial_id, Outcome("fail", cause="crashed", reason=reason))

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger is the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a run resumes from the ledger, never from Tune's folder."""


class _Decider(FIFOScheduler):
    """Tune's scheduler: passes each report to the job, and ends a trial when the job stops it or it has an outcome."""

    def __init__(self, session: _Session) -> None:
        super().__init__()
        self._session = session

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Know the trial, whose worker may fall silent."""
        super().on_trial_add(tune_controller, trial)
        self._session.trials[trial.trial_id] = trial

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Return STOP at the end of a trial, else CONTINUE."""
        session = self._session
        if trial.trial_id not in session.tasks:
            return str(TrialScheduler.STOP)
        session.hear(trial, result)
        if result["refused"]:
            session.refuse(trial)
            return str(TrialScheduler.CONTINUE)  # until Tune notices the death of its worker
        messages = result.pop("messages")  # Tune stores the last result of each trial, which must stay small
        trial.config["checkpoint"] = None
        for message in messages:
            if session.take(trial, message, result["time_total_s"]):
                return self._end_of(trial, message)
        return str(TrialScheduler.CONTINUE)

    def _end_of(self, trial: Trial, message: Message) -> str:
        """Return STOP; a worker whose training still runs, or whose node is at fault, is not used again."""
        if trial in self._session.ended_workers:
            self._session.ended_workers.remove(trial)
            return str(TrialScheduler.CONTINUE)  # until Tune notices the death of its worker
        if isinstance(message, Outcome) and message.cause == "timeout":
            self._session.heartbeats.end_worker(trial)
            return str(TrialScheduler.CONTINUE)
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
        """Return whether the session ends now; Tune asks several times per second."""
        if self._session.interrupts.pending:
            self._session.save_unsaved()
            return True
        self._session.end_silent()
        if self._session.loss:
            self._session.abandon()
            self._session.loss.leave()
            return True
        return self._session.job.is_finished


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
