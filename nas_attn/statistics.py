"""Means and differences with confidence intervals.

This module knows numbers only, no runs, trials or arms. Every interval of the package is computed here. Values that are
not finite are left out. The unit of every result is that of the values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95
"""Coverage of every interval, unless the caller asks for another one."""

DIGITS = 12
"""Decimals that differences are rounded to, so that equal differences are equal in floating point too."""

SEEDS_AND_IMAGES, SEEDS_ONLY = "new seeds and new images of this kind", "new seeds only"
"""What an interval is for: other networks on other images, or other networks on the same images."""


@dataclass(frozen=True)
class Summary:
    """A sample, or a difference between two samples.

    Args:
        sd: Standard deviation with n - 1 in the denominator; None for one value and for an unpaired difference.
        low, high: Ends of the confidence interval of the mean; None where n or the spread is too small for one.
        covers: What the interval is for, `SEEDS_AND_IMAGES` or `SEEDS_ONLY`; empty where that was not said.
        why: Why there is no interval, as a sentence without its full stop; empty where that was not said.
    """

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    covers: str = ""
    why: str = ""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the confidence interval, or None if there is none."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and zero lies outside it."""
        return self.interval is not None and (self.interval[0] > 0.0 or self.interval[1] < 0.0)


def t_quantile(probability: float, degrees: float) -> float:
    """Return the quantile of Student's t distribution; the degrees of freedom may be fractional.

    Source: `scipy.special.stdtrit`, which `scipy.stats.t.ppf` calls too; it loads in a third of the time.

    >>> round(t_quantile(0.975, 4), 4)
    2.7764
    """
    from scipy.special import stdtrit  # on use: most commands of the package need no interval

    return float(stdtrit(degrees, probability))


def p_value(mean: float, variance: float, degrees: float) -> float:
    """Return the two-sided p-value of a mean against 0, by Student's t distribution.

    It is below 1 - confidence exactly where the t interval of that confidence leaves out 0.

    >>> round(p_value(1.0, 0.16, 4), 4)
    0.0668
    """
    return 2.0 * _above(abs(mean), variance, degrees)


def equality_p_value(mean: float, variance: float, degrees: float, margin: float) -> float:
    """Return the p-value of "the true mean lies beyond the margin", by two one-sided t tests.

    Source: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15 (1987).

    Args:
        margin: Greatest difference that counts as equal, at least 0; with 0, nothing is equal.
    """
    return _above(margin - abs(mean), variance, degrees)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p-values: a family may reject all that are at most its level.

    With that rule, the probability of any false rejection is at most the level, however the values depend on each
    other.

    Args:
        p_values: None for a comparison that was not tested: it stays None, and does not count.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    tested = sorted((value, at) for at, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (value, at) in enumerate(tested):
        highest = max(highest, min((len(tested) - rank) * value, 1.0))
        adjusted[at] = highest
    return adjusted


def _above(value: float, variance: float, degrees: float) -> float:
    """Return the probability that t times the standard error lies above a value."""
    from scipy.special import stdtr

    return float(stdtr(degrees, -value / math.sqrt(variance)))


def summarize(
    values: Iterable[float], within: tuple[float, float] | None = None, *, confidence: float = CONFIDENCE
) -> Summary | None:
    """Return the mean with its t interval, or None if no value is finite.

    The interval is mean ± t(n - 1) · sd / √n. It assumes independent values from a normal distribution.

    Args:
        within: Range of possible values. The interval is cut at its ends, which does not reduce its coverage.

    Source: Student, Biometrika 6 (1908).

    >>> summarize([0.5]).interval is None
    True
    """
    sample = [float(value) for value in values if math.isfinite(value)]
    if not sample:
        return None
    n, mean = len(sample), fmean(sample)
    if n == 1:
        return Summary(1, mean)
    sd = stdev(sample)
    half = t_quantile(0.5 + confidence / 2, n - 1) * sd / math.sqrt(n)
    lowest, highest = within or (-math.inf, math.inf)
    return Summary(n, mean, sd, max(mean - half, lowest), min(mean + half, highest))
