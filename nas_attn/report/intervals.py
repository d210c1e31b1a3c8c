"""Means with their 95 % t intervals, and differences with a verdict. Pure numbers: nothing here reads a run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit

CONFIDENCE = 0.95
DIGITS = 12  # differences are rounded here, so that equal differences are equal in floating point too

Word = Literal["better", "worse", "within noise", "not known"]


@dataclass(frozen=True)
class Summary:
    """A sample in four numbers.

    Args:
        sd: Standard deviation with n - 1; None for a single value.
        low, high: 95 % t interval of the mean; None where n or the spread gives none.
    """

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One arm against a baseline, paired by seed.

    Args:
        by_seed: Arm minus baseline for every seed that both have.
        summary: Of these differences; None when no seed is shared.
        word: The verdict; "not known" where the seeds allow none, then `why` says why.
    """

    arm: str
    baseline: str
    by_seed: Mapping[int, float]
    summary: Summary | None
    word: Word
    why: str = ""


def half_width(sd: float, n: float, degrees: float) -> float:
    """Return half the width of the 95 % t interval of a mean with this many degrees of freedom."""
    return float(stdtrit(degrees, 0.5 + CONFIDENCE / 2)) * sd / math.sqrt(n)


def summarize(values: Iterable[float], within: tuple[float, float] | None = None) -> Summary | None:
    """Return n, mean, sd and 95 % t interval of the finite values, or None when there are none.

    >>> summarize([0.5])
    Summary(n=1, mean=0.5, sd=None, low=None, high=None)

    Args:
        within: Bounds of what can be measured; the interval is cut there, which takes nothing from its coverage.
    """
    sample = [float(value) for value in values if math.isfinite(value)]
    if not sample:
        return None
    mean = statistics.fmean(sample)
    if len(sample) == 1:
        return Summary(1, mean)
    sd = statistics.stdev(sample)
    half = half_width(sd, len(sample), len(sample) - 1)
    lowest, highest = within or (-math.inf, math.inf)
    return Summary(len(sample), mean, sd, max(mean - half, lowest), min(mean + half, highest))


def compare(arm: str, values: Mapping[int, float], baseline: str, others: Mapping[int, float]) -> Comparison:
    """Compare two arms over the seeds that they share; each maps a seed to its value.

    Better means that the whole interval of the differences lies above 0, worse that it lies below.
    """
    shared = [seed for seed in values if seed in others]
    by_seed = {seed: round(values[seed] - others[seed], DIGITS) for seed in shared}
    summary = summarize(by_seed.values())
    word, why = _judge(summary)
    return Comparison(arm, baseline, by_seed, summary, word, why)


def _judge(summary: Summary | None) -> tuple[Word, str]:
    """Return the verdict, and why there is none."""
    if summary is None:
        return "not known", "no seed in common"
    if summary.low is None or summary.high is None:
        return "not known", "one seed gives no interval"
    if summary.sd == 0.0 and summary.mean != 0.0:
        return "not known", "every seed gives the same difference, so noise cannot be judged"
    if summary.low > 0.0:
        return "better", ""
    if summary.high < 0.0:
        return "worse", ""
    return "within noise", ""


def difference_of_means(values: Iterable[float], others: Iterable[float]) -> Summary | None:
    """Return mean(values) - mean(others) of unpaired samples, with Welch's interval where both have a spread.

    `n` is the smaller of the two sizes; `sd` is None, since an unpaired difference has none. None when one is empty.
    """
    left, right = summarize(values), summarize(others)
    if left is None or right is None:
        return None
    n, mean = min(left.n, right.n), round(left.mean - right.mean, DIGITS)
    if left.sd is None or right.sd is None or left.sd + right.sd == 0.0:
        return Summary(n, mean)
    a, b = left.sd**2 / left.n, right.sd**2 / right.n
    degrees = (a + b) ** 2 / (a**2 / (left.n - 1) + b**2 / (right.n - 1))
    half = half_width(math.sqrt(a + b), 1, degrees)
    return Summary(n, mean, None, mean - half, mean + half)
