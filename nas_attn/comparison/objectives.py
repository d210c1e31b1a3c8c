"""The objectives of a search: their names, directions and units, the front of what nothing beats, and its knee."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, TypeVar

from nas_attn.errors import ConfigError, unknown

Item = TypeVar("Item")

Direction = Literal["max", "min"]

Source = Literal["training", "cost"]
"""Where a value comes from: the training of each trial, or the network itself, which is known before the training."""

KNEE_RULE = (
    "Each objective is scaled over the front, from 0 for its worst value there to 1 for its best; the knee is the "
    "placement with the largest sum, and of equal sums the one with the better first objective."
)
"""The rule by which one placement of a front is chosen."""


@dataclass(frozen=True)
class Objective:
    """What a search improves.

    Args:
        name: As it is stated and stored.
        direction: Whether a larger or a smaller value is better.
        title: Its name on an axis.
        unit: Suffix of a value, e.g. " ms".
        factor: Multiplier of the stored value for display.
    """

    name: str
    direction: Direction
    source: Source = "training"
    title: str = ""
    unit: str = ""
    factor: float = 1.0

    @property
    def noun(self) -> str:
        """Its name within a sentence."""
        return self.title or self.name

    @property
    def axis(self) -> str:
        """Its name and its unit, for an axis or the head of a table."""
        noun = self.noun[0].upper() + self.noun[1:]
        return f"{noun} ({self.unit.strip()})" if self.unit else noun

    def is_better(self, value: float, other: float) -> bool:
        """Return whether a value is better than another one."""
        return value > other if self.direction == "max" else value < other

    def number(self, value: float) -> str:
        """Return a stored value as text without its unit, to four digits."""
        return f"{float(f'{value * self.factor:.4g}'):,.15g}"

    def value(self, value: float) -> str:
        """Return a stored value as text with its unit.

        >>> KNOWN["accuracy"].value(0.98765), KNOWN["latency"].value(1.2345), KNOWN["params"].value(72310)
        ('98.77 %', '1.234 ms', '72,310')
        """
        return self.number(value) + self.unit

    def to_dict(self) -> dict[str, str]:
        """Return name and direction in plain JSON."""
        return {"name": self.name, "direction": self.direction}


KNOWN: Mapping[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("accuracy", "max", title="accuracy", unit=" %", factor=100.0),
        Objective("auc", "max", title="ROC AUC"),
        Objective("f1", "max", title="macro F1"),
        Objective("loss", "min", title="cross-entropy"),
        Objective("latency", "min", "cost", "latency of one image", " ms"),
        Objective("params", "min", "cost", "parameters"),
        Objective("macs", "min", "cost", "multiply-adds of one image"),
        Objective("memory", "min", "cost", "peak memory of one image", " MiB", 2.0**-20),
    )
}
"""The objectives that have a name of their own; `latency` is stored in milliseconds, `memory` in bytes."""


def read_objectives(stated: Iterable[str]) -> tuple[Objective, ...]:
    """Return the stated objectives, the first of which is the value of a trial; empty for the usual value.

    Args:
        stated: Names, each with `:max` or `:min` where it is a value of a user's own training.
    Raises: ConfigError, in one sentence.
    """
    found = tuple(_read(text.strip()) for text in stated)
    names = [objective.name for objective in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"'--objective' must name each objective once, but got {name} twice.")
    if found and (found[0].source == "cost" or found[0].direction == "min"):
        what = "is known before any training" if found[0].source == "cost" else "is to be made small"
        raise ConfigError(
            "'--objective' must begin with a value of the training that is to be made large, because the arms are "
            f"compared by it, but got {found[0].name}, which {what}: write accuracy,{found[0].name}."
        )
    return found


def _read(text: str) -> Objective:
    name, _, direction = text.partition(":")
    known = KNOWN.get(name)
    if known is not None and direction in ("", known.direction):
        return known
    if known is not None:
        raise ConfigError(f"'--objective {name}' is {known.direction}, but got {text}: write {name}.")
    if direction not in ("max", "min") or not name.isidentifier():
        sentence = unknown("objective", text, KNOWN).rstrip(".")
        raise ConfigError(
            f"{sentence}; a value that a training of your own returns is named with its direction, such as energy:min."
        )
    return Objective(name, "max" if direction == "max" else "min")


def objectives_in(config: Mapping[str, Any]) -> tuple[Objective, ...]:
    """Return the objectives of a run's `config.json`; empty where it has the usual value, as all older ones do."""
    return tuple(
        KNOWN.get(row["name"]) or Objective(row["name"], row["direction"]) for row in config.get("objectives") or ()
    )


def has_shares(objectives: Sequence[Objective], *, of_classes: bool) -> bool:
    """Return whether the first objective is a mean over images, so that each image has its share of the value.

    Args:
        of_classes: Whether each image has one class, whose usual value is accuracy; otherwise it is the ROC AUC.
    """
    return not objectives or objectives[0].name == ("accuracy" if of_classes else "auc")


def further(objectives: Sequence[Objective], *, source: Source | None = None) -> tuple[Objective, ...]:
    """Return the objectives after the first one, all or those of one source."""
    return tuple(objective for objective in objectives[1:] if source in (None, objective.source))


def in_order(objectives: Sequence[Objective], values: Mapping[str, float]) -> dict[str, float]:
    """Return the values of the objectives after the first one, in their order.

    Raises: KeyError if one is missing.
    """
    return {objective.name: values[objective.name] for objective in objectives[1:]}


def means(rows: Iterable[Sequence[float]]) -> tuple[float, ...]:
    """Return the mean of each objective over trainings."""
    return tuple(fmean(column) for column in zip(*rows, strict=True))


def dominates(one: Sequence[float], other: Sequence[float], objectives: Sequence[Objective]) -> bool:
    """Return whether a point is nowhere worse than another one, and better in at least one objective."""
    pairs = list(zip(objectives, one, other, strict=True))
    return not any(goal.is_better(b, a) for goal, a, b in pairs) and any(goal.is_better(a, b) for goal, a, b in pairs)


def front(
    items: Iterable[Item], point: Callable[[Item], Sequence[float]], objectives: Sequence[Objective]
) -> list[Item]:
    """Return the items that no other one dominates, in their order; of equal points all.

    >>> goals = (KNOWN["accuracy"], KNOWN["params"])
    >>> front([(0.9, 10), (0.8, 10), (0.95, 20), (0.7, 5)], lambda item: item, goals)
    [(0.9, 10), (0.95, 20), (0.7, 5)]

    Cost: quadratic in the number of distinct points on the front, after sorting.
    """
    listed = list(items)
    signs = [-1.0 if goal.direction == "max" else 1.0 for goal in objectives]
    points = [tuple(sign * value for sign, value in zip(signs, point(item), strict=True)) for item in listed]
    kept: list[tuple[float, ...]] = []  # smaller is better
    for candidate in sorted(set(points)):  # whatever dominates a point comes before it
        if all(math.isfinite(value) for value in candidate) and not any(
            all(a <= b for a, b in zip(better, candidate, strict=True)) for better in kept
        ):
            kept.append(candidate)
    best = set(kept)
    return [item for item, placed in zip(listed, points, strict=True) if placed in best]


def knee(
    items: Sequence[Item], point: Callable[[Item], Sequence[float]], objectives: Sequence[Objective]
) -> Item | None:
    """Return the knee of a front by `KNEE_RULE`; None of an empty one. The units of the objectives do not matter.

    >>> knee([(0.7, 5), (0.9, 7), (0.91, 20)], lambda item: item, (KNOWN["accuracy"], KNOWN["params"]))
    (0.9, 7)
    """
    if not items:
        return None
    scaled = scaled_points([point(item) for item in items], objectives)
    sign = 1 if objectives[0].direction == "max" else -1
    ranked = [(round(sum(row), 12), sign * point(item)[0]) for item, row in zip(items, scaled, strict=True)]
    return items[max(range(len(items)), key=lambda index: (*ranked[index], -index))]


def scaled_points(points: Sequence[Sequence[float]], objectives: Sequence[Objective]) -> list[tuple[float, ...]]:
    """Return points with each objective scaled from 0, its worst value among them, to 1, its best; 0 if all agree."""
    columns = []
    for goal, column in zip(objectives, zip(*points, strict=True), strict=True):
        low, high = min(column), max(column)
        worst, span = (low, high - low) if goal.direction == "max" else (high, low - high)
        columns.append([(value - worst) / span if span else 0.0 for value in column])
    return list(zip(*columns, strict=True))


def spread(
    items: Sequence[Item], point: Callable[[Item], Sequence[float]], objectives: Sequence[Objective], number: int
) -> list[Item]:
    """Return at most `number` items of a front: the knee, then always the one farthest from those taken before.

    Distances are those of the scaled objectives; of equal ones the item with the better first objective is taken.
    """
    first = knee(items, point, objectives)
    if first is None:
        return []
    scaled = scaled_points([point(item) for item in items], objectives)
    taken = [next(index for index, item in enumerate(items) if item is first)]
    while len(taken) < min(number, len(items)):
        left = [index for index in range(len(items)) if index not in taken]
        gaps = {index: min(math.dist(scaled[index], scaled[other]) for other in taken) for index in left}
        taken.append(max(left, key=lambda index: (round(gaps[index], 12), scaled[index][0], -index)))
    return [items[index] for index in taken]
