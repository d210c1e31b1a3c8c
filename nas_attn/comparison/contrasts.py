"""One arm's value and the comparison of two arms, with intervals, p-values and one word.

With a value per seed and image the intervals are for new seeds and new images; with a value per seed, for new seeds
only. Where the numbers cannot carry an interval there is none, and a sentence says why. Nothing here knows runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal

import numpy as np

from nas_attn.comparison.crossed import FEWEST_SEEDS, Crossed, Values, crossed, share_interval
from nas_attn.statistics import (
    CONFIDENCE,
    DIGITS,
    SEEDS_AND_IMAGES,
    SEEDS_ONLY,
    Summary,
    equality_p_value,
    holm,
    p_value,
    t_quantile,
)

Word = Literal["better", "worse", "equal", "undecided", "not known"]
ByImage = Mapping[int, Values]
"""Seed -> one value per image, (N,), the same images in the same order for all seeds (`comparison.contributions`)."""

FEWEST_ACTIVE = 3.0
"""Fewest images that must carry the spread (`Crossed.active_images`): errors of an arm, disagreements of two arms."""


@dataclass(frozen=True)
class Contrast:
    """One arm minus a baseline, paired by seed, and by image where there are values per image.

    Args:
        by_seed: The difference of every seed that both have.
        summary: Their mean and its interval; None if no seed is shared.
        confidence: Coverage of the interval; "better" and "worse" are decided at the level 1 - confidence.
        word: "better" or "worse" where the p-value is at most the level; else "equal" where two one-sided tests, each
            at that level, show that the true difference lies within the margin; else "undecided"; "not known" where
            there is no interval, with the reason in `why`.
        p_value: Two-sided, against no difference; None without interval.
        p_equal: Of the two one-sided tests; None without interval or margin.
        margin: Greatest difference that counts as equal; None if none is asked for.
        error, degrees: Standard error of the mean and its degrees of freedom; None without interval.
        crossed: The components, for values per image; None for values per seed only.
    """

    arm: str
    baseline: str
    by_seed: Mapping[int, float]
    summary: Summary | None
    confidence: float
    word: Word
    why: str = ""
    p_value: float | None = None
    p_equal: float | None = None
    margin: float | None = None
    error: float | None = None
    degrees: float | None = None
    crossed: Crossed | None = None

    @property
    def level(self) -> float:
        """Probability of "better" or "worse" that is allowed where nothing differs."""
        return round(1.0 - self.confidence, DIGITS)


def arm_summary(
    values: Mapping[int, float], by_image: ByImage | None = None, *, confidence: float = CONFIDENCE
) -> Summary | None:
    """Return the mean of an arm's values over its seeds with its interval, or None if it has no value.

    Args:
        values: Seed -> value between 0 and 1.
        by_image: Seed -> value per image, with the seed's value as its mean; used if it has every seed of `values`.
    """
    seeds = sorted(seed for seed in values if math.isfinite(values[seed]))
    if not seeds:
        return None
    sample = [values[seed] for seed in seeds]
    bare = _bare(sample)
    rows = _rows(by_image, seeds)
    if rows is None:
        return _of_seeds(bare, sample, confidence, (0.0, 1.0))
    if len(seeds) < FEWEST_SEEDS:
        return replace(bare, why=FEW_SEEDS)
    found = crossed(rows)
    why = why_void(found, "an error") or ("" if 0.0 < found.mean < 1.0 else ALL_EQUAL)
    if why:
        return replace(bare, why=why)
    low, high = share_interval(found, confidence)
    return replace(bare, low=low, high=high, covers=SEEDS_AND_IMAGES)


def contrast(
    arm: str,
    values: Mapping[int, float],
    baseline: str,
    others: Mapping[int, float],
    *,
    by_image: ByImage | None = None,
    others_by_image: ByImage | None = None,
    confidence: float = CONFIDENCE,
    margin: float | None = None,
) -> Contrast:
    """Compare two arms over the seeds that they share.

    Args:
        values, others: Seed -> value, of the arm and of the baseline.
        by_image, others_by_image: Seed -> value per image; used if both have every shared seed.
        margin: Greatest difference that counts as equal, in the unit of the values; None for no such test.
    """
    seeds = sorted(seed for seed in values if seed in others and math.isfinite(values[seed] - others[seed]))
    by_seed = {seed: round(values[seed] - others[seed], DIGITS) for seed in seeds}
    empty = Contrast(arm, baseline, by_seed, None, confidence, "not known", "no seed in common", margin=margin)
    if not seeds:
        return empty
    bare = _bare(list(by_seed.values()))
    found, why = None, FEW_SEEDS if len(seeds) < FEWEST_SEEDS else ""
    rows, other_rows = _rows(by_image, seeds), _rows(others_by_image, seeds)
    if not why and rows is not None and other_rows is not None and rows.shape == other_rows.shape:
        found = crossed(rows - other_rows)
        why = why_void(found, "a difference")
    elif not why and bare.sd == 0.0:
        why = SAME_SEEDS
    if why:
        return replace(empty, summary=replace(bare, why=why), why=why, crossed=found)
    variance, degrees = (found.variance, found.degrees) if found else ((bare.sd or 0.0) ** 2 / bare.n, bare.n - 1.0)
    covers = SEEDS_AND_IMAGES if found else SEEDS_ONLY
    return _judged(replace(empty, summary=replace(bare, covers=covers), crossed=found), variance, degrees)


def at_confidence(found: Contrast, confidence: float) -> Contrast:
    """Return the same comparison with the interval and the word of another confidence."""
    if found.error is None or found.degrees is None:
        return replace(found, confidence=confidence)
    return _judged(replace(found, confidence=confidence), found.error**2, found.degrees)


def as_family(contrasts: Sequence[Contrast], level: float) -> list[Contrast]:
    """Return the comparisons with the words of Holm's procedure: any false "better" or "worse" has at most this level.

    p-values become the adjusted ones; so do those of equality, as a family of their own. The intervals are those of
    one comparison at its own confidence.
    """
    adjusted, equal = holm([one.p_value for one in contrasts]), holm([one.p_equal for one in contrasts])
    return [
        replace(one, p_value=p, p_equal=q, word=_word(one, p, q, level))
        for one, p, q in zip(contrasts, adjusted, equal, strict=True)
    ]


FEW_SEEDS = "fewer than 3 seeds allow no interval"
SAME_SEEDS = "the values of all seeds are equal, so that the noise between seeds is unknown"
ALL_EQUAL = "all images of all seeds have the same value, so that the noise is unknown"


def why_void(found: Crossed, event: str) -> str:
    """Return why a matrix allows no interval, or nothing."""
    if found.variance <= 0.0:
        return ALL_EQUAL
    if found.rest <= 0.0 and found.seeds <= 0.0:
        return "all seeds agree on every image, so that the noise between seeds is unknown"
    if found.active_images < FEWEST_ACTIVE:
        return f"fewer than {FEWEST_ACTIVE:g} images show {event}, too few for an interval"
    return ""


def _bare(sample: Sequence[float]) -> Summary:
    return Summary(len(sample), fmean(sample), stdev(sample) if len(sample) > 1 else None)


def _rows(by_image: ByImage | None, seeds: Sequence[int]) -> Values | None:
    """Return the values of these seeds as a matrix, or None if a seed has none or the numbers of images differ."""
    if by_image is None or any(seed not in by_image for seed in seeds):
        return None
    rows = [np.asarray(by_image[seed], dtype=np.float64) for seed in seeds]
    return np.stack(rows) if len({row.shape for row in rows}) == 1 and rows[0].ndim == 1 and len(rows[0]) > 1 else None


def _of_seeds(bare: Summary, sample: Sequence[float], confidence: float, within: tuple[float, float]) -> Summary:
    """Return the t interval over the seeds' values, cut at the ends of the possible range."""
    if bare.n < FEWEST_SEEDS or not bare.sd:
        return replace(bare, why=FEW_SEEDS if bare.n < FEWEST_SEEDS else SAME_SEEDS)
    half = t_quantile(0.5 + confidence / 2, bare.n - 1) * bare.sd / math.sqrt(bare.n)
    low, high = max(bare.mean - half, within[0]), min(bare.mean + half, within[1])
    return replace(bare, low=low, high=high, covers=SEEDS_ONLY)


def _judged(found: Contrast, variance: float, degrees: float) -> Contrast:
    """Return the comparison with interval, p-values and word."""
    assert found.summary is not None, "a comparison with a variance has a mean"
    mean = found.summary.mean
    half = t_quantile(0.5 + found.confidence / 2, degrees) * math.sqrt(variance)
    p = p_value(mean, variance, degrees)
    p_equal = None if found.margin is None else equality_p_value(mean, variance, degrees, found.margin)
    return replace(
        found,
        summary=replace(found.summary, low=mean - half, high=mean + half),
        word=_word(found, p, p_equal, found.level),
        why="",
        p_value=p,
        p_equal=p_equal,
        error=math.sqrt(variance),
        degrees=degrees,
    )


def _word(found: Contrast, p: float | None, p_equal: float | None, level: float) -> Word:
    if p is None or found.summary is None:
        return "not known"
    if p <= level:
        return "better" if found.summary.mean > 0.0 else "worse"
    return "equal" if p_equal is not None and p_equal <= level else "undecided"
