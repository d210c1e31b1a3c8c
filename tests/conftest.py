"""What every test stands on: workers of one thread each, a temporary folder of their own, commands in a process."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from _pytest.mark import ParameterSet
from hypothesis import settings

from nas_attn.config import n_cores

ROOT = Path(__file__).resolve().parent.parent

LONGEST = (
    "test_docs.py",
    "test_job.py",
    "test_backbones_everywhere.py",
    "test_attention_contract.py",
    "test_onnx.py",
    "test_backbones_networks.py",
    "test_model_swaps.py",
    "test_backbone_plugins.py",
    "test_data_plugins.py",
    "test_attention_plugins.py",
    "test_report_page.py",
    "test_networks_on_gpu.py",
    "test_timm.py",
    "test_attention_fused.py",
    "test_training_output.py",
    "test_screen.py",
    "test_published.py",
    "test_guest.py",
    "test_run_files.py",
    "test_same_training.py",
    "test_study.py",
)
"""Files that are begun first, so that no worker ends long after the others."""

FOLDER = "nat-"
"""Beginning of the name of a session's temporary folder."""

MOST_WORKERS = 8
"""More would only wait for the longest file, each with a copy of torch in memory."""

RunCommand = Callable[..., subprocess.CompletedProcess[str]]


def at_night(values: Iterable[str], *, but: Container[str]) -> list[str | ParameterSet]:
    """Return parameters that are marked nightly, but for those that are short enough for every day."""
    return [value if value in but else pytest.param(value, marks=pytest.mark.nightly) for value in values]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Share folders out to a worker a core; a file or a row that is named runs in this process, for a debugger."""
    return min(n_cores(), MOST_WORKERS) if all(Path(word).is_dir() for word in config.args) else 0


def pytest_configure(config: pytest.Config) -> None:
    """Set what is read at import, before any test imports torch, matplotlib or ray."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["MKL_NUM_THREADS"] = "1"
    os.environ["MPLBACKEND"] = "Agg"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # The same examples in every run: a red run must mean that the change is wrong.
    settings.register_profile("repeatable", derandomize=True, deadline=None)
    settings.load_profile("repeatable")
    if hasattr(config, "workerinput"):
        return  # a worker of xdist's, with the folder of them all
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every process that is started would compile the package again
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # a failure is looked at afterwards
    folder = session_folder(Path(tempfile.gettempdir()))
    config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")


def session_folder(parent: Path) -> Path:
    """Make the folder for all that tests, and processes that they start or kill, leave in a temporary folder.

    Its name is that of this process: short, for the sockets of Ray, and known as left behind once that was killed.
    """
    for left in parent.glob(f"{FOLDER}*"):
        number = left.name.removeprefix(FOLDER)
        if number.isdigit() and (int(number) == os.getpid() or not psutil.pid_exists(int(number))):
            shutil.rmtree(left, ignore_errors=True)
    folder = parent / f"{FOLDER}{os.getpid()}"
    folder.mkdir(mode=0o700)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import without garbage collections, and leave what was imported out of later ones, which would visit it all."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was left out."""
    if config.option.markexpr == "not nightly and not whole_tree and not cluster":
        terminalreporter.write_line(
            "Rows marked nightly, whole_tree or cluster were left out; `pytest -m ''` runs every row."
        )


@pytest.fixture(scope="module", autouse=True)
def write_report() -> Iterator[Callable[..., Path]]:
    """Leave the figures of a run's report empty, whose rendering takes most of the time of a small run.

    Returns what writes a whole report, for the modules that look at the figures of a run.
    """
    from nas_attn.report import page

    write = page.write_report

    def with_empty_figures(run: object, folder: Path, **options: Any) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(page.Chart, "write", lambda chart, folder: [])
            patch.setattr(page.Chart, "inline", lambda chart: [page.Markup()] * max(1, len(chart.views)))
            return write(run, folder, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "write_report", with_empty_figures)
        yield write


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the caches of one test, which is not made yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def run_python(tmp_path: Path) -> RunCommand:
    """Run `python WORDS` to its end in a folder outside the checkout; returns code, stdout and stderr."""

    def run(*words: str | Path, cwd: Path = tmp_path, env: Mapping[str, str] | None = None, timeout: float = 120):
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def run_cli(run_python: RunCommand) -> RunCommand:
    """Run `nas-attn WORDS` to its end in a folder outside the checkout; returns code, stdout and stderr."""

    def run(*words: str | Path, **options):
        return run_python("-m", "nas_attn", *words, **options)

    return run
