"""Residual blocks in the styles of public code: each maps 16 channels to 16."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

C = 16


def conv(n_in: int, n_out: int, size: int = 3, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, size, padding=size // 2, groups=groups, bias=False)


class Bare(nn.Module):
    """The layers that most of these blocks have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(C, 8, 1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = conv(8, 8), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = conv(8, C, 1), nn.BatchNorm2d(C)

    def branch(self, x):
        y = functional.relu(self.bn1(self.conv1(x)))
        return self.bn3(self.conv3(functional.relu(self.bn2(self.conv2(y)))))


class Wide(nn.Module):
    """A Wide ResNet's block, with dropout as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.relu1, self.conv1 = nn.BatchNorm2d(C), nn.ReLU(inplace=True), conv(C, C)
        self.bn2, self.relu2, self.conv2 = nn.BatchNorm2d(C), nn.ReLU(inplace=True), conv(C, C)

    def forward(self, x):
        out = self.relu2(self.bn2(self.conv1(self.relu1(self.bn1(x)))))
        out = functional.dropout(out, p=0.3, training=self.training)
        return torch.add(x, self.conv2(out))


class Called(Bare):
    """Runs its children by their forward, adds the shortcut first."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut = nn.Sequential()

    def forward(self, x):
        y = self.conv1.forward(x)
        y = functional.relu(self.bn1.forward(y), inplace=True)
        y = self.conv3.forward(functional.relu(self.conv2.forward(y), inplace=True))
        return functional.relu(self.shortcut.forward(x) + y, inplace=True)


class MadeInForward(nn.Module):
    """Makes its activations and poolings in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.residual = nn.Sequential(conv(C, C), nn.BatchNorm2d(C), nn.ReLU(inplace=True), conv(C, C))
        self.shortcut = nn.Sequential()

    def forward(self, x):
        y = nn.Sequential(nn.Dropout(0.0), nn.MaxPool2d(3, 1, 1))(self.residual(x))
        return nn.ReLU(inplace=True)(y + self.shortcut(x))


class OwnShortcut(Bare):
    """Takes a shortcut from outside, or its input."""

    def forward(self, x, residual=None):
        if residual is None:
            residual = x
        y = self.branch(x)
        y += residual
        return functional.relu(y)


class Parts(nn.Module):
    """Adds the parts of its map inside the branch, as Res2Net does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv3 = conv(C, C, 1), conv(C, C, 1)
        self.convs = nn.ModuleList(conv(4, 4) for _ in range(3))

    def forward(self, x):
        first, *others = torch.split(functional.relu(self.conv1(x)), [4, 4, 4, 4], 1)
        done = [first]
        for layer, part in zip(self.convs, others, strict=True):
            done.append(functional.relu(layer(part + done[-1])))
        return functional.relu(self.conv3(torch.cat(done, 1)) + x)


class ChannelsLast(nn.Module):
    """Works in channels last inside, without a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(C), nn.Linear(C, C)

    def forward(self, x):
        return x + self.layer(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Listed(nn.Module):
    """Has its activations in a plain list, and sums a list."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.activations = conv(C, C), conv(C, C), [nn.ReLU(), nn.Hardswish()]

    def forward(self, x):
        first, second = self.activations
        return second(sum([x, self.conv2(first(self.conv1(x)))]))


class Spatial(Bare):
    """Multiplies its branch by factors over channels, rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.rows, self.columns = nn.Conv2d(C, 8, 1), nn.Conv2d(8, C, 1), nn.Conv2d(8, C, 1)

    def forward(self, x):
        y = self.branch(x)
        _, _, height, width = y.size()
        both = torch.cat([y.mean(3, keepdim=True), y.mean(2, keepdim=True).permute(0, 1, 3, 2)], 2)
        rows, columns = torch.split(functional.hardswish(self.squeeze(both)), [height, width], 2)
        y = y * self.rows(rows).sigmoid() * self.columns(columns.permute(0, 1, 3, 2)).sigmoid()
        return y + x


class SELines(Bare):
    """Squeeze-and-excitation by convolutions in the lines of the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(C, 4, 1), nn.Conv2d(4, C, 1)

    def forward(self, x):
        y = self.branch(x)
        factor = functional.avg_pool2d(y, y.size(2))
        factor = torch.sigmoid(self.fc2(functional.relu(self.fc1(factor), inplace=True)))
        return functional.relu(x + y * factor)


class SELayer(nn.Module):
    """Squeeze-and-excitation by linear layers, as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(C, 4, bias=False), nn.ReLU(inplace=True), nn.Linear(4, C, bias=False), nn.Sigmoid()
        )

    def forward(self, x):
        n, c, _, _ = x.size()
        factor = self.fc(self.pool(x).view(n, c)).view(n, c, 1, 1)
        return x * factor.expand_as(x)


class SEModule(Bare):
    """Has a squeeze-and-excitation module at the end of its branch."""

    def __init__(self) -> None:
        super().__init__()
        self.se = SELayer()

    def forward(self, x):
        y = self.se(self.branch(x))
        y += x
        return functional.relu(y)


class HardSigmoid(nn.Module):
    """In the words of MobileNet-v3's first implementations."""

    def forward(self, x):
        return functional.relu6(x + 3.0) / 6.0


class SEFactor(Bare):
    """Multiplies by what a child returns, which is made of the block's input."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, 4, 1), nn.SiLU(), nn.Conv2d(4, C, 1), HardSigmoid()
        )

    def forward(self, x):
        return x + self.gate(x) * self.branch(x)


class Net(nn.Module):
    """A stem and two blocks of one style."""

    def __init__(self, block: type[nn.Module], in_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, C, 3, 2, 1)
        self.block1, self.block2 = block(), block()
        self.fc = nn.Linear(C, 5)

    def forward(self, x):
        return self.fc(self.block2(self.block1(self.stem(x))).mean((2, 3)))


def make_with_se(num_classes: int = 5, style: str = "SELines") -> nn.Module:
    """What a space file may import."""
    return Net(globals()[style])
