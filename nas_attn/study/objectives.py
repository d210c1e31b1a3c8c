"""The objectives of a run's trials: what is known of a network before its training, limits on it, and the best ones."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nas_attn.comparison.objectives import Objective, front, further, in_order, means, spread
from nas_attn.placement import Placement
from nas_attn.records import Outcome, TrialRecord
from nas_attn.space.fit import Cost

Measure = Callable[[Placement], Mapping[str, float]]
"""Returns the measured values of a placement's network, `latency` and `memory`; each placement is measured once."""

log = logging.getLogger(__name__)


def _unmeasured(placement: Placement) -> Mapping[str, float]:
    raise AssertionError(f"{placement} has no measured value in a run without such an objective")


@dataclass(frozen=True)
class Goals:
    """What a run improves, and the limit on what is measured before a training.

    Args:
        objectives: The first one is the value of a trial; empty for the usual value.
        max_latency: Greatest latency of one image in milliseconds; None has no limit.
        measure: Measures the network of a placement.
    """

    objectives: tuple[Objective, ...] = ()
    max_latency: float | None = None
    measure: Measure = field(default=_unmeasured, repr=False)

    @property
    def are_several(self) -> bool:
        """Whether there is more than one objective."""
        return len(self.objectives) > 1

    @property
    def is_measured(self) -> bool:
        """Whether networks are measured before their training."""
        return self.max_latency is not None or any(goal.name in ("latency", "memory") for goal in self.objectives)

    def known(self, placement: Placement, cost: Cost) -> dict[str, float]:
        """Return the objectives that are known before the training, by name."""
        costs = further(self.objectives, source="cost")
        counted = {"params": float(cost.n_parameters), "macs": float(cost.n_macs)}
        is_measured = any(goal.name not in counted for goal in costs)
        found = {**counted, **(self.measure(placement) if is_measured else {})}
        return {goal.name: found[goal.name] for goal in costs if math.isfinite(found[goal.name])}

    def check(self, placement: Placement) -> str | None:
        """Return the sentence for the limit that a network exceeds by measurement, or None; measured if need be."""
        if self.max_latency is None:
            return None
        latency = self.measure(placement)["latency"]
        if latency <= self.max_latency:
            return None
        return (
            f"latency <= max_latency must hold, but the network takes {latency:.4g} ms for one image, and max_latency "
            f"is {self.max_latency:g} ms."
        )

    def refuses(self, placement: Placement) -> bool:
        """Return whether a placement is not trained because of its measured values."""
        if self.check(placement) is not None:
            return True
        measured = [goal for goal in further(self.objectives, source="cost") if goal.name in ("latency", "memory")]
        return bool(measured) and not all(math.isfinite(self.measure(placement)[goal.name]) for goal in measured)

    def completed(self, record: TrialRecord, outcome: Outcome) -> Outcome:
        """Return the outcome of a trial with all objectives after the first in their order."""
        if self.max_latency is not None and "latency" not in outcome.values:
            latency = self.measure(record.placement)["latency"]
            outcome = replace(outcome, facts={**outcome.facts, "latency": latency})
        names = {goal.name for goal in further(self.objectives)}
        others = {name: value for name, value in outcome.values.items() if name not in names}
        outcome = replace(outcome, facts={**outcome.facts, **others})
        if outcome.state != "complete" or not self.are_several:
            return replace(outcome, values={})
        values = {**outcome.values, **record.values}
        missing = [goal.name for goal in further(self.objectives) if goal.name not in values]
        if missing:
            reason = f"A trial needs a value of the objective '{missing[0]}', but it could not be measured."
            return replace(outcome, state="fail", value=None, values={}, cause="error", reason=reason)
        return replace(outcome, values=in_order(self.objectives, values))

    def values_of(self, record: TrialRecord) -> list[float]:
        """Return the values of a complete trial, one per objective, for the sampler."""
        assert record.value is not None, "a complete trial has a value"
        return [record.value, *(record.values[goal.name] for goal in further(self.objectives))]

    def points(self, records: Iterable[TrialRecord]) -> dict[str, tuple[float, ...]]:
        """Return the mean of each objective over a placement's complete trials, by key, in order of the first trial."""
        rows: dict[str, list[list[float]]] = defaultdict(list)
        for row in records:
            if row.state == "complete" and row.answered_from is None and row.value is not None:
                rows[row.key].append(self.values_of(row))
        return {key: means(found) for key, found in rows.items()}

    def front(self, records: Iterable[TrialRecord]) -> list[str]:
        """Return the keys of the placements that no other one dominates, over their complete trials."""
        points = self.points(records)
        return front(points, points.__getitem__, self.objectives)

    def best(self, records: Sequence[TrialRecord], number: int) -> list[Placement]:
        """Return at most `number` placements with attention to confirm.

        With one objective they are those with the best mean; with several they belong to the front of the placements
        with attention: its knee first, then those that spread widest over it (`spread`).
        """
        placements = {row.key: row.placement for row in records if len(row.placement)}
        points = {key: point for key, point in self.points(records).items() if key in placements}
        if not self.are_several:
            return [placements[key] for key in sorted(points, key=lambda key: -points[key][0])[:number]]
        keys = front(points, points.__getitem__, self.objectives)
        return [placements[key] for key in spread(keys, points.__getitem__, self.objectives, number)]


USUAL = Goals()
"""The goals of a run with the usual value and no measured limit."""
