"""The random search beside a search, for comparison."""

from __future__ import annotations

from nas_attn.config import Engine
from nas_attn.space.bound import BoundSpace
from nas_attn.study.ledger import Ledger
from nas_attn.study.objectives import USUAL, Goals
from nas_attn.study.sampling import SearchStudy

CONTROL_OFFSET = 30_000
"""Offset of the seeds of a random search from those of the search beside it."""


def control_search(
    ledger: Ledger,
    bound: BoundSpace,
    engine: Engine,
    sampler: str,
    *,
    budget: int,
    epochs: int,
    top: int,
    goals: Goals = USUAL,
) -> SearchStudy:
    """Return the search beside a search that shows what its sampler is worth: it has seeds of its own and no priors.

    Args:
        engine: That of the search.
        sampler: The sampler to compare with.
        budget: As for the search, so that both cost the same; so do the others.
    """
    other = engine.model_copy(update={"sampler": sampler, "sampler_option": (), "seed": engine.seed + CONTROL_OFFSET})
    return SearchStudy(
        ledger, bound, other, budget=budget, epochs=epochs, top=top, stage="control", priors=(), goals=goals
    )
