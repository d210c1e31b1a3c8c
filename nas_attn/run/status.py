"""The state of a run for a reader beside its driver: nothing is written, locked or waited for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas_attn.errors import RunError
from nas_attn.records import TrialRecord
from nas_attn.run.driver import Driver, is_asked_to_finish, living_driver
from nas_attn.run.folder import RunFolder
from nas_attn.run.place import place_of_run

STAGES = ("screen", "search", "control", "confirm", "retrain")
OPTIONAL = ("screen", "control")


@dataclass(frozen=True)
class StageCount:
    """The trials of one stage: `done` have a result, and `answered` of the search are repeated from the ledger."""

    done: int
    running: int
    failed: int
    answered: int


@dataclass(frozen=True)
class RunStatus:
    """A run at one moment.

    Args:
        state: `running`, `finished` or `stopped`.
        stage: Where it is, or where it stopped.
        asked: Number of placements that the search was asked to try.
        best: Value and placement of the best trial of the search; None before the first.
        metric: Name of the value.
        seconds_left: Estimate of a running driver.
        age: Seconds since the run folder last changed.
        command: The command that began the run last, and resumes it.
        is_ending: Whether it was asked to end its search.
    """

    folder: Path
    state: str
    stage: str
    counts: dict[str, StageCount]
    asked: int | None
    best: tuple[float, str] | None
    best_label: str | None
    seconds_left: float | None
    driver: Driver | None
    age: float
    command: str | None
    is_ending: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the status in plain JSON."""
        plain = asdict(self)
        best = None if self.best is None else {"value": self.best[0], "placement": self.best[1]}
        return {**plain, "folder": str(self.folder), "best": best}


def status_of(folder: Path) -> RunStatus:
    """Return the state of a run. Raises: RunError in one sentence if it is none, or cannot be read."""
    from nas_attn.study.ledger import CONTROL, FINAL, SCREEN, SEARCH
    from nas_attn.study.store import read_store

    files = RunFolder(folder)
    config, driver = files.read_config(), living_driver(folder)
    place = place_of_run(folder, config)
    search: tuple[TrialRecord, ...] = ()
    others: tuple[TrialRecord, ...] = ()
    if place.address is not None or files.database.exists():
        store = read_store(place)
        try:
            search = store.ledger(SEARCH, create=False).records()
            others = tuple(
                row for name in (SCREEN, CONTROL, FINAL) for row in store.ledger(name, create=False).records()
            )
        finally:
            store.close()
    elif driver is None:
        raise RunError(f"{folder} must contain study.db beside config.json, but it is missing: repeat its command.")
    counts = {stage: _count([row for row in (*search, *others) if row.stage == stage], driver) for stage in STAGES}
    recommended = _recommended(files) if driver is None else None
    state = "running" if driver is not None else "stopped" if recommended is None else "finished"
    asked = (config.get("budget") or {}).get("trials")
    asked = asked and asked - ((config.get("engine") or {}).get("screen") or 0)
    complete = [row for row in search if row.state == "complete" and row.value is not None]
    best = max(complete, key=lambda row: row.value or 0.0, default=None)
    return RunStatus(
        folder=folder,
        state=state,
        stage=driver.stage if driver is not None else "end" if state == "finished" else _stage(counts),
        counts={stage: count for stage, count in counts.items() if stage not in OPTIONAL or any(vars(count).values())},
        asked=asked,
        best=None if best is None or best.value is None else (best.value, str(best.placement)),
        best_label=recommended,
        seconds_left=driver.left_now if driver is not None else None,
        driver=driver,
        age=time.time() - _changed(files),
        command=config.get("command"),
        is_ending=is_asked_to_finish(folder),
    )


def runs_below(folder: Path, *, deepest: int = 6) -> Iterator[Path]:
    """Yield the run folders in a folder, by name; those inside a run are none, links are not followed."""
    if (folder / "config.json").is_file() and ((folder / "study.db").exists() or (folder / "log.txt").exists()):
        yield folder
        return
    if deepest == 0:
        return
    try:
        inside = sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return  # one that may not be read has no runs to show
    for path in inside:
        if not path.name.startswith("."):
            yield from runs_below(path, deepest=deepest - 1)


def _count(rows: Sequence[TrialRecord], driver: Driver | None) -> StageCount:
    """Count rows; one that a dead driver left running is not running."""
    answered = sum(row.answered_from is not None for row in rows)
    return StageCount(
        done=sum(row.state in ("complete", "pruned") for row in rows) - answered,
        running=sum(row.state == "running" for row in rows) if driver is not None else 0,
        failed=sum(row.state == "fail" and row.cause != "interrupted" for row in rows),
        answered=answered,
    )


def _stage(counts: dict[str, StageCount]) -> str:
    """Return the last stage of which a run has results, or `start`."""
    if counts["confirm"].done and counts["retrain"].done:
        return "retrain"
    return "confirm" if counts["confirm"].done else "search" if counts["search"].done else "start"


def _recommended(files: RunFolder) -> str | None:
    """Return what a finished run recommends, or None if it has no result; a damaged result counts as none."""
    try:
        best = files.read_best()
    except RunError:
        return None
    return None if best is None else str(best.get("arm") or best.get("recommended") or "found #1")


def _changed(files: RunFolder) -> float:
    """Return when a run last changed, in seconds since 1970."""
    paths = [files.config, files.database, Path(f"{files.database}-wal"), files.best, files.log]
    return max((path.stat().st_mtime for path in paths if path.exists()), default=time.time())
