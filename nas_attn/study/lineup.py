"""The arms of a run: the placements that are retrained and compared."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from nas_attn.config import Budget
from nas_attn.placement import NONE, Placement
from nas_attn.records import BARE, FOUND, FRONT, RANDOM_SEARCH
from nas_attn.space.bound import BoundSpace
from nas_attn.study.arms import ablations, random_controls
from nas_attn.study.confirm import Winner

Arm = tuple[str, Placement]
"""Label and placement."""


class Lineup:
    """The arms before and after the search has its winner.

    Args:
        more: Further placements to compare with, by label.
        budget: The number of random controls, and whether the winner is taken apart.
        seed: The run's seed.
    """

    def __init__(self, bound: BoundSpace, more: Mapping[str, Placement], budget: Budget, seed: int) -> None:
        self._bound, self._more, self._budget, self._seed = bound, more, budget, seed
        self._controls: dict[str, tuple[Placement, ...]] = {}

    @cached_property
    def fixed(self) -> tuple[Arm, ...]:
        """The arms that need no search: none, each attention of the space everywhere, and the requested ones."""
        names = dict.fromkeys(name for rule in self._bound.space.sites for name in rule.attentions)
        everywhere = [(f"{name} everywhere", self._bound.everywhere(name)) for name in names]
        return ((BARE, NONE), *everywhere, *self._more.items())

    def arms(self, winner: Winner | None) -> list[Arm]:
        """Return all arms of one placement; equal placements appear once, with their labels joined by " = "."""
        arms = [*_of_winner(winner), *self.fixed, *_of_control(winner)]
        labels: dict[str, list[str]] = {}
        for label, placement in arms:
            labels.setdefault(placement.key, []).append(label)
        placements = {placement.key: placement for _, placement in arms}
        joined = [(" = ".join(names), placements[key]) for key, names in labels.items()]
        if winner is not None and winner.placement is not None and self._budget.ablate:
            joined += [arm for arm in ablations(self._bound, winner.placement) if arm[1].key not in placements]
        return joined

    def n_of_winner(self, placement: Placement) -> int:
        """Return the number of arms that are `placement` in parts, should it become `found #1`."""
        return len(ablations(self._bound, placement)) if self._budget.ablate else 0

    def controls(self, winner: Winner | None) -> tuple[Placement, ...]:
        """Return the placements of the arm `random`, one per seed in turn; empty without a winner."""
        found = winner.placement if winner else None
        if found is None:
            return ()
        if found.key not in self._controls:
            taken = {placement.key for _, placement in self.arms(winner)}
            number = self._budget.n_controls
            self._controls[found.key] = random_controls(self._bound, found, taken, number, self._seed)
        return self._controls[found.key]


def _of_winner(winner: Winner | None) -> list[Arm]:
    """Return `found #1` and the others of the front."""
    if winner is None:
        return []
    first = [] if winner.placement is None else [(FOUND, winner.placement)]
    return first + [(f"{FRONT} #{rank}", placement) for rank, placement in enumerate(winner.others, 2)]


def _of_control(winner: Winner | None) -> list[Arm]:
    """Return the best placement of the random search, if there is one."""
    return [] if winner is None or winner.control is None else [(RANDOM_SEARCH, winner.control)]
