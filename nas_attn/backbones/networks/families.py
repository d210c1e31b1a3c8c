"""Builds torchvision's networks, with another first convolution if the images or the stem need one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

Draw = Callable[[Tensor], object]
"""Initialises a new first convolution as the network initialises its own."""

_he: Draw = partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")
_narrow: Draw = partial(nn.init.trunc_normal_, std=0.01)
_wide: Draw = partial(nn.init.trunc_normal_, std=0.1)


class DenseNet(models.DenseNet):  # type: ignore[misc]  # torchvision has no type hints
    """torchvision's DenseNet with its last ReLU as a module, and an Identity `head` that an attention can replace.

    Shape: (N, in_channels, H, W) -> (N, num_classes).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.activation = nn.ReLU(inplace=True)
        self.head = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        maps = self.head(self.activation(self.features(x)))
        logits: Tensor = self.classifier(functional.adaptive_avg_pool2d(maps, 1).flatten(1))
        return logits


def densenet(*, in_channels: int, stem: str, **options: Any) -> nn.Module:
    """Return torchvision's DenseNet."""
    net = DenseNet(**options)
    return _stemmed(net, "features.conv0", nn.init.kaiming_normal_, in_channels, stem, "features.pool0")


def resnet(arch: str, *, num_classes: int, in_channels: int, stem: str) -> nn.Module:
    """Return torchvision's ResNet, ResNeXt or Wide ResNet of this name."""
    net = models.get_model(arch, num_classes=num_classes)
    return _stemmed(net, "conv1", _he, in_channels, stem, "maxpool")


def alexnet(*, num_classes: int, in_channels: int) -> nn.Module:
    """Return torchvision's AlexNet."""
    return _stemmed(models.alexnet(num_classes=num_classes), "features.0", None, in_channels)


def vgg(arch: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """Return torchvision's VGG of this name."""
    return _stemmed(models.get_model(arch, num_classes=num_classes), "features.0", _he, in_channels)


def googlenet(*, num_classes: int, in_channels: int, stem: str) -> nn.Module:
    """Return torchvision's GoogLeNet without its auxiliary classifiers."""
    net: nn.Module = models.googlenet(num_classes=num_classes, aux_logits=False, init_weights=True)
    return _stemmed(net, "conv1.conv", _narrow, in_channels, stem, "maxpool1", "maxpool2")


def inception_v3(*, num_classes: int, in_channels: int) -> nn.Module:
    """Return torchvision's Inception-v3 without its auxiliary classifier."""
    net: nn.Module = models.inception_v3(num_classes=num_classes, aux_logits=False, init_weights=True)
    return _stemmed(net, "Conv2d_1a_3x3.conv", _wide, in_channels)


def squeezenet(*, num_classes: int, in_channels: int, stem: str) -> nn.Module:
    """Return torchvision's SqueezeNet 1.1."""
    net: nn.Module = models.squeezenet1_1(num_classes=num_classes)
    return _stemmed(net, "features.0", nn.init.kaiming_uniform_, in_channels, stem, "features.2")


def mobilenet_v2(*, num_classes: int, in_channels: int, width_mult: float, stem: str) -> nn.Module:
    """Return torchvision's MobileNet-v2 with an Identity before its pooling, which an attention can replace."""
    net: nn.Module = models.mobilenet_v2(num_classes=num_classes, width_mult=width_mult)
    net.get_submodule("features").add_module("head", nn.Identity())
    return _stemmed(net, "features.0.0", _he, in_channels, stem)


def mobilenet_v3(arch: str, *, num_classes: int, in_channels: int, width_mult: float, stem: str) -> nn.Module:
    """Return torchvision's MobileNet-v3 of this name."""
    net = models.get_model(arch, num_classes=num_classes, width_mult=width_mult)
    return _stemmed(net, "features.0.0", _he, in_channels, stem)


def efficientnet_b0(*, num_classes: int, in_channels: int, stem: str) -> nn.Module:
    """Return torchvision's EfficientNet-B0."""
    return _stemmed(models.efficientnet_b0(num_classes=num_classes), "features.0.0", _he, in_channels, stem)


def regnet_y_400mf(*, num_classes: int, in_channels: int, stem: str) -> nn.Module:
    """Return torchvision's RegNet-Y-400MF, built on the CPU: it computes its widths by tensors."""
    with torch.device("cpu"):
        return _stemmed(models.regnet_y_400mf(num_classes=num_classes), "stem.0", _he, in_channels, stem)


def shufflenet_v2(*, num_classes: int, in_channels: int, stem: str) -> nn.Module:
    """Return torchvision's ShuffleNet-v2 x1.0 with an Identity before its pooling, which an attention can replace."""
    net: nn.Module = models.shufflenet_v2_x1_0(num_classes=num_classes)
    net.get_submodule("conv5").add_module("head", nn.Identity())
    return _stemmed(net, "conv1.0", None, in_channels, stem, "maxpool")


def _stemmed(
    net: nn.Module, conv: str, draw: Draw | None, in_channels: int, stem: str = "imagenet", *pools: str
) -> nn.Module:
    """Replace the first convolution if the channels or the stem differ.

    A small stem is 3x3 at stride 1, with Identities in place of the poolings, so that all names stay.

    Args:
        conv: Path of the first convolution.
        draw: Initialises the new one; None keeps torch's default.
        pools: Paths of the stem's poolings.
    """
    old = net.get_submodule(conv)
    assert isinstance(old, nn.Conv2d), f"{conv} is no convolution"
    small = stem == "small"
    if small or in_channels != old.in_channels:
        shape = (3, 1, 1) if small else (old.kernel_size[0], old.stride[0], int(old.padding[0]))
        new = nn.Conv2d(in_channels, old.out_channels, *shape, bias=old.bias is not None)
        if draw is not None:
            draw(new.weight)
            if new.bias is not None:
                nn.init.zeros_(new.bias)
        net.set_submodule(conv, new)
    for pool in pools if small else ():
        net.set_submodule(pool, nn.Identity())
    return net
