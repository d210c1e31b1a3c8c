"""Do short schedules rank placements as the full one does? Complete ones, annealed to zero, beside truncated ones.

A sample of placements is trained with every share of the epochs as a schedule of its own, and with the whole one, from
which the truncated values are read. The reference is the mean of full schedules with further seeds: the row `1` is what
the noise of one seed leaves. Values are shares of right images of validation and test, truncated ones of validation.

    python benchmarks/short_schedules.py --space lenet_mnist --data mnist-5k
    python benchmarks/short_schedules.py --space densenet_attn --data digits --placements 40
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray
from placement_training import images
from scipy.stats import kendalltau
from tables import whole_recipe

from nas_attn import SearchSpace
from nas_attn.backbones.site_table import site_table
from nas_attn.config import Recipe
from nas_attn.model.build import build
from nas_attn.placement import NONE, Placement, Shape
from nas_attn.space.bound import BoundSpace
from nas_attn.training.loop import accuracy, train

SHARES = (1 / 8, 1 / 4, 1 / 2)
N_REFERENCE = 2
"""Number of further seeds of the full schedule whose mean is the reference."""

Floats = NDArray[np.float64]


@cache
def bound(space: str, data: str) -> BoundSpace:
    """Return the space over the sites of its backbone."""
    facts, loaded = images(data).facts, SearchSpace.load(space)
    shape = {"num_classes": facts.num_classes, "in_channels": facts.in_channels, "image_size": facts.image_size}
    return loaded.bind(site_table(loaded.backbone, **shape))


def sample(space: BoundSpace, number: int) -> list[Placement]:
    """Return no attention, each attention everywhere, and random placements, so many in all."""
    chosen = {NONE.key: NONE}
    for name in space.attentions:
        chosen.setdefault(space.everywhere(name).key, space.everywhere(name))
    rng = np.random.default_rng(0)
    while len(chosen) < number:
        drawn = space.placement({name: values[rng.integers(len(values))] for name, values in space.choices.items()})
        chosen.setdefault(drawn.key, drawn)
    return list(chosen.values())[:number]


def trained(space: str, data: str, placement: Placement, epochs: int, seed: int) -> tuple[list[float], float]:
    """Return the validation curve of a training, and its accuracy on validation and test. Units: 0 to 1."""
    torch.set_num_threads(1)
    parts, curve = images(data), []
    facts, loaded = parts.facts, SearchSpace.load(space)
    shape = Shape(facts.num_classes, facts.in_channels, facts.image_size)
    model = build(loaded.backbone, placement, shape, seed=seed)
    recipe = Recipe(**loaded.recipe)

    def report(epoch: int, value: float) -> None:
        curve.append(value)

    train(
        *(model, parts.train, parts.val, recipe),
        seed=seed, epochs=epochs, device="cpu", report=report, num_classes=facts.num_classes,
    )  # fmt: skip
    n_val, n_test = len(parts.val), len(parts.test)
    both = n_val * accuracy(model, parts.val) + n_test * accuracy(model, parts.test)
    return curve, both / (n_val + n_test)


def tau(values: Floats, reference: Floats) -> tuple[float, float, float]:
    """Return Kendall's correlation with its 95 % interval by bootstrap over the placements."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(values), (2_000, len(values)))
    found = [kendalltau(values[rows], reference[rows]).statistic for rows in draws]
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(kendalltau(values, reference).statistic), float(low), float(high)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row per share of the epochs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="lenet_mnist")
    parser.add_argument("--data", default="mnist-5k")
    parser.add_argument("--placements", type=int, default=40)
    parser.add_argument("--processes", type=int, default=2)
    stated = parser.parse_args(arguments)
    full = whole_recipe(SearchSpace.load(stated.space)).epochs
    chosen = sample(bound(stated.space, stated.data), stated.placements)
    lengths = [max(1, round(share * full)) for share in SHARES]
    print(f"{stated.space} on {stated.data}: {len(chosen)} placements, {full} epochs", flush=True)
    begun = time.monotonic()
    with ProcessPoolExecutor(stated.processes, mp_context=get_context("spawn")) as pool:

        def all_trained(epochs: int, seed: int) -> list[tuple[list[float], float]]:
            n = len(chosen)
            return list(pool.map(trained, [stated.space] * n, [stated.data] * n, chosen, [epochs] * n, [seed] * n))

        references = [[value for _, value in all_trained(full, 1 + seed)] for seed in range(N_REFERENCE)]
        reference = np.mean(references, axis=0)
        whole = all_trained(full, 0)
        print(f"{'share':>6}{'epochs':>8}{'complete: tau, interval':>32}{'truncated':>28}")
        for share, epochs in zip(SHARES, lengths, strict=True):
            short = np.array([value for _, value in all_trained(epochs, 0)])
            cut = np.array([curve[epochs - 1] if len(curve) == full else np.nan for curve, _ in whole])
            cells = f"{_row(tau(short, reference)):>32}{_row(tau(cut, reference)):>28}"
            print(f"{share:>6.3f}{epochs:>8}{cells}", flush=True)
        last = np.array([value for _, value in whole])
        print(f"{1:>6}{full:>8}{_row(tau(last, reference)):>32}")
    print(f"{time.monotonic() - begun:.0f} s")


def _row(found: tuple[float, float, float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*found)


if __name__ == "__main__":
    main()
