"""Shared by the tests of runs with a training in memory: a small space, and a search without a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nas_attn import SearchSpace, search
from nas_attn.records import RunRecord

SPACE = {
    "title": "Two places",
    "backbone": {"name": "densenet", "growth_rate": 4, "block_config": [1, 1], "num_init_features": 8, "stem": "small"},
    "sites": [{"match": ["denseblock*"], "attentions": ["se"]}],
    "attentions": {"se": {"reduction": [2, 4]}},
}

SETTINGS: dict[str, Any] = {
    "num_classes": 3, "in_channels": 1, "image_size": 8, "trials": 1, "epochs": 1, "seeds": 1, "top": 1,
    "controls": 0, "cpus_per_trial": 1, "executor": "local",
}  # fmt: skip


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write an empty page in place of the report, which takes most of the time of such a run."""
    write_no_report(monkeypatch)


def write_no_report(patch: pytest.MonkeyPatch) -> None:
    """Replace the writing of the report, for a fixture of a whole module."""

    def write_report(record: object, out: Path, **_: object) -> Path:
        path = out / "report.html"
        path.write_text("")
        return path

    patch.setattr("nas_attn.report.figures.draw_charts", lambda _: ())
    patch.setattr("nas_attn.report.page.write_report", write_report)


def run(train: Callable[..., object] | str, out: Path, **settings: Any) -> RunRecord:
    """Search the small space by a training in memory."""
    return search(SearchSpace.from_dict(SPACE), train=train, out=out, **{**SETTINGS, **settings})
