"""An attention of your own, searched beside SE on the handwritten digits; the workers get it from this script."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn import Entry, Option, SearchSpace, register_attention, search


class Contrast(nn.Module):
    """Gate each element by how much it differs from its neighbourhood's mean, with one slope a channel."""

    def __init__(self, channels: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.slope = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        size = self.kernel_size
        means = functional.avg_pool2d(x, size, stride=1, padding=size // 2, count_include_pad=False)
        return x * torch.sigmoid(self.slope * (x - means))


CONTRAST = Entry(
    name="contrast",
    cls=Contrast,
    summary="Gates each element by its contrast with its neighbourhood.",
    formula="y = x * sigmoid(slope_c * (x - mean_kxk(x)))",
    source="this file",
    options=(Option("kernel_size", 3, "int", "Size of the neighbourhood.", low=3, high=15, odd=True),),
    smallest_map=2,
)

SPACE = {
    "title": "My contrast gate or SE, in a small DenseNet",
    "backbone": {"name": "densenet", "growth_rate": 8, "block_config": [4, 4]},
    "sites": [{"match": ["denseblock*"], "attentions": ["se", "contrast"]}],
    "attentions": {"contrast": {"kernel_size": [3, 5]}},
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/own_attention")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--executor", default="tune")
    parser.add_argument("--workers", type=int)
    arguments = parser.parse_args()
    register_attention(CONTRAST)
    run = search(
        SearchSpace.from_dict(SPACE, name="own_attention"),
        out=arguments.out,
        trials=arguments.trials,
        epochs=arguments.epochs,
        seeds=arguments.seeds,
        executor=arguments.executor,
        **({} if arguments.workers is None else {"workers": arguments.workers, "cpus_per_trial": 1}),
    )
    print(f"report: {run.folder / 'report.html'}")
