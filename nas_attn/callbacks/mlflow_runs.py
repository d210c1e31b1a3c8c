"""MLflow: a run for the search, and one below it for each trial."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_attn.callbacks.base import Callback, facts_of, needed
from nas_attn.records import RunRecord, TrialRecord

_FOLDER, _MOST = "nas_attn.folder", 500
"""Tag that finds the run of a search again, and number of letters of a parameter."""


class MLflow(Callback):
    """Log to MLflow; needs the extra `mlflow`. No run is made active, so that your own runs are left alone.

    Args:
        experiment: Name of the experiment; it is created if there is none.
        tracking_uri: Of the server or the local store; None takes MLflow's own setting.
    """

    def __init__(self, experiment: str = "nas_attn", tracking_uri: str | None = None) -> None:
        self._client = needed("mlflow", "mlflow").MlflowClient(tracking_uri)
        self._metric: Any = needed("mlflow.entities", "mlflow").Metric
        self._parameter: Any = needed("mlflow.entities", "mlflow").Param
        self._name = experiment
        self._experiment = ""
        self._parent: str | None = None

    def on_run_begin(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Find the run of this folder, or create it."""
        found = self._client.get_experiment_by_name(self._name)
        self._experiment = found.experiment_id if found else self._client.create_experiment(self._name)
        text = str(folder).replace("'", "")
        known = self._client.search_runs([self._experiment], f"tags.`{_FOLDER}` = '{text}'")
        if known:
            self._parent = known[0].info.run_id
            self._client.update_run(self._parent, status="RUNNING")
            return
        self._parent = self._client.create_run(self._experiment, tags={_FOLDER: text}, run_name=folder.name).info.run_id

    def on_trial_end(self, record: TrialRecord) -> None:
        """Log a trial with its parameters, its curve and its value."""
        end = int(time.time() * 1000)
        run = self._client.create_run(
            self._experiment,
            start_time=end - int(record.seconds * 1000),
            tags={"mlflow.parentRunId": str(self._parent)},
            run_name=f"{record.stage}-{record.number}",
        ).info.run_id
        metrics = [self._metric("validation", value, end, epoch) for epoch, value in record.curve.items()]
        values = {**({} if record.value is None else {"value": record.value}), **record.values}
        metrics += [self._metric(name, value, end, 0) for name, value in values.items()]
        parameters = [self._parameter(_plain(name), str(value)[:_MOST]) for name, value in facts_of(record).items()]
        for start in range(0, max(len(metrics), len(parameters)), 100):
            self._client.log_batch(run, metrics[start : start + 100], parameters[start : start + 100])
        self._client.set_terminated(run, "FAILED" if record.state == "fail" else "FINISHED")

    def on_run_end(self, run: RunRecord) -> None:
        """Log what the run recommends, with its report."""
        assert self._parent is not None, "a run has begun"
        self._client.set_tag(self._parent, "recommended", str((run.best or {}).get("recommended")))
        for name in ("best.json", "report.html"):
            if (run.folder / name).is_file():
                self._client.log_artifact(self._parent, str(run.folder / name))
        self._client.set_terminated(self._parent, "FINISHED")
        self._parent = None

    def close(self) -> None:
        """End the run of a search that was interrupted."""
        if self._parent is not None:
            self._client.set_terminated(self._parent, "KILLED")


def _plain(name: str) -> str:
    """Return a name with the letters that MLflow allows."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)
