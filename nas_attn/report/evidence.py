"""The evidence beside the value of the search: metrics, classes, confusions and learning curves of the main arms.

All of it is descriptive: it decides nothing, and its intervals are not corrected for their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas_attn.comparison.answer import names_in
from nas_attn.records import BARE, FOUND, RunRecord
from nas_attn.report.evidence_classes import (
    ClassRow,
    Confusion,
    Reliability,
    class_rows,
    confusion_matrix,
    confusions,
    reliability,
    shortened,
)
from nas_attn.report.evidence_curves import Curves, curves_of
from nas_attn.report.evidence_metrics import Judged, MetricRow, Values, judged_arms, metric_rows
from nas_attn.report.tables import Arm, answer_of, arm_called, arms_of, section

MOST_IN_MATRIX = 20
"""A confusion matrix of more classes is not drawn: its most frequent confusions are listed."""


@dataclass(frozen=True)
class Evidence:
    """The predictions of the arms in numbers.

    Args:
        arms: Labels of the main arms: no attention, found #1, and what is recommended if that is another one.
        baseline: Label of the arm without attention.
        metrics: Of every arm with predictions.
        classes, other_classes: Those of the main arms that differ most, and the rest of a long list.
        n_seeds: Number of networks, of every arm with predictions.
    """

    arms: tuple[str, ...]
    baseline: str
    has_labels: bool
    n_images: int
    metrics: tuple[MetricRow, ...]
    classes: tuple[ClassRow, ...]
    other_classes: tuple[ClassRow, ...]
    confusions: tuple[Confusion, ...]
    n_seeds: Mapping[str, int]

    @property
    def others(self) -> tuple[str, ...]:
        """The main arms without the baseline; empty if the baseline has no predictions."""
        return tuple(arm for arm in self.arms if arm != self.baseline) if self.baseline in self.arms else ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why some of the shown differences have no interval, each reason once."""
        classes = [*self.classes, *self.other_classes]
        every = [row.differences for row in self.metrics] + [row.differences for row in classes]
        every += [row.differences for row in self.confusions]
        found = [differences.get(arm) for differences in every for arm in self.others]
        return tuple(dict.fromkeys(one.why for one in found if one is not None and one.why))


@dataclass(frozen=True)
class Drawn:
    """What the figures show of one main arm.

    Args:
        matrix: Share of the images of each true class (row) that are predicted as each class; None for several labels
            an image and for long lists of classes.
    """

    arm: Judged
    matrix: Values | None
    reliability: Reliability


def evidence_of(run: RunRecord) -> Evidence | None:
    """Return the evidence, or None for a run without stored predictions."""
    arms = arms_of(run)
    every = judged_arms(run, arms)
    main = _main_judged(run, arms, every)
    if not main:
        return None
    labels = tuple(arm.label for arm in main)
    baseline = next((label for label in labels if BARE in names_in(label)), BARE)
    names = class_names(run, main)
    rows = class_rows(main, baseline, names)
    classes, others = shortened(rows, next((label for label in labels if label != baseline), None))
    return Evidence(
        arms=labels,
        baseline=baseline,
        has_labels=main[0].has_labels,
        n_images=len(main[0].targets),
        metrics=metric_rows(every, baseline),
        classes=classes,
        other_classes=others,
        confusions=confusions(main, baseline, names),
        n_seeds={arm.label: len(arm.seeds) for arm in every},
    )


def drawn_of(run: RunRecord) -> tuple[list[Drawn], tuple[str, ...]]:
    """Return what the figures show of each main arm, and the names of the classes or labels."""
    arms = main_arms(run, arms_of(run))
    main = judged_arms(run, arms)
    if not main:
        return [], ()
    names = class_names(run, main)
    has_matrix = not main[0].has_labels and len(names) <= MOST_IN_MATRIX
    drawn = [Drawn(arm, confusion_matrix(arm, len(names)) if has_matrix else None, reliability(arm)) for arm in main]
    return drawn, names


def learning_curves(run: RunRecord) -> tuple[Curves, ...]:
    """Return the curves of the main arms."""
    return curves_of(run, {arm.label: arm.placement for arm in main_arms(run, arms_of(run))})


def main_arms(run: RunRecord, arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms without attention, found #1, and what is recommended, each once; those that were retrained."""
    wanted = [BARE, FOUND, names_in(answer_of(run).recommended)[0]]
    found = [arm_called(arms, name) for name in wanted]
    return list({arm.label: arm for arm in found if arm is not None}.values())


def _main_judged(run: RunRecord, arms: Sequence[Arm], every: Sequence[Judged]) -> list[Judged]:
    by_label = {judged.label: judged for judged in every}
    return [by_label[arm.label] for arm in main_arms(run, arms) if arm.label in by_label]


def class_names(run: RunRecord, arms: Sequence[Judged]) -> tuple[str, ...]:
    """Return the names of the classes or labels; numbers for those that the data do not name."""
    facts = section(run.config, "data", "facts")
    stated, number = facts.get("class_names"), facts.get("num_classes")
    names = [str(name) for name in stated] if isinstance(stated, list | tuple) else []
    known = [arm.confidence.shape[2] if arm.has_labels else 1 + int(arm.predicted.max()) for arm in arms]
    known += [0 if arm.has_labels else 1 + int(arm.targets.max()) for arm in arms]
    n_classes = max([*known, len(names), number if isinstance(number, int) else 0])
    return (*names, *(str(at) for at in range(len(names), n_classes)))
