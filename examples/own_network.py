"""A network of your own, searched on the handwritten digits: `own_network.toml` beside it says where and what."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from nas_attn import search


class Block(nn.Module):
    """A bottleneck, as you would write it for yourself."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.expand = nn.Conv2d(width, channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        y = functional.relu(self.norm1(self.reduce(x)))
        y = functional.relu(self.norm2(self.conv(y)))
        return functional.relu(x + self.norm3(self.expand(y)))


class MyNet(nn.Module):
    """Three stages of blocks, each at half the size of the one before."""

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.ModuleList(Block(width, width // 2) for _ in range(3))
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Shape: (N, in_channels, H, W) -> (N, num_classes)."""
        x = self.stem(images)
        for number, stage in enumerate(self.stages):
            x = stage(functional.max_pool2d(x, 2) if number else x)
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


def make_net(num_classes: int, in_channels: int, width: int = 32) -> nn.Module:
    """Return a new network; what the data says comes by name, and `width` from `[backbone]`."""
    return MyNet(num_classes, in_channels, width)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/own_network")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--executor", default="tune")
    arguments = parser.parse_args()
    run = search(Path(__file__).with_suffix(".toml"), **vars(arguments))
    print(f"report: {run.folder / 'report.html'}")
