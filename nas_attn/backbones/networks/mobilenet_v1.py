"""MobileNet-v1: depthwise separable convolutions, one after another."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

STAGES = ((64,), (128, 128), (256, 256), (512,) * 6, (1024, 1024))
"""Channels of the blocks of each stage; every stage but the first halves the map."""


class SeparableBlock(nn.Module):
    """A depthwise 3x3 convolution and a 1x1 one, each with a norm and a ReLU6.

    Shape: (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride), both rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        options = {"activation_layer": nn.ReLU6}
        self.depthwise = Conv2dNormActivation(in_channels, in_channels, 3, stride, groups=in_channels, **options)
        self.pointwise = Conv2dNormActivation(in_channels, out_channels, 1, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the 1x1 convolution."""
        mixed: Tensor = self.pointwise(self.depthwise(x))
        return mixed


class MobileNetV1(nn.Module):
    """MobileNet-v1.

    Source: Howard et al., arXiv:1704.04861; ReLU6 as in the authors' code.
    Departs: maps are padded on both sides, where the authors' code pads an even map at its end only; norms and the
    start of the weights are those of torchvision's MobileNet-v2.

    Args:
        width_mult: Factor of all widths; none gets fewer than 8 channels.
        stem: `small` leaves the first convolution at stride 1.

    Shape: (N, in_channels, H, W) -> (N, num_classes).
    Cost: 4,231,976 parameters for three channels and 1000 classes.
    """

    def __init__(self, *, num_classes: int, in_channels: int, width_mult: float, stem: str) -> None:
        super().__init__()
        width = max(8, int(32 * width_mult))
        stride = 1 if stem == "small" else 2
        self.stem = Conv2dNormActivation(in_channels, width, 3, stride, activation_layer=nn.ReLU6)
        stages = []
        for number, widths in enumerate(STAGES):
            blocks = []
            for index, out_width in enumerate(max(8, int(channels * width_mult)) for channels in widths):
                blocks.append(SeparableBlock(width, out_width, stride=2 if number and index == 0 else 1))
                width = out_width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.classifier(self.pool(self.stages(self.stem(images))).flatten(1))
        return logits
