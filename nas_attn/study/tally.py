"""What is counted of a search's rows as they end, so that no look at the progress reads all rows again."""

from __future__ import annotations

import statistics
from bisect import bisect_left, insort
from collections import defaultdict

from nas_attn.records import TrialRecord


class Tally:
    """Counts of the rows of a search, and the ranking of its placements; each new row costs the same.

    Attributes:
        failed, pruned, answered: Numbers of rows.
        n_trained, seconds: Number and time of the trainings that ended with a value.
    """

    def __init__(self) -> None:
        self.failed = self.pruned = self.answered = self.n_trained = 0
        self.seconds = 0.0
        self._values: dict[str, list[float]] = defaultdict(list)
        self._places: dict[str, int] = {}
        self._ranked: list[tuple[float, int, str]] = []

    def add(self, row: TrialRecord) -> None:
        """Count a row that ended."""
        self.failed += row.state == "fail" and row.cause != "interrupted"
        self.pruned += row.state == "pruned"
        self.answered += row.answered_from is not None
        if row.state == "complete" and row.answered_from is None:
            self.n_trained += 1
            self.seconds += row.seconds
            if row.value is not None:
                self._rank(row.key, row.value)

    def ranking(self, number: int | None = None) -> list[tuple[str, float]]:
        """Return (key, mean value over its trained seeds) of placements with a full budget, the best first.

        Args:
            number: How many of the best; None returns all.
        """
        return [(key, -mean) for mean, _, key in self._ranked[:number]]

    def _rank(self, key: str, value: float) -> None:
        """Move a placement to the place of its new mean; equal ones stay in the order in which they came."""
        values, place = self._values[key], self._places.setdefault(key, len(self._places))
        if values:
            before = (-statistics.fmean(values), place, key)
            del self._ranked[bisect_left(self._ranked, before)]
        values.append(value)
        insort(self._ranked, (-statistics.fmean(values), place, key))
