"""Pre-activation ResNets for small images: norm and ReLU come before each convolution."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

DEEP = 164
"""Depth from which blocks are bottlenecks, as in the paper."""


class PreActivationBlock(nn.Module):
    """Norm, ReLU and a branch of convolutions; a norm and a ReLU precede each further one.

    The shortcut is the input, or where the width changes, a 1x1 convolution of the input after norm and ReLU.

    Shape: (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride), both rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, bottleneck: bool) -> None:
        super().__init__()
        width = out_channels // 4 if bottleneck else out_channels
        shapes = [(in_channels, width, 1, stride), (width, width, 3, 1), (width, out_channels, 1, 1)]
        if not bottleneck:
            shapes = [(in_channels, width, 3, stride), (width, width, 3, 1)]
        self.preactivation = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True))
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (before, after, kernel, step) in enumerate(shapes, 1):
            if number > 1:
                layers[f"norm{number}"] = nn.BatchNorm2d(before)
                layers[f"relu{number}"] = nn.ReLU(inplace=True)
            layers[f"conv{number}"] = nn.Conv2d(before, after, kernel, step, kernel // 2, bias=False)
        self.branch = nn.Sequential(layers)
        widens = in_channels != out_channels
        self.projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if widens else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the branch and the shortcut."""
        active = self.preactivation(x)
        shortcut = x if self.projection is None else self.projection(active)
        added: Tensor = self.branch(active) + shortcut
        return added


class PreActivationResNet(nn.Module):
    """Pre-activation ResNet of three stages; its blocks are bottlenecks from depth 164.

    Source: He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv:1603.05027, and
    the authors' code.
    Departs: the authors' code has bottlenecks only; blocks of two 3x3 convolutions take the same shortcuts.

    Args:
        depth: Layers: 2, and 6 for each block of every stage, or 9 with bottlenecks.
        width: Channels of the first convolution; the stages have 1, 2 and 4 times as many, with bottlenecks 4 times
            those.

    Shape: (N, in_channels, H, W) -> (N, num_classes).
    Cost: 272,282 parameters at depth 20 and 1,703,258 at depth 164, for three channels and 10 classes.
    """

    def __init__(self, *, num_classes: int, in_channels: int, depth: int, width: int) -> None:
        super().__init__()
        bottleneck = depth >= DEEP
        n_blocks = (depth - 2) // (9 if bottleneck else 6)
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        stages, channels = [], width
        for stride, factor in ((1, 1), (2, 2), (2, 4)):
            out_channels = width * factor * (4 if bottleneck else 1)
            blocks = []
            for index in range(n_blocks):
                step = stride if index == 0 else 1
                blocks.append(PreActivationBlock(channels, out_channels, stride=step, bottleneck=bottleneck))
                channels = out_channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.activation = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        maps = self.activation(self.stages(self.stem(images)))
        logits: Tensor = self.classifier(self.pool(maps).flatten(1))
        return logits
