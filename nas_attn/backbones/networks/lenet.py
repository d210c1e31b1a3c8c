"""LeNet-5 as it is used today: two convolutions, each with a pooling, and three linear layers."""

from __future__ import annotations

from torch import Tensor, nn

FIELD = 32
"""Height and width of the images of the paper."""


class LeNet(nn.Module):
    """LeNet-5.

    Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proceedings of the IEEE 86, 1998.
    Departs: the usual simplifications: the activation is a plain tanh, a pooling is a plain mean, the second
    convolution reads all maps, the last layer is linear. Images of fewer than 32 pixels get a border of 2 pixels, as
    digits of 28 pixels do in the paper. For other image sizes than the network was built for, the last map is resized
    by adaptive average pooling.

    Shape: (N, in_channels, H, W) -> (N, num_classes).
    Cost: 61,706 parameters for grey images of 28 or 32 pixels and 10 classes.
    """

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        padding = 0 if image_size >= FIELD else 2
        size = ((image_size + 2 * padding - 4) // 2 - 4) // 2
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=padding),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.Tanh(),
            nn.AvgPool2d(2),
        )
        self.resize = nn.AdaptiveAvgPool2d(size)
        self.classifier = nn.Sequential(
            nn.Linear(16 * size * size, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.classifier(self.resize(self.features(images)).flatten(1))
        return logits
