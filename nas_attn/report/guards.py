"""What a reader must know before the numbers: sentences on data and trainings that carry no conclusion."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np

from nas_attn.comparison.predictions import Predictions
from nas_attn.records import RunRecord
from nas_attn.report.tables import Arm, measured, only_shares, section
from nas_attn.report.words import PER_CENT, count, listed, scale_of

FEW_IMAGES = 100
"""Fewer test images than this are called few: one image is more than a point of accuracy."""

RISING = 0.01
"""A mean gain of validation accuracy over the last tenth of the epochs that is called still rising."""

FAR_BELOW = 0.5
"""An arm has not converged if it is less than this share of the way from chance to the best arm."""


def guards(run: RunRecord, arms: Sequence[Arm]) -> tuple[str, ...]:
    """Return the sentences that stand above the page, the gravest first."""
    return tuple(
        filter(
            None,
            [
                nothing_learned(run, arms),
                _same_images(run),
                *_test_images(run),
                _identical(arms),
                *_not_converged(run, arms),
                _diverged(arms),
                _rising(run),
                *run.remarks,
            ],
        )
    )


def is_retrained(run: RunRecord) -> bool:
    """Return whether the run searched nothing, because its `found #1` comes from another run."""
    return "retrained" in run.config


def _same_images(run: RunRecord) -> str:
    """Return the sentence for a placement that was chosen by a run on the same images; else an empty one."""
    if not section(run.config, "source").get("same_images"):
        return ""
    return (
        "found #1 was chosen by another run on the same images, and these test images may have decided there too: only "
        "other data is an independent test."
    )


def nothing_learned(run: RunRecord, arms: Sequence[Arm]) -> str:
    """Return the sentence for networks that do no better than chance, so that nothing follows; else an empty one."""
    chance = chance_level(run)
    means = [arm.summary.mean for arm in arms if arm.summary is not None]
    if chance is None or not means:
        return ""
    error = math.sqrt(chance * (1 - chance) / max(_n_images(run), 1))
    if max(means) > chance + 2 * error:
        return ""
    guess = "chance" if run.config.get("task") == "multi-label" else "always answering the most frequent class"
    return (
        f"No arm does better than {guess} ({PER_CENT.value(chance)}): the networks have not learned, so that nothing "
        "can be concluded. Check the labels, the learning rate and the number of epochs."
    )


def chance_level(run: RunRecord) -> float | None:
    """Return the value of an answer that ignores the image; None if it is unknown, as for a custom training's value."""
    if run.config.get("train") or not only_shares(run):
        return None
    if run.config.get("task") == "multi-label":
        return 0.5
    found = next(iter(run.predictions.values()), None)
    if found is not None and len(found):
        return float(np.bincount(found.targets).max() / len(found))
    n_classes = section(run.config, "data", "facts").get("num_classes")
    return 1 / n_classes if isinstance(n_classes, int) and n_classes > 0 else None


def _n_images(run: RunRecord) -> int:
    found = next(iter(run.predictions.values()), None)
    stated = section(run.config, "data", "facts").get("n_test")
    return len(found) if found is not None else stated if isinstance(stated, int) else 0


def _test_images(run: RunRecord) -> Iterator[str]:
    """Yield what is wrong with the test part."""
    n_images = _n_images(run)
    if 0 < n_images < FEW_IMAGES:
        several = run.config.get("task") == "multi-label"
        one = "" if several else f": one image is {100 / n_images:.1f} points of accuracy"
        yield f"There are only {count(n_images, 'test image')}{one}. Small differences cannot be told apart."
    found = next(iter(run.predictions.values()), None)
    names = section(run.config, "data", "facts").get("class_names")
    missing = _without_images(found, list(names)) if found is not None and isinstance(names, list | tuple) else []
    if missing:
        shown = [repr(name) for name in missing[:5]] + ([f"{len(missing) - 5} more"] if len(missing) > 5 else [])
        what = "Class" if len(missing) == 1 else "Classes"
        has = "has" if len(missing) == 1 else "have"
        yield f"{what} {listed(shown)} {has} no test image: nothing is known about them."


def _without_images(found: Predictions, names: Sequence[str]) -> list[str]:
    """Return the classes, or the labels, that no test image has."""
    if found.targets.ndim == 2:
        return [name for number, name in enumerate(names) if not found.targets[:, number].any()]
    present = set(found.targets.tolist())
    return [name for number, name in enumerate(names) if number not in present]


def _identical(arms: Sequence[Arm]) -> str:
    """Return the sentence for arms whose seeds all have the same value."""
    alike = [arm.label for arm in arms if len(arm.by_seed) > 1 and len(set(arm.by_seed.values())) == 1]
    if not alike:
        return ""
    return f"All seeds of {listed(alike)} have the same value, so that the noise between seeds is unknown."


def _not_converged(run: RunRecord, arms: Sequence[Arm]) -> Iterator[str]:
    """Yield the sentence for arms far below the others: all arms have one recipe, and it may not suit them."""
    chance = chance_level(run)
    means = {arm.label: arm.summary.mean for arm in arms if arm.summary is not None}
    if chance is None or not means or nothing_learned(run, arms):
        return
    limit = chance + FAR_BELOW * (max(means.values()) - chance)
    low = [label for label, mean in means.items() if mean < limit]
    if low:
        yield (
            f"{listed(low)} {'has' if len(low) == 1 else 'have'} hardly learned: all arms are trained by one recipe, "
            "which may not suit them. Their values say little about the attention."
        )


def _diverged(arms: Sequence[Arm]) -> str:
    """Return the sentence for arms with retrainings whose loss became infinite."""
    diverged = {arm.label: sum(row.cause == "nan" for row in arm.failures) for arm in arms}
    found = [f"{count(number, 'retraining')} of {label}" for label, number in diverged.items() if number]
    return f"{listed(found)} diverged: a smaller --lr may help." if found else ""


def _rising(run: RunRecord) -> str:
    """Return the sentence for trials whose validation values still rise at the end."""
    gains = []
    for trial in measured(run.search):
        before = trial.epochs - max(1, round(trial.epochs / 10))
        if trial.epochs in trial.curve and before in trial.curve:
            gains.append(trial.curve[trial.epochs] - trial.curve[before])
    if not gains or not only_shares(run) or fmean(gains) < RISING:
        return ""
    rise = scale_of(run).difference(fmean(gains))
    return (
        f"The validation values still rise at the end ({rise} in the last tenth of the epochs, mean of "
        f"{count(len(gains), 'trial')}): more --epochs may change the answer."
    )
