"""A small network for cats and dogs: three convolutions, each with a pooling, and two linear layers."""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (16, 32, 64)


class CatsDogsCNN(nn.Module):
    """A tutorial's network for cats and dogs, as Keras computes it, with dropout before every further layer.

    Source: the "Image classification" tutorial of TensorFlow 2.0, in the form in which a tutorial on attention adds
    squeeze-and-excitation after each of its poolings.
    Departs: for other image sizes than the network was built for, the last map is resized by adaptive average pooling.
    Keras flattens the map with the channels last.

    Shape: (N, in_channels, H, W) -> (N, num_classes); one class is one logit.
    Cost: 8,413,217 parameters for images of 3x128x128 and one logit.
    """

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((in_channels, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5)]
        size = image_size // 2 ** len(WIDTHS)
        self.features = nn.Sequential(*layers)
        self.resize = nn.AdaptiveAvgPool2d(size)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(WIDTHS[-1] * size * size, 512),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(512, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None, "every layer has a bias"
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.classifier(self.resize(self.features(images)).flatten(1))
        return logits
