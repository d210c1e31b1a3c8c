"""TensorBoard: the curve of each trial, and the value of each stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_attn.callbacks.base import Callback, facts_of, needed
from nas_attn.records import RunRecord, TrialRecord


class TensorBoard(Callback):
    """Write event files for `tensorboard --logdir FOLDER`; needs the extra `tensorboard`.

    Each trial is a run of its own with its curve; the run `values` has the value of every trial by its number.

    Args:
        folder: Folder of the event files; None takes `tensorboard` in the run folder.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        needed("tensorboard", "tensorboard")
        self._stated = None if folder is None else Path(folder).absolute()
        self._folder: Path | None = None
        self._values: Any = None

    def on_run_begin(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Open the files of the values."""
        self._folder = self._stated or folder / "tensorboard"
        self._values = _writer(self._folder / "values")

    def on_trial_end(self, record: TrialRecord) -> None:
        """Write the curve and the value of a trial."""
        assert self._folder is not None, "a run has begun"
        with _writer(self._folder / f"{record.stage}-{record.number:05d}") as writer:
            for epoch, value in record.curve.items():
                writer.add_scalar("validation", value, epoch)
            text = "  \n".join(f"{name}: {value}" for name, value in facts_of(record).items())
            writer.add_text("trial", text, record.number)
        if record.value is not None:
            self._values.add_scalar(record.stage, record.value, record.number)
            for name, value in record.values.items():
                self._values.add_scalar(f"{record.stage} {name}", value, record.number)
            self._values.flush()

    def on_run_end(self, run: RunRecord) -> None:
        """Write what the run recommends."""
        if run.best is not None:
            self._values.add_text("recommended", str(run.best.get("recommended")))

    def close(self) -> None:
        """Close the files."""
        if self._values is not None:
            self._values.close()


def _writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
