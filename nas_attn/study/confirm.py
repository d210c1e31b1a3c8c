"""The confirm stage: the best placements of a search are trained with new seeds, and the best mean wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas_attn.comparison.objectives import front, knee
from nas_attn.placement import NONE, Placement
from nas_attn.records import BARE, OF_CONTROL, Artifact
from nas_attn.study.planned import PlannedRun, PlannedRuns

CONFIRM_SEEDS = 2
"""Number of new seeds per candidate, which decide the winner."""

CONFIRM_OFFSET = 10_000
"""Offset of their seeds from the run's seed."""


@dataclass(frozen=True)
class Winner:
    """The decision of the confirm stage, on validation values alone.

    Args:
        placement: The best placement with attention; None if no such trial has a value.
        confirmed: Mean validation value over the confirm seeds, by placement key.
        control: The best one that the random search found; None without such a search.
        others: With several objectives, the other placements that were confirmed, in their order.
        knee: With several objectives, the knee of the front of all that were confirmed, no attention among them.
    """

    placement: Placement | None
    confirmed: dict[str, float]
    control: Placement | None = None
    others: tuple[Placement, ...] = ()
    knee: Placement | None = None


@dataclass(frozen=True)
class Candidates:
    """The placements to confirm, the best first.

    Args:
        found: Those of the search.
        control: Those of the random search beside it; empty without one.
    """

    found: Sequence[Placement]
    control: Sequence[Placement]

    def plans(self, seed: int, epochs: int, kept: Artifact) -> list[PlannedRun]:
        """Return the runs of the stage, seed by seed; one that both searches found is trained once.

        Args:
            seed: The run's seed.
            kept: The form in which predictions are stored.
        """
        labelled = [(BARE, NONE), *((f"best {rank}", placement) for rank, placement in enumerate(self.found, 1))]
        labelled += [(OF_CONTROL, placement) for placement in self.control]
        return [
            PlannedRun("confirm", label, placement, seed + CONFIRM_OFFSET + index, epochs, (kept,))
            for index in range(CONFIRM_SEEDS)
            for label, placement in labelled
        ]

    def decide(self, final: PlannedRuns, epochs: int) -> Winner:
        """Return the best placement of each search by the mean over the new seeds.

        With several objectives it is the knee of the front of the placements with attention.
        """
        placements = [NONE, *self.found, *self.control]
        means = {placement.key: final.mean("confirm", placement, epochs) for placement in placements}
        known = {key: mean for key, mean in means.items() if mean is not None}
        if final.goals.are_several:
            return self._decide_by_knee(final, epochs, known)
        return Winner(_best(self.found, known), known, _best(self.control, known))

    def _decide_by_knee(self, final: PlannedRuns, epochs: int, means: dict[str, float]) -> Winner:
        goals = final.goals
        rows = [row for row in final.records() if row.stage == "confirm" and row.epochs == epochs]
        points = goals.points(rows)

        def knee_of(placements: Sequence[Placement]) -> Placement | None:
            with_values = [placement for placement in placements if placement.key in points]
            on_front = front(with_values, lambda placement: points[placement.key], goals.objectives)
            return knee(on_front, lambda placement: points[placement.key], goals.objectives)

        found = knee_of(self.found)
        others = tuple(placement for placement in self.found if found is not None and placement.key != found.key)
        return Winner(found, means, knee_of(self.control), others, knee_of([NONE, *self.found]))


def _best(candidates: Sequence[Placement], means: dict[str, float]) -> Placement | None:
    with_value = [placement for placement in candidates if placement.key in means]
    return max(with_value, key=lambda placement: means[placement.key], default=None)
