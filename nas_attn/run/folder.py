"""The folder of a run: its files, its lock, and the check that it belongs to the requested search."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nas_attn.comparison.answer import read_looks
from nas_attn.comparison.predictions import Predictions
from nas_attn.config import Recipe, before_settings
from nas_attn.errors import RunError
from nas_attn.files import content_digest, file_digest, is_part, write_whole
from nas_attn.model.stored import ARMS, BEST, RETRAINED
from nas_attn.placement import SiteTable
from nas_attn.records import Measurements, RunRecord, TrialRecord

log = logging.getLogger(__name__)

IDENTITY = ("space", "weights", "data", "train", "recipe", "seed", "retrained")
"""Keys of `config.json` that change a result: a run is resumed only if all of them are unchanged."""


class TrialFiles:
    """Files of single trainings, one per placement, seed and number of epochs.

    Args:
        suffix: That of the files' names, e.g. `.safetensors`.
    """

    def __init__(self, folder: Path, suffix: str) -> None:
        self._folder, self._suffix = folder, suffix

    def path(self, key: str, seed: int, epochs: int) -> Path:
        """Return the file of a training, whether it exists or not; `key` is that of its placement."""
        return self._folder / f"{key}-{seed}-{epochs}{self._suffix}"

    def has(self, key: str, seed: int, epochs: int) -> bool:
        """Return whether the file of a training is stored."""
        return self.path(key, seed, epochs).is_file()

    def write(self, key: str, seed: int, epochs: int, content: bytes) -> None:
        """Store the file of a training; it survives a loss of power."""
        write_whole(self.path(key, seed, epochs), lambda file: file.write(content), durable=True)

    def read(self, key: str, seed: int, epochs: int) -> bytes | None:
        """Return the content of the file of a training, or None if there is none."""
        path = self.path(key, seed, epochs)
        return path.read_bytes() if path.is_file() else None


class RunFolder:
    """The paths of a run, and the reading and writing of its files.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = path / "study.db"
        self.config = path / "config.json"
        self.best = path / BEST
        self.arms = path / ARMS
        self.best_so_far = path / "best-so-far.json"
        self.report = path / "report.html"
        self.log = path / "log.txt"
        self.weights = TrialFiles(path / RETRAINED, ".safetensors")
        self.predictions = TrialFiles(path / "predictions", ".npz")
        self.measured = path / "measured.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Context manager: create the folder and lock it for this driver; the lock ends with the process.

        Raises: RunError if another live driver has the lock, or the folder is not writable.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / "driver.lock", timeout=0)
            lock.acquire()
        except Timeout:
            raise RunError(
                f"A run has one driver at a time, but another live process uses {self.path}: wait for it, or choose "
                "another --out."
            ) from None
        except OSError as error:
            raise RunError(
                f"The run folder {self.path} must be writable, but: {error.strerror}. Choose another --out."
            ) from error
        try:
            for path in self.path.rglob(".*"):
                if is_part(path):  # of a driver that was killed while it wrote
                    path.unlink()
            yield
        finally:
            lock.release()

    def refuse_foreign(self, config: Mapping[str, Any]) -> None:
        """Check that the folder is new, or contains the search that `config` describes.

        Raises: RunError that shows what differs.
        """
        if not self.config.exists():
            known = {"driver.lock", self.log.name}
            others = [entry for entry in self.path.iterdir() if entry.name not in known] if self.path.is_dir() else []
            if any(not is_part(entry) for entry in others):
                raise RunError(
                    f"The folder {self.path} contains other files and no config.json, so it is not a run: "
                    "choose another --out."
                )
            if self.path.exists() and not self.path.is_dir():
                raise RunError(f"A run needs a folder, but {self.path} is a file: choose another --out.")
            return
        stored = self.read_config()
        found = json.loads(json.dumps({name: config.get(name) for name in IDENTITY}))
        if isinstance(stored.get("recipe"), dict):
            stored["recipe"] = before_settings(Recipe, stored["recipe"])
        differences = list(_differences({name: stored.get(name) for name in IDENTITY}, found))
        if differences:
            shown = "; ".join(f"{path} was {was!r}, now {now!r}" for path, was, now in differences[:5])
            more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
            raise RunError(
                f"The run {self.path} belongs to another search ({shown}{more}): results would be mixed. "
                "Choose another --out, or use the settings that it was started with."
            )

    def read_config(self) -> dict[str, Any]:
        """Return `config.json`. Raises: RunError if there is none, or it is damaged."""
        return _read_json(self.config, "a run folder")

    def read_best(self) -> dict[str, Any] | None:
        """Return `best.json`, or None while there is none. Raises: RunError if it is truncated or altered."""
        if not self.best.exists():
            return None
        fix = "delete it, and the search's command writes it again from the ledger."
        content = _read_json(self.best, "a model file", fix)
        if content_digest(content) != content.get("digest"):
            raise RunError(f"{self.best} must be as the search wrote it, but was altered: {fix}")
        return content

    def read_measured(self) -> Measurements:
        """Return the measurements; a run of an older version has none. Raises: RunError if the file is damaged."""
        if not self.measured.exists():
            return Measurements()
        fix = "delete it, and the search's command measures again."
        try:
            return Measurements.from_dict(_read_json(self.measured, "a run folder", fix))
        except (KeyError, TypeError) as error:
            raise RunError(f"{self.measured} must be as the search wrote it, but was altered: {fix}") from error

    def read_predictions(self, rows: Iterable[TrialRecord]) -> dict[tuple[str, int, int], Predictions]:
        """Return the stored predictions of finished trainings by placement key, seed and epochs.

        A file that is damaged is left out with a warning: it holds nothing that the values in the ledger need.
        """
        found: dict[tuple[str, int, int], Predictions] = {}
        for row in rows:
            content = self.predictions.read(row.key, row.seed, row.epochs) if row.state == "complete" else None
            if content is not None:
                try:
                    path = self.predictions.path(row.key, row.seed, row.epochs)
                    found[row.key, row.seed, row.epochs] = Predictions.from_bytes(content, str(path))
                except RunError as error:
                    log.warning("%s", error)
        return found

    def has_weights(self, best: Mapping[str, Any]) -> bool:
        """Return whether the weights file that `best.json` names exists and has the stated digest.

        If the process is killed between the two writes, the two files do not match.
        """
        stated = best.get("weights", {})
        file = self.path / str(stated.get("name"))
        return file.is_file() and file_digest(file) == stated.get("sha256")


def load_run(folder: str | Path, *, open_ledger: Callable[[Path], Any] | None = None) -> RunRecord:
    """Return the content of a run folder; a running driver is not disturbed.

    Args:
        open_ledger: Returns Optuna's storage of a database file; None opens it as a driver does.

    Raises: RunError if the folder is not a run.
    """
    from nas_attn.study.ledger import CONTROL, FINAL, SEARCH, Ledger, open_storage

    files = RunFolder(Path(folder))
    config = files.read_config()
    if not files.database.exists():
        raise RunError(
            f"{folder} must contain study.db beside config.json, but it is missing: repeat the search's command."
        )
    storage = (open_ledger or open_storage)(files.database)
    try:
        search, control = (Ledger(storage, name, create=False).records() for name in (SEARCH, CONTROL))
        ledger = Ledger(storage, FINAL, create=False)
        final, arms, looks = ledger.records(), ledger.note("arms"), read_looks(ledger.note("looks"))
    finally:
        storage.remove_session()
        storage.engine.dispose()
    retrain = tuple(replace(row, label=arms[row.key]) for row in final if row.stage == "retrain" and row.key in arms)
    return RunRecord(
        folder=files.path,
        config=config,
        table=SiteTable.from_dict(config["sites"]) if config.get("sites") else None,
        search=search,
        control=control,
        confirm=tuple(record for record in final if record.stage == "confirm"),
        retrain=retrain,
        best=files.read_best(),
        measured=files.read_measured().newest(),
        predictions=files.read_predictions(retrain),
        looks=looks,
    )


def _read_json(path: Path, kind: str, fix: str = "restore it, or move the folder away.") -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path.parent} must be {kind} with a {path.name}, but there is none.") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise RunError(f"{path} must be JSON, but is damaged: {fix}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} must contain one JSON object, but contains {type(content).__name__}.")
    return content


def _differences(was: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, old value, new value) of every value that differs."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted({*was, *now}):
            yield from _differences(was.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif was != now:
        yield path, was, now
