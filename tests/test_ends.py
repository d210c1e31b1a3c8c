"""Every end of a custom training is an outcome with a reason, and what it reports is a number, or refused."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from runs import SETTINGS, tiny_space
from torch import nn

import nas_attn
from nas_attn.config import Recipe
from nas_attn.errors import MOST_LETTERS, in_plain_words
from nas_attn.placement import NONE, Shape
from nas_attn.records import Outcome, Stage, Task
from nas_attn.training.context import TrialContext
from nas_attn.training.ends import Stopped
from nas_attn.training.trial import Run, evaluate

BACKBONE = {"name": "densenet", "growth_rate": 4, "block_config": [1], "num_init_features": 4, "stem": "small"}
Training = Callable[[nn.Module, Run], Any]


def end_of(training: Training, stage: Stage = "search") -> tuple[Outcome, list[tuple[int, float]]]:
    """Run one trial with this training; return its outcome and its reports."""
    reports: list[tuple[int, float]] = []
    context = TrialContext(BACKBONE, Shape(2, 1, 8), Recipe(), train=training)
    task = Task(0, stage, NONE, seed=0, epochs=2)
    return evaluate(task, context, lambda epoch, value: reports.append((epoch, value))), reports


def returns(value: Any) -> Training:
    return lambda model, run: value


def raises(error: BaseException) -> Training:
    def training(model: nn.Module, run: Run) -> float:
        raise error

    return training


class WithoutMessage(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message for you")


@pytest.mark.parametrize(
    "value", [0.5, 1, np.float32(0.5), np.array([0.25]), np.int64(1), torch.tensor(0.5), torch.tensor([[0.5]])]
)
def test_numbers_of_python_numpy_and_torch_are_values(value):
    outcome, _ = end_of(returns(value))
    assert (outcome.state, outcome.value, type(outcome.value)) == ("complete", float(np.ravel(value)[0]), float)


@pytest.mark.parametrize(("value", "words"), [
    (None, "a NoneType"),
    ("0.5", "str '0.5'"),
    (True, "bool True"),
    (1j, "complex 1j"),
    ((0.5, 0.1), "a tuple"),
    ({0.5}, "a set"),
    (torch.tensor([0.5, 0.1]), "a Tensor"),
    (np.array(["0.5"]), "a ndarray"),
])  # fmt: skip
def test_anything_else_is_no_value_and_the_reason_says_what_it_is(value, words):
    outcome, _ = end_of(returns(value))
    assert (outcome.state, outcome.cause) == ("fail", "error")
    assert outcome.reason.startswith(
        f"TypeError: The value that the training returned must be one number, but is {words}."
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("-inf")])
def test_a_value_that_is_not_finite_diverged(value):
    assert end_of(returns(value))[0].cause == "nan"


class ExitsAtItsMessage(Exception):
    def __str__(self) -> str:
        raise SystemExit(4)


def test_an_error_whose_message_leaves_is_a_failed_trial():
    outcome, _ = end_of(raises(ExitsAtItsMessage()))
    assert (outcome.cause, outcome.reason.split(" (")[0]) == ("error", "ExitsAtItsMessage: its message cannot be shown")


@pytest.mark.parametrize(("value", "words"), [
    (10**400, "ValueError: The value that the training returned must lie in the range of a float, but is an int"),
    (torch.tensor(0.5, device="meta"), "TypeError: The value that the training returned must be one number, but a"),
])  # fmt: skip
def test_a_number_that_cannot_be_read_is_refused_in_a_sentence(value, words):
    outcome, _ = end_of(returns(value))
    assert (outcome.state, outcome.cause, outcome.reason[: len(words)]) == ("fail", "error", words)


def test_epochs_and_values_are_converted_before_they_are_recorded():
    def training(model: nn.Module, run: Run) -> float:
        run.report(np.int64(1), np.float32(0.5))
        run.report(torch.tensor(2), torch.tensor([0.75]))
        return 0.75

    outcome, reports = end_of(training)
    assert outcome.state == "complete"
    assert reports == [(1, 0.5), (2, 0.75)]
    assert all((type(epoch), type(value)) == (int, float) for epoch, value in reports)


@pytest.mark.parametrize(("report", "words"), [
    (("one", 0.5), "The epoch of a report must be a whole number, but is str 'one'."),
    ((0.5, 0.5), "The epoch of a report must be a whole number, but is float 0.5."),
    ((True, 0.5), "The epoch of a report must be a whole number, but is bool True."),
    ((None, 0.5), "The epoch of a report must be a whole number, but is a NoneType."),
    ((0, 0.5), "The epochs of reports are counted from 1, but got 0."),
    ((1, "x"), "The value reported for epoch 1 must be one number, but is str 'x'."),
    ((1, None), "The value reported for epoch 1 must be one number, but is a NoneType."),
])  # fmt: skip
def test_a_report_that_means_nothing_is_refused_where_it_is_made(report, words):
    def training(model: nn.Module, run: Run) -> float:
        run.report(*report)
        return 0.5

    outcome, reports = end_of(training)
    assert (outcome.state, outcome.cause, reports) == ("fail", "error", [])
    assert words in outcome.reason
    assert "test_ends.py" in outcome.reason, "the line of the training that reported it"


def test_an_epoch_beyond_the_schedule_is_refused_with_its_length():
    def training(model: nn.Module, run: Run) -> float:
        for epoch in range(1, 5):
            run.report(epoch, 0.5)
        return 0.5

    outcome, reports = end_of(training)
    assert [epoch for epoch, _ in reports] == [1, 2]
    assert "at most run.epochs = 2, but got 3: train run.epochs epochs, or state --epochs" in outcome.reason


@pytest.mark.parametrize(("error", "words"), [
    (SystemExit(3), "SystemExit: 3"),
    (SystemExit("argparse: error: unknown argument"), "SystemExit: argparse: error: unknown argument"),
    (GeneratorExit(), "GeneratorExit: no message"),
    (BaseException("x"), "BaseException: x"),
    (StopIteration(), "StopIteration: no message"),
    (ValueError("first line\nsecond: the real cause"), "ValueError: first line second: the real cause"),
    (WithoutMessage(), "WithoutMessage: its message cannot be shown"),
    (ValueError("\ud800 \x1b[31m"), "ValueError: ? ?[31m"),
])  # fmt: skip
def test_whatever_a_training_raises_is_a_failure_with_its_place_and_traceback(error, words):
    outcome, _ = end_of(raises(error))
    assert (outcome.state, outcome.cause) == ("fail", "error")
    assert outcome.reason.startswith(words)
    assert "(test_ends.py:" in outcome.reason
    assert "in training" in outcome.trace


def test_out_of_memory_keeps_its_cause():
    assert end_of(raises(torch.OutOfMemoryError("CUDA out of memory")))[0].cause == "oom"


def test_the_place_is_the_users_line_and_not_that_of_a_library():
    def training(model: nn.Module, run: Run) -> float:
        return float(nn.Linear(3, 2)(torch.zeros(1, 4)).sum())

    outcome, _ = end_of(training)
    assert f"(test_ends.py:{training.__code__.co_firstlineno + 1})" in outcome.reason
    assert "linear.py" in outcome.trace


def test_a_long_message_is_cut_in_the_reason_and_whole_in_the_traceback():
    outcome, _ = end_of(raises(ValueError("x" * 500_000)))
    assert len(outcome.reason) < MOST_LETTERS + 60
    assert "x" * 500_000 in outcome.trace
    assert in_plain_words("y" * MOST_LETTERS) == "y" * MOST_LETTERS


def test_optunas_prune_stops_a_search_trial_and_fails_a_retraining():
    assert end_of(raises(optuna.TrialPruned()))[0].state == "pruned"
    outcome, _ = end_of(raises(optuna.TrialPruned()), "retrain")
    assert (outcome.state, outcome.cause) == ("fail", "error")
    assert outcome.reason.startswith("TrialPruned: it ends trials of the search alone, and in the other stages a ")


def test_what_a_training_changes_in_a_worker_does_not_reach_the_next_one(tmp_path: Path) -> None:
    from nas_attn.executors.worker import _Training

    resource = pytest.importorskip("resource")

    def state() -> list[object]:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        return [os.getcwd(), os.environ.get("OF_A_TRAINING"), [*sys.path], sys.excepthook, limits]

    def careless(model: nn.Module, run: Run) -> float:
        os.chdir(tmp_path)
        os.environ["OF_A_TRAINING"] = "1"
        sys.path.insert(0, "/of-a-training")
        sys.excepthook = print
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, most))
        return 0.5

    before = state()
    context = TrialContext(BACKBONE, Shape(2, 1, 8), Recipe(), train=careless, n_threads=torch.get_num_threads())
    training = _Training(Task(0, "search", NONE, seed=0, epochs=2), context, None)
    outcome = None
    while not isinstance(outcome, Outcome):
        *_, outcome = [None, *training.messages()]
    assert outcome.state == "complete"
    assert state() == before


def test_a_stop_passes_through_a_training_that_catches_exceptions():
    def training(model: nn.Module, run: Run) -> float:
        with suppress(Exception):
            run.report(1, 0.5)
        return 0.5

    def stop(epoch: int, value: float) -> None:
        raise Stopped

    context = TrialContext(BACKBONE, Shape(2, 1, 8), Recipe(), train=training)
    assert evaluate(Task(0, "search", NONE, seed=0, epochs=2), context, stop).state == "pruned"


def test_an_interrupt_in_a_worker_is_the_trainings_own_and_in_the_main_thread_perhaps_not():
    with pytest.raises(KeyboardInterrupt):
        end_of(raises(KeyboardInterrupt()))
    ends: list[Outcome] = []
    worker = threading.Thread(target=lambda: ends.append(end_of(raises(KeyboardInterrupt()))[0]))
    worker.start()
    worker.join()
    assert ends[0].reason.startswith("KeyboardInterrupt: no message")


@pytest.mark.parametrize("executor", ["local", pytest.param("tune", marks=pytest.mark.nightly)])
def test_a_training_that_leaves_is_a_failed_trial_under_both_executors(executor, tmp_path: Path):
    def leaves(model: nn.Module, run: Run) -> float:
        run.report(1, 0.5)
        placed = str(model.placement) if run.stage == "search" else ""
        if placed.endswith("reduction=4) at denseblock2"):
            sys.exit("argparse: error: unknown argument")
        if "kernel_size=7" in placed and len(model.placement) == 2:
            raise KeyboardInterrupt
        return 0.5

    settings = {**SETTINGS, "trials": 4, "epochs": 1, "seeds": 1, "controls": 0, "executor": executor}
    shape = {"num_classes": 10, "in_channels": 1, "image_size": 8}
    run = nas_attn.search(tiny_space(tmp_path), train=leaves, out=tmp_path / "run", **settings, **shape)
    reasons = {(row.reason or "").partition(" (")[0] for row in run.search if row.state == "fail"}
    assert reasons == {"SystemExit: argparse: error: unknown argument", "KeyboardInterrupt: no message"}
    assert all(row.state == "complete" for row in run.retrain)
    log = (run.folder / "log.txt").read_text()
    assert "Traceback (most recent call last)" in log
    assert "in leaves" in log
