"""Arms that are made from `found #1`: random placements of its size, and its ablation."""

from __future__ import annotations

import random
from collections.abc import Collection

from nas_attn.placement import Placement
from nas_attn.records import FOUND
from nas_attn.space.bound import BoundSpace
from nas_attn.space.decision import NO_ATTENTION, Decision, PlacedChoice

DRAWS = 300
"""Number of random placements in a row without a new control after which the space is taken for exhausted."""


def random_controls(
    bound: BoundSpace, found: Placement, taken: Collection[str], number: int, seed: int
) -> tuple[Placement, ...]:
    """Return up to `number` distinct random placements with as many sites as `found`, within the limits.

    The decisions with attention are drawn uniformly among the subsets with this number of sites; then, independently,
    each one's attention, and one of the attention's choices. Fewer are returned if the space has no more.

    Args:
        taken: Keys of placements to leave out, such as those of the other arms.
    """
    generator = random.Random(f"controls {seed} {found.key}")
    drawn: dict[str, Placement] = {}
    n_vain = 0
    while len(drawn) < number and n_vain < DRAWS:
        placement = _draw(bound, len(found), generator)
        is_new = placement.key not in taken and placement.key not in drawn
        n_vain += 1
        if is_new and len(placement) == len(found) and bound.check(placement) is None:
            drawn[placement.key] = placement
            n_vain = 0
    return tuple(drawn.values())


def ablations(bound: BoundSpace, found: Placement) -> list[tuple[str, Placement]]:
    """Return `found` without each of its decisions, and with each of them alone; none if it has only one.

    Sites that share a decision are removed together. With two decisions, the one without the first is the second alone.
    """
    decided = [decision for decision in bound.decisions if any(site.name in found for site in decision.sites)]
    labelled: dict[str, tuple[str, Placement]] = {}
    for decision in decided if len(decided) > 1 else ():
        own = {site.name for site in decision.sites}
        without = Placement({site: found[site] for site in found if site not in own})
        labelled.setdefault(without.key, (f"{FOUND} without {decision.name}", without))
    for decision in decided if len(decided) > 1 else ():
        own = {site.name for site in decision.sites}
        alone = Placement({site: found[site] for site in found if site in own})
        labelled.setdefault(alone.key, (f"{FOUND} only {decision.name}", alone))
    return list(labelled.values())


def _draw(bound: BoundSpace, n_sites: int, generator: random.Random) -> Placement:
    """Draw a placement; decisions are added in random order as long as they do not exceed `n_sites`."""
    parts: list[PlacedChoice] = []
    left = n_sites
    for decision in generator.sample(bound.decisions, len(bound.decisions)):
        part = _draw_part(decision, generator)
        if 0 < len(part.attentions) <= left:
            parts.append(part)
            left -= len(part.attentions)
    return Placement({site: attention for part in parts for site, attention in part.attentions})


def _draw_part(decision: Decision, generator: random.Random) -> PlacedChoice:
    """Draw an attention of a decision, and then one of its choices."""
    name = generator.choice(decision.attentions) if decision.attentions else NO_ATTENTION[0]
    return decision.placed_choices[
        generator.choice([choice for choice in decision.placed_choices if choice[0] == name])
    ]
