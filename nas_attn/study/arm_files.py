"""The files that confirm and retrain runs return: weights and predictions."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from nas_attn.records import Outcome, Task
from nas_attn.study.planned import PlannedRun, TrialStore


@dataclass(frozen=True)
class ArmFiles:
    """Stores the files of the trainings.

    Args:
        weights: Stores the weights of every arm's first seed.
        predictions: Stores the predictions of every confirm and retrain run.
    """

    weights: TrialStore
    predictions: TrialStore

    def write(self, task: Task, outcome: Outcome) -> None:
        """Store the files of a training; the ranking of a screen belongs to the ledger."""
        for name, content in outcome.artifacts.items():
            if name != "ranking":
                store = self.weights if name == "weights" else self.predictions
                store.write(task.placement.key, task.seed, task.epochs, content)

    def has_lost(self, plan: PlannedRun, unexported: Container[str]) -> bool:
        """Return whether the weights of a finished run are missing, or its stored files were lost or damaged since.

        Args:
            unexported: Keys of the placements whose weights cannot be exported.
        """
        place = (plan.placement.key, plan.seed, plan.epochs)
        is_exported = "weights" in plan.artifacts and plan.placement.key not in unexported
        return (is_exported and not self.weights.has(*place)) or self.predictions.is_lost(*place)

    def are_damaged(self, plan: PlannedRun) -> bool:
        """Return whether files of a run that were stored once are missing, truncated or altered now."""
        place = (plan.placement.key, plan.seed, plan.epochs)
        return self.weights.is_lost(*place) or self.predictions.is_lost(*place)
