"""How the networks of some arms learned: mean curves over the seeds, in the final training and on validation images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas_attn.placement import Placement
from nas_attn.records import RunRecord, Stage, TrialRecord
from nas_attn.report.tables import measured

TRAINED, REPORTED = "Training batches", "Final training, as reported"
"""What the curves of the final training show: of our own training, and of a custom one."""


@dataclass(frozen=True)
class Curve:
    """The curve of one arm.

    Args:
        mean, low, high: Over the seeds, for each epoch that all of them reported.
        n_epochs: Length of the schedule.
    """

    label: str
    placement: Placement
    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n_seeds: int
    n_epochs: int

    @property
    def is_thinned(self) -> bool:
        """Whether there are epochs after which nothing was measured."""
        return len(self.epochs) < self.n_epochs


@dataclass(frozen=True)
class Curves:
    """The curves of one stage.

    Args:
        title: What the values are measured on.
    """

    stage: Stage
    title: str
    curves: tuple[Curve, ...]

    @property
    def measured(self) -> str:
        """At how many epochs the values were measured; empty if at all of them."""
        thinned = next((curve for curve in self.curves if curve.is_thinned), None)
        return "" if thinned is None else f"measured after {len(thinned.epochs)} of {thinned.n_epochs} epochs"


def curves_of(run: RunRecord, placements: Mapping[str, Placement]) -> tuple[Curves, ...]:
    """Return the curves of these arms: of the final training, then of confirmed runs, else of the search.

    Args:
        placements: That of each arm, by its label.
    """
    training, validation = _stage(run, "retrain", placements), _stage(run, "confirm", placements)
    if len(validation.curves) < len(placements):
        searched = _stage(run, "search", placements)
        validation = max(validation, searched, key=lambda found: len(found.curves))
    return tuple(found for found in (training, validation) if found.curves)


def _stage(run: RunRecord, stage: Stage, placements: Mapping[str, Placement]) -> Curves:
    rows = [row for row in measured(getattr(run, stage)) if len(row.curve) > 1]
    found = (_curve(label, [row for row in rows if row.placement == one]) for label, one in placements.items())
    title = "Validation images" if stage != "retrain" else REPORTED if run.config.get("train") else TRAINED
    return Curves(stage, title, tuple(curve for curve in found if curve is not None))


def _curve(label: str, rows: Sequence[TrialRecord]) -> Curve | None:
    """Return the mean curve of the rows with the longest schedule, one row a seed."""
    longest = max((row.epochs for row in rows), default=0)
    by_seed = {row.seed: row for row in rows if row.epochs == longest}
    kept = list(by_seed.values())
    epochs = sorted(set.intersection(*(set(row.curve) for row in kept))) if kept else []
    if len(epochs) < 2:
        return None
    values = [[row.curve[epoch] for row in kept] for epoch in epochs]
    means = tuple(sum(every) / len(every) for every in values)
    low, high = tuple(map(min, values)), tuple(map(max, values))
    return Curve(label, kept[0].placement, tuple(epochs), means, low, high, len(kept), longest)
