"""How many seeds, or how many images, would tell a difference: power from the observed spread."""

from __future__ import annotations

from collections.abc import Callable

from nas_attn.comparison.crossed import FEWEST_SEEDS, Crossed, expected, from_mean_squares
from nas_attn.statistics import CONFIDENCE, DIGITS, t_quantile

LEVEL = round(1.0 - CONFIDENCE, DIGITS)
POWER = 0.8
"""Probability with which a true difference is to be told."""

MOST_IMAGES = 10_000_000

USUAL_ACCURACY = 0.9
"""About how often the networks are right whose spread `usual` has."""

# Variances of a difference that seeds, images, and both together bring, and the share of the images that carry it.
_SEEDS, _IMAGES, _REST, _ACTIVE = 0.007**2, 0.12**2, 0.21**2, 0.06


def power(found: Crossed, difference: float, level: float = LEVEL, *, n_seeds: int, n_images: int) -> float:
    """Return the probability that a true difference is decided with so many seeds and images.

    The variance components are taken as known; the degrees of freedom are those that they lead to.

    Args:
        found: The crossed components of the observed difference.
        difference: The true difference, in the unit of the values.
        level: Two-sided level of the test.
    """
    from scipy.special import stdtr

    planned = expected(found, n_seeds=n_seeds, n_images=n_images)
    if planned.variance <= 0.0:
        return 1.0 if difference else 0.0
    shift = abs(difference) / planned.error
    return float(stdtr(planned.degrees, shift - t_quantile(1.0 - level / 2, planned.degrees)))


def seeds_to_tell(
    found: Crossed, difference: float, level: float = LEVEL, *, wanted: float = POWER, at_most: int = 1_000
) -> int | None:
    """Return the fewest seeds that would tell a true difference on as many images, or None if `at_most` would not.

    It is None too where the images alone forbid it: their part of the variance stays however many seeds there are.

    Args:
        wanted: Probability of a decision, above the level.
    """

    def enough(n_seeds: int) -> bool:
        return power(found, difference, level, n_seeds=n_seeds, n_images=found.n_images) >= wanted

    return _fewest(enough, FEWEST_SEEDS, at_most)


def images_to_tell(
    found: Crossed, difference: float, level: float = LEVEL, *, wanted: float = POWER, at_most: int = MOST_IMAGES
) -> int | None:
    """Return the fewest test images that would tell a true difference with as many seeds, or None if there are none.

    It is None where the seeds alone forbid it, or where it takes more than `at_most`.
    """

    def enough(n_images: int) -> bool:
        return power(found, difference, level, n_seeds=found.n_seeds, n_images=n_images) >= wanted

    return _fewest(enough, 2, at_most)


def usual(*, n_seeds: int, n_images: int) -> Crossed:
    """Return the components of a usual difference between two arms, to plan with before anything is trained.

    They are the medians over the placements of `benchmarks/tables` that train, each against no attention: LeNet-5 with
    500 digits of MNIST, right on about `USUAL_ACCURACY` of the images.
    """
    squares = (n_images * _SEEDS + _REST, n_seeds * _IMAGES + _REST, _REST)
    return from_mean_squares(0.0, squares, (n_seeds, n_images), _ACTIVE * n_images)


def smallest_told(found: Crossed, level: float = LEVEL, *, wanted: float = POWER) -> float:
    """Return the true difference that is decided with this probability, with as many seeds and images.

    Units: those of the values.
    """
    planned = expected(found, n_seeds=found.n_seeds, n_images=found.n_images)
    quantiles = (t_quantile(probability, planned.degrees) for probability in (1.0 - level / 2, wanted))
    return planned.error * sum(quantiles)


def _fewest(enough: Callable[[int], bool], least: int, most: int) -> int | None:
    """Return the smallest number that is enough, by bisection; more is never worse."""
    if not enough(most):
        return None
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if enough(middle) else (middle + 1, most)
    return least
