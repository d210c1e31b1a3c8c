"""The test values of an arm, with its predictions of each image where they are stored."""

from __future__ import annotations

from nas_attn.comparison.answer import Sample, sample_of
from nas_attn.comparison.objectives import has_shares
from nas_attn.comparison.predictions import Predictions
from nas_attn.placement import Placement
from nas_attn.space.bound import BoundSpace
from nas_attn.study.objectives import Goals
from nas_attn.study.planned import PlannedRuns, TrialStore


class Samples:
    """Reads the finished retrainings of an arm.

    Args:
        final: The ledger of the retrainings.
        predictions: Stores what each retrained network predicts.
        goals, bound: The limits of the run: an arm beyond them is not recommended.
    """

    def __init__(self, final: PlannedRuns, predictions: TrialStore, goals: Goals, bound: BoundSpace) -> None:
        self._final, self._predictions, self._goals, self._bound = final, predictions, goals, bound

    def of(self, label: str, placements: tuple[Placement, ...], epochs: int) -> Sample:
        """Return the sample of an arm, whose seeds are spread over these placements."""
        values: dict[int, float] = {}
        predictions: dict[int, Predictions] = {}
        for placement in placements:
            for seed, value in self._final.values("retrain", placement, epochs).items():
                values[seed] = value
                content = self._predictions.read(placement.key, seed, epochs)
                if content is not None:
                    predictions[seed] = Predictions.from_bytes(content, f"The predictions of '{label}', seed {seed},")
        shares = {seed: found for seed, found in predictions.items() if self._has_shares(found)}
        barred = any(self._bound.check(placement) or self._goals.check(placement) for placement in placements)
        return sample_of(label, values, shares, barred=barred)

    def _has_shares(self, found: Predictions) -> bool:
        """Return whether the value of a training is a mean over its images."""
        return has_shares(self._goals.objectives, of_classes=found.predicted is not None)
