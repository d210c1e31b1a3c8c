"""Networks as users write them: a plain one, residual ones, and ones that cannot take every site."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class PlainCNN(nn.Module):
    """Convolutions in turn, with in-place ReLUs."""

    def __init__(self, num_classes: int = 5, in_channels: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(in_channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
            nn.MaxPool2d(2),
            nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True)),
        )
        self.classifier = nn.Linear(16, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x).mean(dim=(2, 3)))


class Block(nn.Module):
    """A residual block that adds in place, with a projection where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.drop = nn.Dropout(0.2)
        self.unused = nn.Linear(2, 3)
        self.project = None if out == channels and stride == 1 else nn.Conv2d(channels, out, 1, stride)

    def forward(self, x):
        shortcut = x if self.project is None else self.project(x)
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.drop(self.bn2(self.conv2(y)))
        y += shortcut
        return functional.relu_(y)


class ResidualCNN(nn.Module):
    """A stem and two residual stages."""

    def __init__(self, num_classes: int = 5, in_channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.stage1 = nn.Sequential(Block(8, 8), Block(8, 8))
        self.stage2 = nn.Sequential(Block(8, 16, stride=2))
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        return self.head(self.stage2(self.stage1(self.stem(x))).mean((2, 3)))


class ModeBlock(Block):
    """Reads its own mode, so its graph differs between training and evaluation."""

    def forward(self, x):
        y = functional.dropout(self.conv1(x), 0.1, self.training)
        return x + y


class BranchingBlock(Block):
    """Decides by the values that pass it."""

    def forward(self, x):
        return x + self.conv1(x) if x.mean() > 0 else x


class ConvBNReLU(Block):
    """A unit without a shortcut."""

    def forward(self, x):
        return functional.relu(self.bn1(self.conv1(x)))


class TieBlock(Block):
    """Both sides are equally deep."""

    def forward(self, x):
        return self.conv1(x) + self.conv2(x)


class TwoAdditions(Block):
    """Adds twice."""

    def forward(self, x):
        y = x + self.conv1(x)
        return y + self.conv2(y)


class WritesOver(Block):
    """Adds into its own input."""

    def forward(self, x):
        x += self.conv1(x)
        return x


class WritesOverByMethod(Block):
    """Adds into its own input, in so many words."""

    def forward(self, x):
        return x.add_(self.conv1(x))


class WritesOverByPower(Block):
    """Squares its own input, and adds to it."""

    def forward(self, x):
        x **= 2
        return self.conv1(x) + x


class AddsIntoShortcut(Block):
    """Adds its branch into what its shortcut gave."""

    def forward(self, x):
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        shortcut = x.clone()
        shortcut += out
        return functional.relu(shortcut)


class Scaled(Block):
    """Reads a list of its own."""

    def __init__(self, channels: int, out: int, factor: int) -> None:
        super().__init__(channels, out)
        self.factors = [factor]

    def forward(self, x):
        return self.bn1(self.conv1(x)) * self.factors[0] + x


class SharedStart(Block):
    """Pre-activation: shortcut and branch begin with the same norm."""

    def forward(self, x):
        y = functional.relu(self.bn1(x))
        return self.conv2(self.conv1(y)) + y


class Constant(Block):
    """Makes a tensor in its forward."""

    def forward(self, x):
        return x + self.conv1(x) * torch.ones(1, 8, 1, 1)


class StochasticDepth(nn.Module):
    """Drops whole branches in training, as torchvision's module of this name does."""

    def forward(self, x):
        return x if not self.training else x * 0.5


class Dropping(Block):
    """Drops its branch at random, right before the addition."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out)
        self.stochastic_depth = StochasticDepth()

    def forward(self, x):
        return x + self.stochastic_depth(self.conv1(x))


class Odd(nn.Module):
    """Runs one module twice and another never, and one gives no map."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.never = nn.Conv2d(1, 1, 1)
        self.flat = nn.Flatten()
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.head(self.flat(self.conv(self.conv(x))))


def wrap(block: nn.Module) -> nn.Module:
    """A network of one block on 8 channels, called `1`."""
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def make_residual(num_classes: int, in_channels: int) -> nn.Module:
    """What a space file may import."""
    return ResidualCNN(num_classes, in_channels)


def make_odd(num_classes: int) -> nn.Module:
    """A network without a single site."""
    return Odd(num_classes)


def make_nothing() -> object:
    """No network."""
    return object()
