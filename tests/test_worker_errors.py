"""What the driver says of a worker that could not begin its trial, and of one that died."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayTaskError

from nas_attn.executors.tune import _raised


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


def test_worker_that_cannot_be_made_says_why(tmp_path: Path, task_error: RayTaskError) -> None:
    sentence = "The worker could not begin the trial: ModuleNotFoundError: No module named 'mine'"
    assert _raised(failed(tmp_path, ActorDiedError(task_error))) == sentence
    assert _raised(failed(tmp_path, task_error)) == sentence


def test_worker_that_died_is_left_to_be_begun_again(tmp_path: Path) -> None:
    assert _raised(failed(tmp_path, ActorDiedError())) is None
    assert _raised(FailedTrial(None)) is None
    assert _raised(FailedTrial(str(tmp_path / "never-written.pkl"))) is None
