"""The export of the arms: `best.json` holds what is recommended, `arms/` every arm, each with its weights."""

from __future__ import annotations

import logging
import re
import statistics
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas_attn.comparison.answer import names_in
from nas_attn.errors import RunStopped
from nas_attn.model.build import build
from nas_attn.model.file import save_model
from nas_attn.placement import NONE, Placement
from nas_attn.records import LABEL_AUC, Attempt
from nas_attn.run.folder import RunFolder
from nas_attn.run.front import objectives_of, write_front
from nas_attn.run.identity import CONTENTS
from nas_attn.run.provenance import describe_run
from nas_attn.run.request import Request
from nas_attn.study.stages import Stages

_ELSEWHERE = ("sites", "searched_sites", "recipe", CONTENTS)
"""Keys of `config.json` that `best.json` has elsewhere, or does not need."""

log = logging.getLogger(__name__)


def export(request: Request, stages: Stages, folder: RunFolder, measured: Mapping[str, Attempt]) -> None:
    """Write the model of every arm under `arms/`, and that of the recommended arm as `best.json`; the latter last.

    The weights are those of the arm's first seed that has a value, as links to the files under `retrained/`. An arm
    without any has none and is left out.

    Args:
        measured: Time and memory of the arms, by placement key.
    Raises: RunStopped if the recommended arm is left out.
    """
    common = _common(request, stages)
    names: dict[str, str] = {}
    for label, placement in stages.arms():
        name = file_name(label, names.values())
        record = common | _of_arm(request, stages, label, placement, measured.get(placement.key))
        if _save(request, stages, folder, placement, folder.arms / name, record):
            names[label] = name
        else:
            log.warning("Arm '%s' has no model under %s: its first retraining left no weights.", label, folder.arms)
    kept = {Path(name).stem for name in names.values()}
    for file in folder.arms.glob("*"):
        if file.suffix in (".json", ".safetensors") and file.stem not in kept:  # of an earlier `found #1`
            file.unlink()
    write_front(request, stages, folder, names)
    label, placement = recommended_arm(stages)
    record = common | _of_arm(request, stages, label, placement, measured.get(placement.key))
    if not _save(request, stages, folder, placement, folder.best, record):
        raise RunStopped(
            f"'{label}' is recommended, but none of its retrainings left weights for {folder.best}: the reasons are in "
            f"{folder.report}, and the same command tries again."
        )


def recommended_arm(stages: Stages) -> tuple[str, Placement]:
    """Return label and placement of the arm that a finished run recommends."""
    assert stages.answer is not None, "the export needs an answer"
    knee = stages.winner.knee if stages.winner else None
    if knee is not None:  # of several objectives
        return next((label, placed) for label, placed in stages.arms() if placed.key == knee.key)
    wanted = stages.answer.recommended
    return next((label, placed) for label, placed in stages.arms() if wanted in (label, *names_in(label)))


def file_name(label: str, taken: Collection[str] = ()) -> str:
    """Return the name of an arm's JSON file: safe on every disk, and unlike those that are taken.

    >>> file_name("found #1 = se everywhere"), file_name("SE (mine)", ["se-mine.json"])
    ('found-1-se-everywhere.json', 'se-mine-2.json')
    """
    stem = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:80] or "arm"
    number = 1
    while (name := f"{stem}-{number}.json" if number > 1 else f"{stem}.json") in taken:
        number += 1
    return name


def _save(
    request: Request, stages: Stages, folder: RunFolder, placement: Placement, path: Path, record: Mapping[str, Any]
) -> bool:
    """Write a model with the weights of its first retraining; return whether these exist."""
    place = stages.weights_place(placement)
    reason = stages.unexported.get(placement.key)
    if reason is None and not folder.weights.has(*place):
        return False
    model = build(request.backbone, placement, request.shape, seed=stages.seeds[0])
    if reason is not None:
        log.warning("%s has no weights: %s", path, reason)
        path.with_suffix(".safetensors").unlink(missing_ok=True)  # of an earlier training
        save_model(model, path, record=record, without_weights=reason)
        return True
    save_model(model, path, record=record, weights=folder.weights.path(*place))
    return True


def _figures(attempt: Attempt | None) -> dict[str, Any]:
    """Return the measurement with its conditions; empty if there is none."""
    if attempt is None or attempt.measured is None:
        return {}
    return {**attempt.measured.figures(), "measured_on": asdict(attempt.bench)}


def _common(request: Request, stages: Stages) -> dict[str, Any]:
    """Return what the JSON files of all arms have in common; a custom training normalises its own images."""
    facts = request.facts
    return {
        "recommended": recommended_arm(stages)[0],
        "answer": stages.answer.to_dict() if stages.answer else {},
        "arms": stages.retrained(),
        "mean": list(facts.mean) if facts else [0.0] * request.shape.in_channels,
        "std": list(facts.std) if facts else [1.0] * request.shape.in_channels,
        "rendering": facts.rendering.to_dict() if facts else None,
        "class_names": list(request.class_names),
        "logits_of": request.logits_of,
        "recipe": request.settings.recipe.model_dump(),
        "provenance": {name: value for name, value in describe_run(request).items() if name not in _ELSEWHERE},
    }


def _of_arm(
    request: Request, stages: Stages, label: str, placement: Placement, attempt: Attempt | None
) -> dict[str, Any]:
    """Return what the JSON file of one arm has of its own."""
    cost = request.bound.cost(placement)
    metric, epochs, searched = request.metric, stages.retrain_epochs, request.settings.recipe.epochs
    retrained = {placement.key: placement for placement in (placement, NONE)}
    test = {
        key: _metric(metric, stages.final.values("retrain", found, epochs), epochs) | _by_label(stages, key)
        for key, found in retrained.items()
    }
    return {
        "arm": label,
        "metrics": {
            "test": test[placement.key],
            "test_without_attention": test[NONE.key],
            "validation": _metric(metric, stages.final.values("confirm", placement, searched), searched),
            **objectives_of(request, stages, placement),
        },
        "cost": {"n_parameters": cost.n_parameters, "n_macs": cost.n_macs, **_figures(attempt)},
    }


def _by_label(stages: Stages, key: str) -> dict[str, Any]:
    """Return the mean test ROC AUC over the seeds per label; empty for a single-label task."""
    found: dict[str, list[float]] = {}
    for row in stages.final.records():
        if (row.stage, row.key, row.epochs, row.state) == ("retrain", key, stages.retrain_epochs, "complete"):
            for name, value in row.facts.items():
                if name.startswith(LABEL_AUC):
                    found.setdefault(name.removeprefix(LABEL_AUC), []).append(value)
    return {"by_label": {name: statistics.fmean(values) for name, values in found.items()}} if found else {}


def _metric(name: str, values: dict[int, float], epochs: int) -> dict[str, Any]:
    """Return mean, sd and n over the seeds, and the value per seed."""
    found = list(values.values())
    return {
        f"{name}_mean": statistics.fmean(found) if found else None,
        f"{name}_sd": statistics.stdev(found) if len(found) > 1 else None,
        "n": len(found),
        "epochs": epochs,
        "by_seed": {str(seed): value for seed, value in values.items()},
    }
