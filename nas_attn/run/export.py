"""The export of the winner: `best.json` and its weights, with metrics, cost, recipe and provenance."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from safetensors.torch import load_file

from nas_attn.backbones.weights import fill
from nas_attn.model.build import build
from nas_attn.model.file import save_model
from nas_attn.placement import NONE, Placement
from nas_attn.records import LABEL_AUC, Attempt
from nas_attn.run.folder import RunFolder
from nas_attn.run.provenance import describe_run
from nas_attn.run.request import Request
from nas_attn.study.stages import Stages

_ELSEWHERE = ("sites", "searched_sites", "recipe")
"""Keys of `config.json` that `best.json` has elsewhere, or does not need."""


def export(request: Request, stages: Stages, folder: RunFolder, measured: Mapping[str, Attempt]) -> None:
    """Write `best.json` and `best.safetensors`: the best placement with attention, and the weights of its first seed.

    If `recommended` is `none`, no attention was better on validation; the files still contain the best placement with
    attention, for comparison. If no trial with attention has a value, they contain the bare network.

    Args:
        measured: Time and memory of the arms, by placement key.
    """
    assert stages.winner is not None, "the export needs a winner"
    placement = stages.winner.placement or NONE
    model = build(request.backbone, placement, request.shape, seed=stages.seeds[0])
    fill(model, load_file(folder.weights.path(placement, stages.seeds[0], stages.retrain_epochs)))
    model.eval()
    save_model(model, folder.best, record=_record(request, stages, placement, measured.get(placement.key)))


def _figures(attempt: Attempt | None) -> dict[str, Any]:
    """Return the measurement with its conditions; empty if there is none."""
    if attempt is None or attempt.measured is None:
        return {}
    return {**attempt.measured.figures(), "measured_on": asdict(attempt.bench)}


def _record(request: Request, stages: Stages, placement: Placement, attempt: Attempt | None) -> dict[str, Any]:
    """Return the content of `best.json` besides the model; a custom training normalises its own images."""
    config = describe_run(request)
    facts = request.facts
    cost = request.bound.cost(placement)
    metric, epochs, searched = request.metric, stages.retrain_epochs, request.settings.recipe.epochs
    retrained = {placement.key: placement for placement in (placement, NONE)}
    test = {
        key: _metric(metric, stages.final.values("retrain", found, epochs), epochs) | _by_label(stages, key)
        for key, found in retrained.items()
    }
    return {
        "recommended": stages.winner.recommended if stages.winner else "none",
        "mean": list(facts.mean) if facts else [0.0] * request.shape.in_channels,
        "std": list(facts.std) if facts else [1.0] * request.shape.in_channels,
        "class_names": list(request.class_names),
        "logits_of": request.logits_of,
        "metrics": {
            "test": test[placement.key],
            "test_without_attention": test[NONE.key],
            "validation": _metric(metric, stages.final.values("confirm", placement, searched), searched),
        },
        "cost": {"n_parameters": cost.n_parameters, "n_macs": cost.n_macs, **_figures(attempt)},
        "recipe": request.settings.recipe.model_dump(),
        "provenance": {name: value for name, value in config.items() if name not in _ELSEWHERE},
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
