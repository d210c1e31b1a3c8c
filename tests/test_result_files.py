"""The files of a result: figures are drawn once, imports are made beforehand, and an interrupt leaves no gap."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from conftest import RunCommand
from runs import SETTINGS, check_finished, tiny_space
from synthetic_run import make_run

from nas_attn.errors import Interrupted
from nas_attn.records import Attempt, Bench
from nas_attn.report.figures import draw_charts
from nas_attn.report.page import render
from nas_attn.run.folder import load_run
from nas_attn.run.job import search
from nas_attn.run.result_imports import ResultImports

UNFINISHED = ("measured.json", "best.json", "report.html")
"""Files without which the same command writes the result again."""


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_space(tmp_path_factory.mktemp("space"))


@pytest.fixture
def unfinished(space: Path, tmp_path: Path, trained: Path) -> Path:
    """The folder of a run whose trainings have ended."""
    shutil.copytree(trained, tmp_path / "run")
    for name in UNFINISHED:
        (tmp_path / "run" / name).unlink()
    return tmp_path / "run"


@pytest.fixture(scope="module")
def trained(space: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return search(space, out=tmp_path_factory.mktemp("trained") / "run", executor="local", **SETTINGS).folder


def test_no_figure_shows_the_measured_costs() -> None:
    run = make_run()
    bench = Bench("a CPU", 1, "float32", (32, 1, 8, 8), "sgd", "2")
    attempts = {trial.key: Attempt(trial.key, bench, reason="out of memory") for trial in run.retrain}
    measured = replace(run, measured=attempts)
    assert render(measured) != render(run)
    assert [chart.svg for chart in draw_charts(measured)] == [chart.svg for chart in draw_charts(run)]


def test_the_figures_are_drawn_once_and_the_page_has_the_costs(
    space: Path, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_drawn: list[int] = []

    def counted(run: Any) -> Any:
        n_drawn.append(len(run.measured))
        return draw_charts(run)

    monkeypatch.setattr("nas_attn.report.figures.draw_charts", counted)
    run = search(space, out=unfinished, executor="local", **SETTINGS)
    assert n_drawn == [0], "before the costs were measured"
    device = next(iter(run.measured.values())).bench.device
    assert device in (unfinished / "report.html").read_text()


@pytest.mark.parametrize("where", [
    "nas_attn.run.export:export",
    "nas_attn.run.export:save_model",
    "nas_attn.report.figures:draw_charts",
    "nas_attn.report.page:documents",
    "nas_attn.run.arm_costs:measure",
])  # fmt: skip
@pytest.mark.parametrize("call", [1, 2])
def test_ctrl_c_while_the_result_is_made_leaves_a_run_that_the_same_command_finishes(
    space: Path, unfinished: Path, monkeypatch: pytest.MonkeyPatch, where: str, call: int
) -> None:
    module, _, name = where.partition(":")
    with monkeypatch.context() as patch:
        patch.setattr(import_module(module), name, interrupted(getattr(import_module(module), name), call))
        if (name, call) == ("draw_charts", 2):
            search(space, out=unfinished, executor="local", **SETTINGS)  # there is no second call
        else:
            with pytest.raises(Interrupted, match=r"the same command (completes it|adds the costs)\."):
                search(space, out=unfinished, executor="local", **SETTINGS)
    search(space, out=unfinished, executor="local", **SETTINGS)
    check_finished(unfinished)
    run = load_run(unfinished)
    assert run.measured
    assert run.best is not None
    assert "measured_on" in run.best["cost"]
    assert not list(unfinished.rglob("*.part"))


def interrupted(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    """Return the function with Ctrl-C in one of its calls."""
    calls: list[int] = []

    def with_signal(*values: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return function(*values, **named)

    return with_signal


IMPORTS = (
    "import sys\n"
    "from nas_attn.backbones.own_network import OwnNetwork\n"
    "from nas_attn.run.result_imports import ResultImports\n"
    "imports = ResultImports({spec})\n"
    "imports.join()\n"
    "assert not {{'torch', 'matplotlib', 'torchvision'}} & {{*sys.modules}}\n"
    "imports.begin()\n"
    "imports.begin()\n"
    "imports.join()\n"
    "print(*sorted({{'torch', 'matplotlib', 'torchvision', 'mine', 'nas_attn.run.export'}} & {{*sys.modules}}))\n"
)


@pytest.mark.parametrize(("spec", "found"), [
    ("{'name': 'densenet'}", "matplotlib nas_attn.run.export torch torchvision"),
    ("{'import': 'mine:net'}", "matplotlib nas_attn.run.export torch"),
    ("{'name': 'timm:resnet10t'}", "matplotlib nas_attn.run.export torch"),
    ("OwnNetwork(None)", "matplotlib nas_attn.run.export torch"),
])  # fmt: skip
def test_the_imports_are_made_once_and_run_nothing_of_the_users(
    run_python: RunCommand, tmp_path: Path, spec: str, found: str
) -> None:
    (tmp_path / "mine.py").write_text("")
    assert run_python("-c", IMPORTS.format(spec=spec)).stdout.split() == found.split()


def test_an_import_that_fails_is_met_again_where_the_report_is_written(
    space: Path, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nas_attn.report.page", None)
    imports = ResultImports({"name": "densenet"})
    imports.begin()
    imports.join()
    search(space, out=unfinished, executor="local", **SETTINGS)
    assert not (unfinished / "report.html").exists()
    assert "the report could not be written" in (unfinished / "log.txt").read_text()
    monkeypatch.undo()
    search(space, out=unfinished, executor="local", **SETTINGS)
    check_finished(unfinished)
