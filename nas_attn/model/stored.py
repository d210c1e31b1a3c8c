"""Finds the model that a path means: one JSON file, or an arm of a run folder, by default the recommended one."""

from __future__ import annotations

import csv
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nas_attn.comparison.answer import names_in
from nas_attn.errors import FileError, first_line, unknown
from nas_attn.model.description import ModelFile, read_model_file
from nas_attn.placement import Placement
from nas_attn.records import BARE

BEST, ARMS, RETRAINED = "best.json", "arms", "retrained"
"""Names in a run folder: the recommended model, the folder of every arm's model, the weights of single trainings."""

MOST_SHOWN = 3
"""Maximum number of sites that are named in a sentence about a model."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredModel:
    """A model on the disk.

    Args:
        file: The JSON file that describes it.
        weights: Its weights; see `described.without_weights` if they could not be exported.
        sha256: Of the weights; None for an arm of a run of version 0.1.0, which stored none.
        about: What it is, in one sentence.
    """

    file: Path
    described: ModelFile
    weights: Path
    sha256: str | None
    about: str


def find_model(path: Path, arm: str | None = None) -> StoredModel:
    """Return the model of a JSON file, or of a run folder: the recommended arm, or the named one.

    A run of version 0.1.0 has no folder `arms`, and its `best.json` holds `found #1` whatever it recommends: there the
    arms are found by `arms.csv` and the weights of their first retraining.

    Args:
        arm: Name of an arm, such as `found #1`, `none` or `se everywhere`; only with a run folder.
    Raises: FileError if the path is neither, or the run has no such arm: with the nearest name and all known ones.
    """
    if path.is_dir():
        return _of_run(path, arm)
    if path.suffix == ".safetensors":
        raise FileError(
            f"A model is loaded by its JSON file or its run folder, but {path} holds weights alone: pass the JSON file "
            "beside them, or the run folder with `arm`."
        )
    if arm is not None:
        raise FileError(f"`arm` names an arm of a run folder, but {path} is one model: pass its folder {path.parent}.")
    described = read_model_file(path)
    if _is_rejected(described):
        log.warning("%s is the best placement with attention, but its run recommends none: load its folder.", path)
    return _beside(path, described)


def arm_files(run: Path) -> dict[str, Path]:
    """Return the JSON file of every arm's model by its label. Raises: FileError if one is truncated or altered."""
    files = sorted((run / ARMS).glob("*.json"))
    return {read_model_file(file).arm or file.stem: file for file in files}


def _of_run(run: Path, arm: str | None) -> StoredModel:
    best = run / BEST
    if not best.is_file():
        raise FileError(
            f"A model is loaded from a finished run, but {run} has no {BEST}: it is no run, or its search has not "
            "finished; the search's command finishes it."
        )
    described = read_model_file(best)
    if described.arm is None:
        return _of_old_run(best, described, arm)
    if arm is None:
        return _beside(best, described)
    files = {name: file for label, file in arm_files(run).items() for name in (*names_in(label), label)}
    if not files:
        raise FileError(
            f"{run / ARMS} must hold the networks of the arms, but is empty: delete {best}, and the search's command "
            "writes both again without any training."
        )
    if arm not in files:
        raise _unknown_arm(arm, files, run)
    return _beside(files[arm], read_model_file(files[arm]))


def _of_old_run(best: Path, described: ModelFile, arm: str | None) -> StoredModel:
    """Return an arm of a run of version 0.1.0."""
    run = best.parent
    rows = {name: row for row in _old_arms(run) for name in (*names_in(row[0]), row[0])}
    wanted = arm if arm is not None else described.recommended or BARE
    if wanted in rows:
        label, placement, weights = rows[wanted]
        if placement.to_dict() == described.placement:
            return _beside(best, described.model_copy(update={"arm": label}))
        changed = {"placement": placement.to_dict(), "metrics": {}, "cost": {}, "arm": label}
        described = described.model_copy(update=changed)
        return StoredModel(best, described, weights, None, _about(weights, described))
    if arm is not None:
        raise _unknown_arm(arm, rows, run)
    if _is_rejected(described):
        log.warning("%s recommends no attention, but its weights are missing: this is the best with attention.", run)
    return _beside(best, described)


def _old_arms(run: Path) -> Iterator[tuple[str, Placement, Path]]:
    """Yield label, placement and weights of every arm whose weights are stored, by `arms.csv`."""
    table = run / "arms.csv"
    if not table.is_file():
        return
    try:
        with table.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                files = sorted((run / RETRAINED).glob(f"{row['key']}-*-{row['epochs']}.safetensors"))
                if files:
                    yield row["arm"], Placement.from_dict(json.loads(row["placement"])), files[0]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{table} must be as the search wrote it, but was altered ({first_line(error)}).") from error


def _beside(file: Path, described: ModelFile) -> StoredModel:
    """Return a model whose weights lie beside its JSON file."""
    stated = described.weights
    weights = file.with_suffix(".safetensors") if stated is None else file.with_name(stated.name)
    return StoredModel(file, described, weights, stated.sha256 if stated else None, _about(file, described))


def _about(file: Path, described: ModelFile) -> str:
    """Return in one sentence what a model is.

    For example: `arm 'found #1' (its run recommends 'none'), from runs/mine/arms/found-1.json: se at stage3`.
    """
    arm, recommended = described.arm, described.recommended
    label = f"arm '{arm}'" if arm else "model"
    if arm and recommended:
        label += " (recommended)" if recommended in (*names_in(arm), arm) else f" (its run recommends '{recommended}')"
    placement = described.placement
    sites = ", ".join(f"{attention.get('name')} at {site}" for site, attention in placement.items())
    if len(placement) > MOST_SHOWN:
        counts = Counter(str(attention.get("name")) for attention in placement.values())
        sites = ", ".join(f"{name} at {n} site{'s' * (n > 1)}" for name, n in counts.items())
    return f"{label}, from {file}: {sites or 'no attention'}"


def _is_rejected(described: ModelFile) -> bool:
    """Return whether this is the `best.json` of a run of version 0.1.0 that recommends no attention."""
    return described.arm is None and described.recommended == BARE and bool(described.placement)


def _unknown_arm(arm: str, known: Iterable[str], run: Path) -> FileError:
    return FileError(unknown("arm", arm, {name for label in known for name in names_in(label)}, str(run)))
