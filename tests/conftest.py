"""What every test stands on: one thread for torch, a cache folder of its own, and the command line in a process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

RunCommand = Callable[..., subprocess.CompletedProcess[str]]


def pytest_configure(config: pytest.Config) -> None:
    """Set what is read at import, before any test imports torch, matplotlib or ray."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["MKL_NUM_THREADS"] = "1"
    os.environ["MPLBACKEND"] = "Agg"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # The same examples in every run: a red run must mean that the change is wrong.
    settings.register_profile("repeatable", derandomize=True, deadline=None)
    settings.load_profile("repeatable")
    cache = tempfile.TemporaryDirectory(prefix="nas_attn-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(cache.cleanup)
    os.environ["XDG_CACHE_HOME"] = cache.name


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
