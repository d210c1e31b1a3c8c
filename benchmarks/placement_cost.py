"""The time to compute a placement's cost on ResNet-50 without building it; goal: at most 5 ms.

Run: `python benchmarks/placement_cost.py [--rounds 30] [--built 3]`. The peer builds the
network and counts. Placements are random: at each site, with probability one half, one of the attentions that fit, with
its defaults. "first" is a placement that is new to the process, "bound" one of a bound space, whose costs are known.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from nas_attn import ATTENTIONS, Attention, Placement, build_model
from nas_attn.backbones.site_table import site_table
from nas_attn.cost import count_macs, count_parameters
from nas_attn.space.fit import Cost, misfit, placement_cost
from nas_attn.space.search_space import SearchSpace

SHAPE = {"num_classes": 1000, "in_channels": 3, "image_size": 224}
KEEPING = [name for name in ATTENTIONS if ATTENTIONS[name].keeps_shape]


SPACE = {
    "title": "Every attention that keeps a shape, at every site",
    "sites": [{"match": ["**"], "attentions": KEEPING}],
}


def drawn(fitting: Mapping[str, list[str]], dice: random.Random) -> Placement:
    """Return a random placement."""
    return Placement({site: Attention(dice.choice(names)) for site, names in fitting.items() if dice.random() < 0.5})


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return milliseconds and result."""
    start = time.perf_counter()
    result = function()
    return (time.perf_counter() - start) * 1e3, result


def counted(placement: Placement) -> Cost:
    """Return the cost of the built network, counted on shapes alone."""
    model = build_model("resnet50", placement, **SHAPE, seed=0).to("meta")
    return Cost(count_parameters(model), count_macs(model, (3, 224, 224)))


def show(label: str, times: list[float]) -> None:
    """Print median, minimum and maximum."""
    print(f"{label:44} {statistics.median(times):9.3f} ms   ({min(times):.3f} to {max(times):.3f}, n = {len(times)})")


def main() -> None:
    """Print the times, and check that both ways agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--built", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table, dice = site_table("resnet50", **SHAPE), random.Random(0)
    fitting = {
        site.name: [name for name in ATTENTIONS if not ATTENTIONS[name].neutral and not misfit(site, Attention(name))]
        for site in table.sites
    }
    placements = [drawn(fitting, dice) for _ in range(arguments.rounds)]
    print(f"ResNet-50: {len(table.sites)} sites, about {len(placements[0])} attentions per placement")
    show("first: resolve, check and add up", [timed(lambda p=p: placement_cost(table, p))[0] for p in placements])
    bound = SearchSpace.from_dict(SPACE).bind(table)
    resolved = [bound.resolve(placement) for placement in placements]
    bound.cost(resolved[0])  # computes the table of costs
    show("bound: add up", [timed(lambda p=p: bound.cost(p))[0] for p in resolved])
    times = []
    for placement in placements[: arguments.built]:
        took, cost = timed(lambda p=placement: counted(p))
        times.append(took)
        assert cost == placement_cost(table, placement), f"{cost} is not {placement_cost(table, placement)}"
    show("peer: build the network and count it", times)
    print("Both ways count the same parameters and multiply-adds.")


if __name__ == "__main__":
    main()
