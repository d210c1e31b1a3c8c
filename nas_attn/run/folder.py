"""The folder of a run: its files, its lock, and the check that it belongs to the requested search."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from nas_attn.comparison.answer import read_looks
from nas_attn.comparison.predictions import Predictions
from nas_attn.comparison.ranking import RANKED, Ranking
from nas_attn.config import Recipe, before_settings
from nas_attn.errors import RunError, RunStopped, in_plain_words, of_system
from nas_attn.files import file_digest, is_part, is_proved, with_digest, write_json
from nas_attn.model.description import read_model_file
from nas_attn.model.stored import ARMS, BEST, RETRAINED
from nas_attn.placement import SiteTable
from nas_attn.records import Measurements, RunRecord, TrialRecord
from nas_attn.run.identity import changes, in_words
from nas_attn.run.place import place_of_run
from nas_attn.run.running_files import CheckpointFiles
from nas_attn.run.traces import BEGUN, has_values, refuse_lost_ledger, refuse_unwritable
from nas_attn.run.trial_files import TrialFiles

if TYPE_CHECKING:
    from nas_attn.study.store import Store

log = logging.getLogger(__name__)

IDENTITY = ("space", "weights", "data", "train", "recipe", "objectives", "seed", "retrained")
"""Keys of `config.json` that change a result: a run is resumed only if all of them are unchanged."""


_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""Numbers of the errors of a disk that is full, above its quota, or not writable any more."""


_LONGEST_NAME = 120
"""Letters of the longest name of a file in a run, with those of a file that is being written."""


class RunFolder:
    """The paths of a run, and the reading and writing of its files.

    Args:
        path: The folder; it need not exist yet.
    Raises: RunError for a path that the system cannot look up.
    """

    def __init__(self, path: Path) -> None:
        _refuse_impossible(path)
        self.path = path
        self.database = path / "study.db"
        self.config = path / "config.json"
        self.best = path / BEST
        self.arms = path / ARMS
        self.front = path / "front.json"
        self.best_so_far = path / "best-so-far.json"
        self.report = path / "report.html"
        self.log = path / "log.txt"
        self.weights = TrialFiles(path / RETRAINED, ".safetensors")
        self.predictions = TrialFiles(path / "predictions", ".npz")
        self.checkpoints = CheckpointFiles(path / "checkpoints")
        self.trial_logs = path / "trials"
        self.measured = path / "measured.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Context manager: create the folder and lock it for this driver; the lock ends with the process.

        Raises: RunError if another live driver has the lock, or the folder is not writable; RunStopped if the disk
        refuses a file later.
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
            for folder in (self.path, *(path for path in self.path.iterdir() if path.is_dir())):
                refuse_unwritable(folder)
            yield
        except OSError as error:
            if error.errno not in _REFUSALS or self.path not in Path(error.filename or "").parents:
                raise
            raise RunStopped(
                f"The files of the run {self.path} must be writable until its end, but: {of_system(error)} Make room "
                "or mend that; the same command resumes the run."
            ) from error
        finally:
            lock.release()

    def refuse_foreign(self, config: Mapping[str, Any], *, same_training: bool = False) -> None:
        """Check that the folder is new, or contains the search that `config` describes, with its ledger.

        Args:
            same_training: The user's word that training and network are those of the run, whatever differs in them.
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
        refuse_lost_ledger(self.path, stored)
        names = [name for name in IDENTITY if not (same_training and name == "train")]
        found = json.loads(json.dumps({name: config.get(name) for name in names}))
        if isinstance(stored.get("recipe"), dict):
            stored["recipe"] = before_settings(Recipe, stored["recipe"])
        differences = list(_differences({name: stored.get(name) for name in names}, found))
        if differences:
            shown = "; ".join(f"{path} was {was!r}, now {now!r}" for path, was, now in differences[:5])
            more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
            raise RunError(
                f"The run {self.path} belongs to another search ({shown}{more}): results would be mixed. "
                "Choose another --out, or use the settings that it was started with."
            )
        changed = {} if same_training else changes(stored, config)
        if changed and has_values(self.path, stored):
            raise RunError(
                f"The run {self.path} was begun with {in_words(changed)}. Its results and new ones would be mixed: "
                "choose another --out, go back to what it was begun with, or add --same-training (same_training=True) "
                "if both train alike."
            )

    def read_config(self) -> dict[str, Any]:
        """Return `config.json`. Raises: RunError if there is none, or it is damaged or altered."""
        content = _read_json(self.config, "a run folder")
        if not is_proved(content):
            raise RunError(
                f"{self.config} must be as the search wrote it, but was altered: restore it, or choose another --out."
            )
        return content

    def begun(self) -> dict[str, Any] | None:
        """Return `config.json` of the run that is here, or None in a new folder. Raises: RunError as `read_config`."""
        return self.read_config() if self.config.exists() else None

    def write_config(self, content: Mapping[str, Any]) -> None:
        """Write `config.json` with its digest; it names the ledger once that exists."""
        ledger = {BEGUN: self.database.name} if self.database.exists() else {}
        write_json(self.config, with_digest({**content, **ledger}))

    def read_best(self) -> dict[str, Any] | None:
        """Return `best.json`, or None while there is none. Raises: RunError if it is truncated or altered."""
        if not self.best.exists():
            return None
        fix = "the search's command writes it again from the ledger."
        content = _read_json(self.best, "a model file", fix)
        if "digest" not in content or not is_proved(content):
            raise RunError(f"{self.best} must be as the search wrote it, but was altered: {fix}")
        return content

    def read_measured(self) -> Measurements:
        """Return the measurements; none if the file is missing or damaged, so that they are made again."""
        if not self.measured.exists():
            return Measurements()
        try:
            content = _read_json(self.measured, "a run folder")
            if is_proved(content):
                return Measurements.from_dict(content)
        except (RunError, KeyError, TypeError):
            pass  # as for one that was altered
        log.warning("%s is truncated or altered: the costs of the arms are measured again.", self.measured)
        return Measurements()

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
        if stated is None:  # they could not be exported
            return True
        file = self.path / str(stated.get("name"))
        return file.is_file() and file_digest(file) == stated.get("sha256")

    def whole_arms(self) -> set[str]:
        """Return the labels of the arms whose model and weights are stored whole.

        Raises: FileError if the file of a model is truncated or altered.
        """
        whole = set()
        for file in sorted(self.arms.glob("*.json")):
            described = read_model_file(file)
            stated = described.weights
            weights = file.with_name(stated.name) if stated else None
            if weights is None or (weights.is_file() and stated and file_digest(weights) == stated.sha256):
                whole.add(str(described.arm))
        return whole


def _refuse_impossible(path: Path) -> None:
    """Refuse a path that is too long with the names of the files in it, that may not be read, or is none at all."""
    try:
        (path / ("x" * _LONGEST_NAME)).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or in_plain_words(error)
        raise RunError(
            f"A run needs a folder that the system can look up, but {in_plain_words(path)}: {reason}. Choose another."
        ) from None


def load_run(folder: str | Path) -> RunRecord:
    """Return the content of a run folder; a running driver is not disturbed, and nothing is written.

    The ledger in a shared database is read from there: the password comes from `~/.pgpass` or `PGPASSWORD`,
    or the whole address from the environment variable `NAS_ATTN_STORAGE`; a role that may only read is enough.

    Raises: RunError if the folder is not a run, or its ledger cannot be read.
    """
    from nas_attn.study.store import read_store

    files = RunFolder(Path(folder))
    place = place_of_run(files.path, files.read_config())
    if place.address is None and not files.database.exists():
        raise RunError(
            f"{folder} must contain study.db beside config.json, but it is missing: repeat the search's command."
        )
    store = read_store(place)
    try:
        return record_of_run(files, store)
    finally:
        store.close()


def record_of_run(files: RunFolder, store: Store) -> RunRecord:
    """Return the content of a run folder whose ledger is open."""
    from nas_attn.study.ledger import CONTROL, FINAL, SCREEN, SEARCH

    config = files.read_config()
    ledgers = [store.ledger(name, create=False) for name in (SEARCH, CONTROL, SCREEN, FINAL)]
    search, control, screen, final = (ledger.records() for ledger in ledgers)
    ledger = ledgers[-1]
    arms, looks = ledger.note("arms"), read_looks(ledger.note("looks"))
    remarks = (*ledger.note("remarks").get("remarks", ()), *(remark for found in ledgers for remark in found.remarks))
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
        remarks=remarks,
        screen=screen,
        ranking=Ranking.from_note(ledgers[2].note(RANKED)),
        screens=_screens,
    )


def _screens(run: RunRecord) -> tuple[str, str]:
    """Return a run in one screen, as text and as HTML."""
    from nas_attn.report.one_screen import as_html, as_text  # loads the report's tables

    return as_text(run), as_html(run)


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
