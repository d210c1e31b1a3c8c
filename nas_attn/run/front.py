"""The front of several objectives as a file: the retrained placements with their values, and the search's front."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas_attn.comparison.objectives import KNEE_RULE, front
from nas_attn.files import write_json
from nas_attn.placement import Placement
from nas_attn.run.folder import RunFolder
from nas_attn.run.request import Request
from nas_attn.study.stages import Stages


def objectives_of(request: Request, stages: Stages, placement: Placement) -> dict[str, Any]:
    """Return the mean of each objective of a placement by stage, in plain JSON; empty for a single objective."""
    if len(request.objectives) < 2:
        return {}
    names = [goal.name for goal in request.objectives]
    records = (*stages.search.records(), *stages.final.records())
    lengths = {"confirm": stages.recipe.epochs, "retrain": stages.retrain_epochs}
    found: dict[str, dict[str, float] | None] = {}
    for stage in ("search", "confirm", "retrain"):
        rows = [
            row
            for row in records
            if row.stage == stage and row.key == placement.key and row.epochs == lengths.get(stage, row.epochs)
        ]
        point = stages.search.goals.points(rows).get(placement.key)
        found[stage] = None if point is None else dict(zip(names, point, strict=True))
    return {"objectives": found}


def write_front(request: Request, stages: Stages, folder: RunFolder, files: Mapping[str, str]) -> None:
    """Write `front.json`: the objectives, the rule and the knee, the arms, and the front of the search's trials.

    Args:
        files: Name of an arm's file in `arms/` by its label.
    """
    winner = stages.winner
    if len(request.objectives) < 2 or winner is None:
        folder.front.unlink(missing_ok=True)
        return
    goals, records = stages.search.goals, stages.search.records()
    arms = [(label, placement, objectives_of(request, stages, placement)) for label, placement in stages.arms()]
    tested = {
        label: tuple(values["objectives"]["retrain"].values())
        for label, _, values in arms
        if values["objectives"]["retrain"] is not None
    }
    on_front = set(front(tested, tested.__getitem__, goals.objectives))
    points, placements = goals.points(records), {row.key: row.placement for row in records}
    names = [goal.name for goal in goals.objectives]
    content = {
        "objectives": [goal.to_dict() for goal in goals.objectives],
        "rule": KNEE_RULE,
        "knee": None if winner.knee is None else winner.knee.key,
        "arms": [
            {
                "arm": label,
                "key": placement.key,
                "placement": placement.to_dict(),
                "file": f"{folder.arms.name}/{files[label]}" if label in files else None,
                "confirmed": placement.key in winner.confirmed,
                "on_front": label in on_front,
                **values,
            }
            for label, placement, values in arms
        ],
        "search": [
            {"key": key, "placement": placements[key].to_dict(), **dict(zip(names, points[key], strict=True))}
            for key in goals.front(records)
        ],
    }
    write_json(folder.front, content)
