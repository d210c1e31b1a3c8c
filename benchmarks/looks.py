"""Errors and power of the planned comparison and of the family of all others, over looks at growing numbers of seeds.

Run: `python benchmarks/looks.py [--runs 4000]`. A run draws 8 arms' differences from one baseline, normal over seeds
and images, and is judged as the product judges it. "any" is "better" or "worse" anywhere at any look. Goals: headline
5 %, any 6 % where nothing matters; "better" in 70 % of the runs with a true gain of 0.6 points under `auto`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas_attn.comparison.crossed import Crossed, from_mean_squares
from nas_attn.comparison.looks import Look, at_once, by_schedule, next_look
from nas_attn.statistics import holm, p_value

N_IMAGES, N_ARMS, MAX_SEEDS = 1_258, 8, 20
PLANS = {
    "5 seeds": (5,),
    "5 seeds, then 10, then 20 unplanned": (5, 10, 20),
    "auto to 20": (5, 10, 15, 20),
    "auto, every seed from 5": tuple(range(5, 21)),
}


@dataclass(frozen=True)
class World:
    """What is true, in points: the first arm's gain, and the paired difference's spread.

    Args:
        image_error: Standard error of a difference that the images alone cause.
        seed_sd: Standard deviation of a seed's difference on these images.
        by_rest: Share of its variance that is chance at single images, and not the seed's own quality.
    """

    gain: float
    image_error: float
    seed_sd: float
    by_rest: float


def main() -> None:
    """Print the table of errors and the table of power."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    schedules = {plan: looks_of(plan) for plan in PLANS}
    print("plan | gain | image error | seed sd | by rest || headline better | worse | any | decided after (seeds)")
    for gain, seed_sds in ((0.0, (0.2, 0.5)), (0.6, (0.4, 0.5, 0.6))):
        for seed_sd in seed_sds:
            for by_rest in (0.0, 0.5, 1.0):
                for plan, schedule in schedules.items():
                    random = np.random.default_rng(given.seed)
                    world = World(gain, 0.13, seed_sd, by_rest)
                    found = [run(world, schedule, plan.startswith("auto"), random) for _ in range(given.runs)]
                    better, worse, anywhere = (float(np.mean([one[k] for one in found])) for k in range(3))
                    ends = [one[3] for one in found if one[3]]
                    print(
                        f"{plan} | {gain:g} | 0.13 | {seed_sd:g} | {by_rest:g} || {better:.1%} | {worse:.1%} | "
                        f"{anywhere:.1%} | {np.mean(ends) if ends else 0:.1f}",
                        flush=True,
                    )


def looks_of(plan: str) -> list[Look]:
    """Return the looks of a plan: they depend on the numbers of seeds only."""
    looks: list[Look] = []
    for n in PLANS[plan]:
        spending = by_schedule(looks, n, MAX_SEEDS) if plan.startswith("auto") else at_once(looks)
        looks.append(next_look(looks, n, spending))
    return looks


def run(world: World, looks: Sequence[Look], ends: bool, random: np.random.Generator) -> tuple[bool, bool, bool, int]:
    """Return whether the headline was better, was worse, whether any pill decided, and after how many seeds it did.

    Args:
        ends: Whether the run ends once the headline is decided.
    """
    seeds, images = _drawn(world, looks[-1].n_seeds, random)
    word, anywhere, end = 0, False, 0
    for look in looks:
        n = look.n_seeds
        found = [_crossed(world, seeds[arm, :n] + images[arm], random) for arm in range(N_ARMS)]
        p_values = [p_value(one.mean, one.variance, one.degrees) for one in found]
        if not word and p_values[0] <= look.level:
            word, end = (1 if found[0].mean > 0 else -1), n
        anywhere |= bool(word) or _any(holm(p_values[1:]), look.open_level if word else look.family_level)
        if word and ends:
            break
    return word > 0, word < 0, anywhere, end


def _any(adjusted: Sequence[float | None], level: float) -> bool:
    return any(p is not None and p <= level for p in adjusted)


def _drawn(world: World, n_seeds: int, random: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the arms' differences by seed, (arms, seeds), and the part of the images, (arms,): half the baseline's."""

    def halves(*shape: int) -> NDArray[np.float64]:
        return (random.standard_normal((N_ARMS, *shape)) - random.standard_normal((1, *shape))) / np.sqrt(2)

    gains = np.zeros((N_ARMS, 1))
    gains[0] = world.gain
    return gains + world.seed_sd * halves(n_seeds), world.image_error * halves()


def _crossed(world: World, values: NDArray[np.float64], random: np.random.Generator) -> Crossed:
    """Return the components of one difference: seeds as drawn, images and rest as so many images estimate them."""
    n = len(values)
    rest = world.by_rest * world.seed_sd**2 * N_IMAGES
    images = n * world.image_error**2 * N_IMAGES + rest
    active = 60.0
    of_images = images * random.chisquare(2 * active) / (2 * active)
    squares = (float(values.var(ddof=1)) * N_IMAGES, of_images, rest)
    return from_mean_squares(float(values.mean()), squares, (n, N_IMAGES), active)


if __name__ == "__main__":
    main()
