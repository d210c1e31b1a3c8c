"""Networks as people bring them: residual, with layer norms, skips or branches, nested, tied, called twice."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Bottleneck(nn.Module):
    """A bottleneck as torchvision writes it: one ReLU module for all three places."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class FunctionalBottleneck(Bottleneck):
    """The same with functions in place of the module."""

    def forward(self, x):
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.bn3(self.conv3(out)) + shortcut)


class BottleneckNet(nn.Module):
    """A ResNet of bottlenecks, written by hand."""

    def __init__(self, block: type[Bottleneck] = Bottleneck) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(block(8, 4), block(16, 4))
        self.layer2 = nn.Sequential(block(16, 4, stride=2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.flatten(self.avgpool(self.layer2(self.layer1(x))), 1))


class DropPath(nn.Module):
    """Drops whole branches, image by image."""

    def forward(self, x):
        if not self.training:
            return x
        return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.9) / 0.9


class ConvNeXtBlock(nn.Module):
    """A ConvNeXt block: its norm and its linear layers see channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 0.1))
        self.drop_path = DropPath()

    def forward(self, x):
        shortcut = x
        x = self.dwconv(x).permute(0, 2, 3, 1)
        x = self.gamma * self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        return shortcut + self.drop_path(x.permute(0, 3, 1, 2))


class ConvNeXtNet(nn.Module):
    """A patch stem, two blocks, and a norm behind the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.blocks = nn.ModuleList([ConvNeXtBlock(8), ConvNeXtBlock(8)])
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x.mean([-2, -1])))


class UNetClassifier(nn.Module):
    """An encoder and a decoder with a skip, and a classifier on top."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleDict({"0": self._double(3, 8), "1": self._double(8, 16)})
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.decode = self._double(16, 8)
        self.classify = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(8, 5))

    @staticmethod
    def _double(channels: int, out: int) -> nn.Module:
        layers: list[nn.Module] = []
        for n_in in (channels, out):
            layers += [nn.Conv2d(n_in, out, 3, padding="same"), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    def forward(self, x):
        skip = self.down["0"](x)
        deep = self.down["1"](self.pool(skip))
        return self.classify(self.decode(torch.cat([skip, self.up(deep)], dim=1)))


class InceptionNet(nn.Module):
    """Branches side by side, joined by `torch.cat`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.one = nn.Conv2d(8, 4, 1)
        self.three = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.join = nn.Identity()
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.stem(x)
        x = self.join(torch.cat([self.one(x), functional.relu(self.three(x))], 1))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class NestedNet(nn.Module):
    """Lists in dictionaries; a Sequential that is walked through and never called; arguments with defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(
            {
                "low-level": nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)]),
                "3x3": nn.ModuleList([nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())]),
            }
        )
        self.tail = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, 5)

    def forward(self, images, scale: float = 1.0, *, pool: str = "mean"):
        x = images * scale
        for stage in self.stages.values():
            for layer in stage:
                x = torch.relu(layer(x))
        for layer in self.tail:
            x = layer(x)
        return self.fc(getattr(x, pool)((2, 3)))


class TiedNet(nn.Module):
    """Two convolutions with one weight, a buffer that scales, and a weight that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.second.weight = self.first.weight
        self.frozen = nn.Conv2d(8, 8, 3, padding=1).requires_grad_(False)
        self.register_buffer("scale", torch.full((8, 1, 1), 0.5))
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(self.stem(x)))) * self.scale)
        return self.fc(self.frozen(x).mean((2, 3)))


class SiameseNet(nn.Module):
    """Looks at an image and at its mirror image with one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.fuse = nn.Conv2d(16, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        both = torch.cat([self.trunk(x), self.trunk(x.flip(-1))], 1)
        return self.fc(self.fuse(both).mean((2, 3)))


class LazyNet(nn.Module):
    """Finds the channels that enter its layers when it first runs."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.LazyConv2d(8, 3, padding=1), nn.LazyBatchNorm2d(), nn.ReLU())
        self.fc = nn.LazyLinear(5)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


class AttentiveNet(nn.Module):
    """A convolution, then attention between pixels and a recurrent layer, which have no maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.recurrent = nn.LSTM(8, 8, batch_first=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        tokens = self.encoder(self.conv(x).flatten(2).transpose(1, 2))
        return self.fc(self.recurrent(tokens)[0][:, -1])


class ChannelsLast(nn.Module):
    """Works on (N, H, W, C), of as many channels as pixels a side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.mix = nn.Linear(8, 8)
        self.act = nn.GELU()
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.act(self.mix(self.stem(x).permute(0, 2, 3, 1))).mean((1, 2)))


REALISTIC = {
    "bottleneck": BottleneckNet,
    "functional bottleneck": lambda: BottleneckNet(FunctionalBottleneck),
    "convnext": ConvNeXtNet,
    "u-net": UNetClassifier,
    "inception": InceptionNet,
    "nested": NestedNet,
    "tied": TiedNet,
    "siamese": SiameseNet,
    "lazy": LazyNet,
    "attentive": AttentiveNet,
    "channels last": ChannelsLast,
}
