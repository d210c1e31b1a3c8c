"""What can be deleted of runs and caches: never anything of a living run, nor of a result."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nas_attn.data.held import is_held
from nas_attn.errors import RunError
from nas_attn.executors.temporary import left_behind
from nas_attn.files import cache_path, is_part
from nas_attn.run.driver import DRIVER, living_driver
from nas_attn.run.folder import RunFolder
from nas_attn.run.status import runs_below


@dataclass(frozen=True)
class Waste:
    """A file or folder that can be deleted.

    Args:
        what: What it is, and what deleting it costs, in a few words.
        n_bytes: Its size.
        run: The run that it belongs to; None for one outside of runs.
    """

    path: Path
    what: str
    n_bytes: int
    run: Path | None = None


def waste_below(folder: Path) -> list[Waste]:
    """Return what can be deleted of the dead runs below a folder, of the cache, and of Ray's temporary folders.

    Images that a living process has read from the cache are left alone: a worker that starts later reads them again.
    """
    found = [waste for run in runs_below(folder) if living_driver(run) is None for waste in _of_run(run)]
    images = cache_path("folders")
    if images is not None and images.is_dir():
        free = [path for path in _files(images) if not is_held(path)]
        found += [Waste(path, "decoded images, read again when needed", _size(path)) for path in free]
    return [*found, *(Waste(path, "temporary folder of a dead process", _size(path)) for path in left_behind())]


def delete(found: list[Waste]) -> tuple[list[Waste], list[str]]:
    """Delete what was found; return what was deleted, and a sentence on each that was not.

    The folder of a run is locked meanwhile: a run that has begun since then is left alone.
    """
    deleted: list[Waste] = []
    refused: list[str] = []
    for run in dict.fromkeys(waste.run for waste in found):
        mine = [waste for waste in found if waste.run == run]
        try:
            if run is None:
                deleted += [waste for waste in mine if _removed(waste, refused)]
            else:
                with RunFolder(run).locked():
                    deleted += [waste for waste in mine if _removed(waste, refused)]
        except RunError as error:
            refused.append(str(error))
    return deleted, refused


def _of_run(run: Path) -> Iterator[Waste]:
    for path in sorted(run.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        if is_part(path):
            yield Waste(path, "part of a file of a killed process", _size(path), run)
        elif path.parent == run / "checkpoints" and path.suffix == ".checkpoint":
            yield Waste(path, "checkpoint: its training begins anew", _size(path), run)
        elif path == run / DRIVER:
            yield Waste(path, "note of a driver that is dead", _size(path), run)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())


def _size(path: Path) -> int:
    """Return the size of a file, or of all files in a folder; one that vanishes counts as empty."""
    paths = [path] if path.is_file() else list(path.rglob("*"))
    total = 0
    for each in paths:
        with suppress(OSError):
            total += each.lstat().st_size
    return total


def _removed(waste: Waste, refused: list[str]) -> bool:
    """Delete one; return whether it is gone."""
    if waste.path.is_file() and is_held(waste.path):
        refused.append(f"{waste.path} is left alone: another process began to use it.")
        return False
    try:
        if waste.path.is_dir() and not waste.path.is_symlink():
            shutil.rmtree(waste.path)
        else:
            waste.path.unlink(missing_ok=True)
    except OSError as error:
        refused.append(f"{waste.path} cannot be deleted: {error.strerror}.")
        return False
    return True
