"""The ranking of placements by a network with shared weights, and how far it agrees with the trials that followed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.errors import SpaceError
from nas_attn.placement import Attention, Placement
from nas_attn.records import Paths

RANKED = "ranking"
"""Name of the note in the ledger with a ranking."""

POOR_SHARE = 0.2
"""Share of the ranked placements, the worst ones, that a search leaves out."""

JUDGED_IMAGES = 500
"""Largest number of validation images that a placement is judged on."""

REFIT_IMAGES = 256
"""Largest number of training images on which the batch statistics of a placement are fitted again."""

FEWEST_PAIRS = 5
"""Smallest number of placements over which an agreement is computed."""

_RESAMPLES = 1_000
_RIDGE = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ranking:
    """Placements with their validation values under shared weights.

    Args:
        values: In the order of `paths.ranked`.
        price: What it cost, in trainings of the budget.
    """

    paths: Paths
    values: tuple[float, ...]
    price: int

    def score(self, placement: Placement) -> float | None:
        """Return the share of the ranked placements that a placement is better than, about 0 to 1.

        That of one that was not ranked is the sum of its choices' estimated effects on the share: on the values
        themselves, the few placements that do not train at all would decide it. None for one outside the space.
        """
        numbers = self.paths.numbers(placement)
        if numbers is None:
            return None
        known = self._known.get(numbers)
        return float(self._features([numbers])[0] @ self._effects) if known is None else known

    def is_poor(self, placement: Placement) -> bool:
        """Return whether a placement was ranked among the worst fifth; an estimate is no reason to leave one out."""
        numbers = self.paths.numbers(placement)
        return numbers is not None and self._known.get(numbers, 1.0) < POOR_SHARE

    def best(self, number: int) -> tuple[Placement, ...]:
        """Return the best of the ranked placements, the best first."""
        return tuple(placement for placement, _ in self.in_order(number))

    def in_order(self, number: int | None = None) -> tuple[tuple[Placement, float], ...]:
        """Return the best of the ranked placements with their values, the best first; None returns all."""
        order = sorted(range(len(self.values)), key=lambda index: -self.values[index])[:number]
        return tuple((self.paths.placement(self.paths.ranked[index]), self.values[index]) for index in order)

    def to_dict(self) -> dict[str, Any]:
        """Return the ranking in plain JSON."""
        return {
            "price": self.price,
            "decisions": [
                [[[site, attention.to_dict()] for site, attention in part] for part in parts]
                for parts in self.paths.decisions
            ],
            "ranked": [list(numbers) for numbers in self.paths.ranked],
            "values": list(self.values),
        }

    @classmethod
    def from_note(cls, record: Mapping[str, Any]) -> Ranking | None:
        """Read the output of `to_dict`; None for an empty or a damaged one, which is named in the log."""
        try:
            return cls._read(record) if record else None
        except (AttributeError, KeyError, IndexError, TypeError, ValueError, SpaceError) as error:
            log.warning("The ranking in the ledger is damaged and left out: %s.", error)
            return None

    @classmethod
    def _read(cls, record: Mapping[str, Any]) -> Ranking:
        decisions = tuple(
            tuple(tuple((site, Attention.from_dict(placed)) for site, placed in part) for part in parts)
            for parts in record["decisions"]
        )
        paths = Paths(decisions, tuple(tuple(numbers) for numbers in record["ranked"]))
        for numbers in paths.ranked:
            paths.placement(numbers)
        if not paths.ranked or len(paths.ranked) != len(record["values"]):
            raise ValueError(f"{len(paths.ranked)} placements have {len(record['values'])} values")
        return cls(paths, tuple(map(float, record["values"])), int(record["price"]))

    @cached_property
    def _scores(self) -> NDArray[np.float64]:
        """The share of placements that each is better than; of equal ones the middle. Shape: (ranked,)."""
        ordered = np.sort(self.values)
        below, up_to = (np.searchsorted(ordered, self.values, side) for side in ("left", "right"))
        return np.asarray((below + up_to - 1) / 2 / len(ordered))

    @cached_property
    def _known(self) -> dict[tuple[int, ...], float]:
        return dict(zip(self.paths.ranked, self._scores.tolist(), strict=True))

    def _features(self, rows: Sequence[tuple[int, ...]]) -> NDArray[np.float64]:
        """Return a column of ones, then one column per choice of every decision. Shape: (rows, columns)."""
        columns = [np.ones((len(rows), 1))]
        for index, parts in enumerate(self.paths.decisions):
            columns.append(np.eye(len(parts))[[row[index] for row in rows]])
        return np.hstack(columns)

    @cached_property
    def _effects(self) -> NDArray[np.float64]:
        """The effects of the choices on the scores by ridge regression; the mean itself is not drawn towards zero."""
        features = self._features(self.paths.ranked)
        shrink = _RIDGE * np.eye(features.shape[1])
        shrink[0, 0] = 1e-9
        return np.asarray(np.linalg.solve(features.T @ features + shrink, features.T @ self._scores))


@dataclass(frozen=True)
class Agreement:
    """Kendall's rank correlation between a ranking and the trials that followed.

    Args:
        tau: From -1 to 1; 0 is no agreement.
        low, high: Its 95 % interval, by bootstrap over the placements.
        n: Number of placements.
    """

    tau: float
    low: float
    high: float
    n: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval is above zero."""
        return self.low > 0


def agreement(pairs: Iterable[tuple[float, float]], *, seed: int = 0) -> Agreement | None:
    """Return how far the first values of the pairs have the order of the second ones; None for too few, or all equal.

    Kendall's tau-b, with a percentile bootstrap over the pairs.
    """
    found = np.asarray([*pairs], dtype=np.float64)
    if len(found) < FEWEST_PAIRS:
        return None
    first, second = (np.sign(column[:, None] - column[None, :]) for column in found.T)
    tau = _tau(first, second)
    if tau is None:
        return None
    draws = np.random.default_rng(seed).integers(len(found), size=(_RESAMPLES, len(found)))
    taus = [_tau(first[np.ix_(draw, draw)], second[np.ix_(draw, draw)]) for draw in draws]
    low, high = np.quantile([value for value in taus if value is not None], (0.025, 0.975))
    return Agreement(tau, float(low), float(high), len(found))


def _tau(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Return tau-b of two matrices of signs of differences; None if one of them has no difference."""
    scale = float(np.sqrt((first * first).sum() * (second * second).sum()))
    return float((first * second).sum()) / scale if scale else None
