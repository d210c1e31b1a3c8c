"""How long trainings of one kind take: their means, and how far each was from what was expected of it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

_NEWEST = 8
"""Number of trainings that count as the newest."""

_FEW, _UNSEEN_SPREAD = 3, 0.15
"""Number of trainings below which at least this standard deviation over the mean is assumed."""


class Lengths:
    """The durations of trainings that have ended, by placement, and how far they were from what was expected of them.

    Attributes:
        n, total: Their number, and the sum of their seconds.
    """

    def __init__(self) -> None:
        self.n, self.total = 0, 0.0
        self._of: dict[str, tuple[int, float]] = {}
        self._n_expected, self._squares = 0, 0.0
        self._newest: deque[tuple[str, float]] = deque(maxlen=_NEWEST)

    def add(self, seconds: float, key: str = "", expected: float | None = None) -> None:
        """Take one training.

        Args:
            key: The key of its placement.
            expected: The seconds that were expected of it; None if nothing was known.
        """
        self.n += 1
        self.total += seconds
        number, total = self._of.get(key, (0, 0.0))
        self._of[key] = (number + 1, total + seconds)
        if expected is not None:
            self._n_expected += 1
            self._squares += (seconds - expected) ** 2
        self._newest.append((key, seconds))

    @property
    def value(self) -> float | None:
        """The mean; None before the first one."""
        return self.total / self.n if self.n else None

    def of(self, key: str) -> float | None:
        """Return the mean of a placement; None before its first training."""
        number, total = self._of.get(key, (0, 0.0))
        return total / number if number else None

    def by_key(self) -> Iterator[tuple[str, int, float]]:
        """Yield the key, the number of trainings and the sum of the seconds of every placement."""
        return ((key, number, total) for key, (number, total) in self._of.items())

    @property
    def drift(self) -> float:
        """By how much the newest ones take longer than is usual: other work on a machine comes and goes."""
        later = [seconds - self._usual(key) for key, seconds in self._newest]
        return max(0.0, sum(later) / len(later)) if later else 0.0

    def scatter(self, rounds: float) -> float:
        """Return the standard deviation of the time of so many trainings, one after the other, about the expected."""
        return math.sqrt(self._variance * rounds)

    def doubt(self, rounds: float) -> float:
        """Return the same with the standard error of the mean: after few trainings their mean is hardly known."""
        return math.sqrt(self._variance * (rounds + rounds * rounds / max(1, self.n)))

    def _usual(self, key: str) -> float:
        """Return the mean of a placement that was trained more than once, else the mean of all."""
        number, total = self._of[key]
        return total / number if number > 1 else self.total / self.n

    @property
    def _variance(self) -> float:
        mean = self.value
        if mean is None:
            return 0.0
        variance = self._squares / max(1, self._n_expected)
        return variance if self._n_expected >= _FEW else max(variance, (_UNSEEN_SPREAD * mean) ** 2)
