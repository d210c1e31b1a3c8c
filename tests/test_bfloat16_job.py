"""A whole job under bf16 autocast, as on a GPU, but on the CPU: search, confirm, retrain, measurement, report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import SETTINGS, check_finished, tiny_space
from torch.nn import functional

from nas_attn.run.job import search

MORE = {"trials": 3, "epochs": 4, "batch_size": 16, "seeds": 1, "controls": 0}


def test_a_whole_job_under_bf16_autocast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[torch.dtype] = set()
    linear = functional.linear

    def watched(*args: torch.Tensor) -> torch.Tensor:
        found = linear(*args)
        seen.add(found.dtype)
        return found

    monkeypatch.setattr("torch.nn.functional.linear", watched)
    for module in ("nas_attn.training.loop", "nas_attn.cost.measurement"):
        monkeypatch.setattr(f"{module}.precision", lambda device: torch.autocast("cpu", dtype=torch.bfloat16))
    search(tiny_space(tmp_path), out=tmp_path / "run", executor="local", **SETTINGS | MORE)
    assert torch.bfloat16 in seen
    run = check_finished(tmp_path / "run", **MORE)
    rows = (*run.search, *run.confirm, *run.retrain)
    assert {row.state for row in rows} == {"complete"}
    losses = [row.facts["train_loss"] for row in rows]
    assert max(losses) < 2.2, "a network that learns nothing has log(10) = 2.3"
    assert min(row.value or 0.0 for row in run.retrain) > 0.3, "chance is 0.1"
    assert all(attempt.measured is not None for attempt in run.measured.values())
