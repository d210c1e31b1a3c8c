"""Placements that differ from a known one in one decision."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from nas_attn.placement import Placement, Value
from nas_attn.space.bound import BoundSpace

_TRIES = 100
"""Number of changes that are drawn: one that makes the same placement is left out."""


def neighbours(bound: BoundSpace, params: Mapping[str, Value], draw: random.Random) -> Iterator[Placement]:
    """Yield placements of the space in random order, each with another choice in one decision; some come twice.

    Args:
        params: The flat parameters of the placement in the middle.
        draw: Draws the decision and its parameters.
    """
    here = bound.placement(params).key
    for _ in range(_TRIES):
        decision = draw.choice(bound.decisions)
        found = bound.placement({**params, **{name: draw.choice(values) for name, values in decision.choices.items()}})
        if found.key != here:
            yield found
