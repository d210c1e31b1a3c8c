"""Weights & Biases: a run for each trial, in a group of the search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_attn.callbacks.base import Callback, facts_of, needed
from nas_attn.records import RunRecord, TrialRecord


class WandB(Callback):
    """Log to Weights & Biases; needs the extra `wandb`. A run of your own that is active is left alone.

    Args:
        project: Name of the project.
        settings: Further arguments of `wandb.init`, such as `entity` or `mode="offline"`.
    """

    def __init__(self, project: str = "nas_attn", **settings: Any) -> None:
        self._wandb = needed("wandb", "wandb")
        self._project, self._settings = project, settings
        self._folder = Path()

    def on_run_begin(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Remember the folder, whose name is the group."""
        self._folder = folder

    def on_trial_end(self, record: TrialRecord) -> None:
        """Log a trial with its parameters, its curve and its value."""
        run = self._begin(f"{record.stage}-{record.number}", record.stage, facts_of(record))
        for epoch, value in record.curve.items():
            run.log({"validation": value}, step=epoch)
        run.summary.update({**({} if record.value is None else {"value": record.value}), **record.values})
        run.finish(exit_code=1 if record.state == "fail" else 0)

    def on_run_end(self, run: RunRecord) -> None:
        """Log what the run recommends."""
        best = run.best or {}
        logged = self._begin("result", "result", {"recommended": best.get("recommended")})
        logged.summary.update({"recommended": best.get("recommended"), "placement": str(best.get("placement"))})
        logged.finish()

    def _begin(self, name: str, kind: str, config: Mapping[str, Any]) -> Any:
        settings = {"dir": str(self._folder), "reinit": "create_new", **self._settings}
        return self._wandb.init(
            project=self._project, group=self._folder.name, name=name, job_type=kind, config=dict(config), **settings
        )
