"""How long trainings of one kind take: their mean, their spread, and how the newest ones differ."""

from __future__ import annotations

import math
from collections import deque

_NEWEST = 8
"""Number of trainings that count as the newest."""

_FEW, _UNSEEN_SPREAD = 3, 0.15
"""Number of trainings below which at least this standard deviation over the mean is assumed."""


class Lengths:
    """The durations of trainings that have ended.

    Attributes:
        n, total: Their number, and the sum of their seconds.
    """

    def __init__(self) -> None:
        self.n, self.total = 0, 0.0
        self._squares = 0.0
        self._newest: deque[float] = deque(maxlen=_NEWEST)

    def add(self, seconds: float) -> None:
        """Take one training."""
        self.n += 1
        self.total += seconds
        self._squares += seconds * seconds
        self._newest.append(seconds)

    @property
    def value(self) -> float | None:
        """The mean; None before the first one."""
        return self.total / self.n if self.n else None

    @property
    def drift(self) -> float:
        """By how much the newest ones take longer than all: other work on a machine comes and goes."""
        return max(0.0, sum(self._newest) / len(self._newest) - self.total / self.n) if self.n else 0.0

    def scatter(self, rounds: float) -> float:
        """Return the standard deviation of the time of so many trainings, one after the other, about the mean."""
        return math.sqrt(self._variance * rounds)

    def doubt(self, rounds: float) -> float:
        """Return the same with the standard error of the mean: after few trainings their mean is hardly known."""
        return math.sqrt(self._variance * (rounds + rounds * rounds / max(1, self.n)))

    @property
    def _variance(self) -> float:
        mean = self.value
        if mean is None:
            return 0.0
        variance = max(0.0, self._squares / self.n - mean * mean) * self.n / max(1, self.n - 1)
        return variance if self.n >= _FEW else max(variance, (_UNSEEN_SPREAD * mean) ** 2)
