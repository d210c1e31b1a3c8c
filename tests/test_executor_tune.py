"""Ray Tune as an executor, without a cluster: a finished job, a worker that could not start, a worker that died."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayTaskError

from nas_attn.executors import ray_session
from nas_attn.executors.interrupts import Interrupts
from nas_attn.executors.nodes import Nodes
from nas_attn.executors.resources import Allocation
from nas_attn.executors.shipping import Shipped
from nas_attn.executors.tune_session import _raised, run_tune
from nas_attn.executors.watchdog import of_session
from nas_attn.records import Outcome, Task


@dataclass
class FailedTrial:
    pickled_error_file: str | None


def failed(folder: Path, error: Exception) -> FailedTrial:
    path = folder / "error.pkl"
    path.write_bytes(cloudpickle.dumps(error))
    return FailedTrial(str(path))


@pytest.fixture
def task_error() -> RayTaskError:
    return RayTaskError("setup", "Traceback ...\nModuleNotFoundError: No module named 'mine'", KeyError("mine"))


def test_a_worker_that_cannot_be_created_has_a_reason(tmp_path: Path, task_error: RayTaskError) -> None:
    sentence = "The worker could not begin the trial: ModuleNotFoundError: No module named 'mine'"
    assert _raised(failed(tmp_path, ActorDiedError(task_error))) == sentence
    assert _raised(failed(tmp_path, task_error)) == sentence


def test_a_worker_that_died_has_no_reason_and_its_trial_is_run_again(tmp_path: Path) -> None:
    assert _raised(failed(tmp_path, ActorDiedError())) is None
    assert _raised(FailedTrial(None)) is None
    assert _raised(FailedTrial(str(tmp_path / "never-written.pkl"))) is None


class FinishedJob:
    """All trials are finished; only the export was interrupted."""

    is_finished = True

    def ask(self) -> Task | None:
        raise AssertionError("a finished job is not asked")

    def report(self, task: Task, epoch: int, value: float) -> bool:
        raise AssertionError("a finished job gets no reports")

    def finish(self, task: Task, outcome: Outcome) -> None:
        raise AssertionError("a finished job gets no results")


def test_finished_job_does_not_wait_for_tune(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas_attn.executors.tune_session.tune.Tuner", None)
    run_tune(FinishedJob(), Shipped(b""), None, Nodes(Allocation(1, 1, 0.0, "cpu"), is_elastic=False), Interrupts())


SESSION = "--session-dir=/tmp/ray/session_2026-11-21_11-33-09_038594_26834"


@pytest.mark.parametrize(
    ("words", "is_ours"),
    [
        (["/ray/core/src/ray/raylet/raylet", SESSION], True),
        (["python", "-u", "/ray/_private/log_monitor.py", f"{SESSION}/logs"], True),
        (["/ray/core/src/ray/raylet/raylet", SESSION.replace("26834", "126834")], False),
        (["tail", "-f", SESSION], False),
        (["python", "train.py"], False),
    ],
)
def test_watchdog_knows_a_sessions_own_processes(words: list[str], is_ours: bool) -> None:
    assert of_session(words, 26834) is is_ours


def test_no_garbage_is_collected_while_ray_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr("ray.shutdown", lambda: seen.append(gc.isenabled()))
    ray_session._shut_down()
    assert seen == [False]
    assert gc.isenabled()
