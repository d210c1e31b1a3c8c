"""Axes: from values to per cent of a drawing's width or height, with round ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

LOG_FROM = 5.0  # an axis whose largest value is this many times its smallest is logarithmic
PADDING = 0.06  # of the range, left free at both ends


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, `at` per cent of its length."""

    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A range of values laid out over 0 to 100 per cent."""

    low: float
    high: float
    ticks: tuple[Tick, ...] = ()
    is_log: bool = False

    def at(self, value: float) -> float:
        """Return where a value lies, in per cent."""
        low, high, value = (math.log(x) if self.is_log else x for x in (self.low, self.high, value))
        return round(100.0 * (value - low) / (high - low), 3)


def linear_axis(values: Iterable[float], write: Callable[[float], str], n_ticks: int = 5) -> Axis:
    """Return an axis that holds all values, with about `n_ticks` round ticks.

    Args:
        write: Turns a tick's value into its label.
    """
    low, high = _padded(list(values))
    return _with_ticks(Axis(low, high), round_steps(low, high, n_ticks), write)


def cost_axis(values: Iterable[float], write: Callable[[float], str]) -> Axis:
    """Return an axis for positive costs: logarithmic when they differ much, else linear."""
    costs = list(values)
    low, high = min(costs), max(costs)
    if low <= 0.0 or high / low < LOG_FROM:
        return linear_axis(costs, write, n_ticks=4)
    low, high = low * (high / low) ** -PADDING, high * (high / low) ** PADDING
    steps = [digit * 10.0**power for power in range(-2, 16) for digit in (1, 2, 5)]
    return _with_ticks(Axis(low, high, is_log=True), [step for step in steps if low <= step <= high], write)


def _with_ticks(axis: Axis, steps: Sequence[float], write: Callable[[float], str]) -> Axis:
    ticks = tuple(Tick(axis.at(step), write(step)) for step in steps)
    return Axis(axis.low, axis.high, ticks, axis.is_log)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * PADDING or max(abs(low) * 0.01, 1e-3)
    return low - margin, high + margin


def round_steps(low: float, high: float, n_steps: int) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten between `low` and `high`, about `n_steps` of them.

    >>> round_steps(0.948, 0.972, 4)
    [0.95, 0.955, 0.96, 0.965, 0.97]
    """
    rough = (high - low) / n_steps
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((1.0, 2.0, 5.0, 10.0), key=lambda digit: abs(math.log(digit * power / rough))) * power
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]
