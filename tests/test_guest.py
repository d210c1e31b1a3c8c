"""A search leaves the process of its caller as it was, however it ends; callbacks and notebooks."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
import pytest
import torch
from own_runs import no_report, run

from nas_attn import load_run
from nas_attn.callbacks import Callback, TensorBoard
from nas_attn.errors import ConfigError, Interrupted, RunStopped
from nas_attn.executors.modules import pickled
from nas_attn.user_code.process_state import left_as_it_was

pytestmark = pytest.mark.usefixtures("no_report")
__all__ = ["no_report"]


def fit(model: object, run: object) -> float:
    run.report(1, 0.25)
    return 0.5


def failing(model: object, run: object) -> float:
    raise ValueError("no")


def interrupting(model: object, run: object) -> float:
    signal.raise_signal(signal.SIGINT)
    return 0.5


def careless(model: object, run: object) -> float:
    os.chdir("/")
    os.environ["OF_A_TRAINING"] = "1"
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("error", FutureWarning)
    sys.path.insert(0, "/of-a-training")
    random.seed(0)
    np.random.seed(0)
    matplotlib.rcParams["lines.linewidth"] = 9
    return 0.5


def state() -> dict[str, Any]:
    """Return what the rest of a process relies on."""
    loggers = {name: logging.getLogger(name) for name in ("", "ray", "optuna", "nas_attn", "alembic")}
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": [*sys.path],
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "hooks": (sys.excepthook, threading.excepthook, sys.getrecursionlimit()),
        "loggers": {name: (one.level, [*one.handlers], one.propagate) for name, one in loggers.items()},
        "disabled": logging.root.manager.disable,
        "filters": [*warnings.filters],
        "optuna": optuna.logging.get_verbosity(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),
        "random": random.getstate(),
        "modes": (torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "matplotlib": dict.copy(matplotlib.rcParams),
    }


@pytest.mark.parametrize(
    ("training", "error"), [(fit, None), (careless, None), (failing, RunStopped), (interrupting, Interrupted)]
)
def test_a_search_leaves_the_process_as_it_was(tmp_path: Path, training: object, error: type[Exception] | None) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    before = state()
    if error is None:
        assert run(training, tmp_path / "run", trials=5).best is not None
    else:
        with pytest.raises(error):
            run(training, tmp_path / "run", trials=9)
    after = state()
    assert {name for name in before if before[name] != after[name]} == set()


@pytest.mark.nightly
@pytest.mark.parametrize(("training", "error"), [(fit, None), (failing, RunStopped)])
def test_a_search_by_ray_leaves_it_too(tmp_path: Path, training: object, error: type[Exception] | None) -> None:
    import ray

    run(fit, tmp_path / "first", executor="tune", workers=1)
    before = state()
    if error is None:
        run(training, tmp_path / "run", executor="tune", workers=1)
    else:
        with pytest.raises(error):
            run(training, tmp_path / "run", trials=9, executor="tune", workers=1)
    after = state()
    assert {name for name in before if before[name] != after[name]} == set()
    assert not ray.is_initialized()


def test_a_relative_folder_is_that_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(careless, Path("here")).folder == tmp_path / "here"
    assert (tmp_path / "here" / "best.json").is_file()


def test_a_search_works_in_a_thread_and_in_an_event_loop(tmp_path: Path) -> None:
    async def searched() -> object:
        return run(fit, tmp_path / "loop").best

    assert asyncio.run(searched()) is not None
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(run(fit, tmp_path / "thread").best))
    thread.start()
    thread.join()
    assert found != [None]


def test_searches_in_two_threads_of_a_process_wait_for_each_other() -> None:
    first, begun, order = threading.Event(), threading.Event(), []

    def search(name: str) -> None:
        if name == "second":
            assert begun.wait(10)
        with left_as_it_was(), left_as_it_was():  # one inside a training of the other has its turn
            order.append(f"{name} begins")
            begun.set()
            os.environ["RAY_OF_A_SEARCH"] = name
            assert first.wait(10)
            order.append(f"{name} ends")

    def both() -> None:
        threads = [threading.Thread(target=search, args=(name,)) for name in ("first", "second")]
        for thread in threads:
            thread.start()
        threading.Timer(0.2, first.set).start()
        for thread in threads:
            thread.join(10)

    with pytest.warns(RuntimeWarning, match=r"Another search runs in this process: this one waits for its end\."):
        both()
    assert order == ["first begins", "first ends", "second begins", "second ends"]
    assert "RAY_OF_A_SEARCH" not in os.environ


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_forked_during_a_search_may_search() -> None:
    held, ended = threading.Event(), threading.Event()

    def search() -> None:
        with left_as_it_was():
            held.set()
            ended.wait(20)

    thread = threading.Thread(target=search)
    thread.start()
    assert held.wait(10)
    child = multiprocessing.get_context("fork").Process(target=_enter)
    child.start()
    child.join(10)
    ended.set()
    thread.join()
    assert child.exitcode == 0


def _enter() -> None:
    with left_as_it_was():
        pass


def _search(out: str) -> None:
    run(fit, Path(out))


@pytest.mark.nightly
def test_a_search_works_in_a_daemonic_child(tmp_path: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_search, args=(str(tmp_path / "run"),), daemon=True)
    child.start()
    child.join(120)
    assert child.exitcode == 0
    assert load_run(tmp_path / "run").best is not None


def test_a_function_of_a_module_that_workers_cannot_import_is_sent_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import cloudpickle

    file = tmp_path / "loaded_by_its_path.py"
    file.write_text("FACTOR = 2\n\nclass Helper:\n    value = 3\n\ndef training():\n    return FACTOR * Helper.value\n")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, file.stem, module)
    spec.loader.exec_module(module)
    content, own = pickled(module.training), pickled(fit)
    assert cloudpickle.list_registry_pickle_by_value() == set()
    assert cloudpickle.loads(own) is fit, "what workers can import is sent by its name"
    monkeypatch.delitem(sys.modules, file.stem)
    assert cloudpickle.loads(content)() == 6


def test_workers_import_from_relative_folders_of_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas_attn.executors.ray_session import _importable

    (tmp_path / "of-a-notebook").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("./of-a-notebook")
    with _importable():
        assert str(tmp_path / "of-a-notebook") in os.environ["PYTHONPATH"].split(os.pathsep)


class Recorder(Callback):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_run_begin(self, folder: Path, config: object) -> None:
        self.calls.append("begin")

    def on_trial_end(self, record: object) -> None:
        self.calls.append(record.stage)
        raise RuntimeError("of the callback")

    def on_run_end(self, run: object) -> None:
        self.calls.append("end")

    def close(self) -> None:
        self.calls.append("close")


def test_a_callback_is_told_of_everything_and_cannot_end_the_search(tmp_path: Path) -> None:
    recorder, rows = Recorder(), []
    record = run(fit, tmp_path / "run", callbacks=[recorder, rows.append])
    trained = [*record.search, *record.confirm, *record.retrain]
    assert recorder.calls[0] == "begin"
    assert recorder.calls[-2:] == ["end", "close"]
    assert len(rows) == len(recorder.calls) - 3 == len(trained)
    assert "RuntimeError: of the callback" in (tmp_path / "run" / "log.txt").read_text()


def test_a_callback_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"A callback is a function .* but got int"):
        run(fit, tmp_path / "run", callbacks=[3])
    with pytest.raises(ConfigError, match=r"Unknown factory 'TensorBord' in module 'nas_attn.callbacks': did you mean"):
        run(fit, tmp_path / "run", callback=["nas_attn.callbacks:TensorBord"])
    assert not (tmp_path / "run").exists()


def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record = run(fit, tmp_path / "run", callbacks=[TensorBoard()])
        values = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "values")).Reload()
        curve = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "search-00000")).Reload()
    assert [event.value for event in values.Scalars("search")] == [row.value for row in record.search]
    assert [(event.step, event.value) for event in curve.Scalars("validation")] == [(1, 0.25)]


def test_a_run_shows_itself_in_one_screen_whatever_its_names_hold(tmp_path: Path) -> None:
    from dataclasses import replace

    record = run(fit, tmp_path / "run")
    assert str(tmp_path / "run") in repr(record)
    assert "se everywhere" in repr(record)
    assert len(repr(record).splitlines()) < 25
    rows = tuple(replace(row, label="<script>\x1b[31m\ud800") if row.label == "none" else row for row in record.retrain)
    hostile = replace(record, retrain=rows)
    for shown in (repr(hostile), hostile._repr_html_()):
        assert "\x1b" not in shown
        shown.encode()
    assert "<script>" not in hostile._repr_html_()
    assert "&lt;script&gt;" in hostile._repr_html_()
