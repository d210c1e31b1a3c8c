"""The time to measure the main job's arms, and the repeatability of their ratios; goal: 2 s in total.

Run: `python benchmarks/measuring.py [--repeats 5] [--space densenet_attn]`, on an idle machine. "in turns" is the time
divided by that of `none`, measured alternately; "one by one" divides two medians that were measured one after the
other.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from nas_attn import Placement, SearchSpace, build_model
from nas_attn.backbones.site_table import site_table
from nas_attn.config import Recipe
from nas_attn.cost.measurement import measure


def main() -> None:
    """Measure every arm several times, and print seconds, ratios and their spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--space", default="densenet_attn")
    parser.add_argument("--image-size", type=int, default=8)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    shape = {"num_classes": 10, "in_channels": given.channels, "image_size": given.image_size}
    space = SearchSpace.load(given.space)
    bound = space.bind(site_table(space.backbone, **shape))
    arms = {"none": Placement()} | {name: bound.everywhere(name) for name in bound.attentions}
    none = build_model(space.backbone, Placement(), **shape)
    recipe = Recipe()
    batch = (recipe.batch_size, given.channels, given.image_size, given.image_size)
    rows = []
    for _ in range(given.repeats):
        begun, spent = time.perf_counter(), time.process_time()
        rows.append(
            {
                name: measure(
                    build_model(space.backbone, placement, **shape), batch, given.device, recipe=recipe, beside=none
                )
                for name, placement in arms.items()
            }
        )
        seconds, own = time.perf_counter() - begun, time.process_time() - spent
        print(f"{len(arms)} arms: {seconds:.2f} s, of the processor {own:.2f} s")
    print(f"torch threads: {torch.get_num_threads()}, {rows[0]['none'].bench.device}")
    for name in arms:
        turns = [row[name].latency_ratio or 1.0 for row in rows]
        single = [row[name].latency_ms / row["none"].latency_ms for row in rows]
        same = len({(row[name].forward_bytes, row[name].training_bytes) for row in rows}) == 1
        print(
            f"{name:12} in turns {_spread(turns)}, one by one {_spread(single)}; memory "
            f"{'the same' if same else 'not the same'} in every repeat"
        )


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
