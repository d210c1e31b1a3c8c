"""mini_XCEPTION: four residual modules of separable convolutions; each logit is the mean of a map."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (16, 32, 64, 128)


class SamePool(nn.Module):
    """3x3 max pooling at stride 2, padded as by Keras for "same": an even map is padded at its end only.

    Shape: (N, C, H, W) -> (N, C, H / 2, W / 2), both rounded up.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool the map."""
        height, width = x.shape[2:]
        padded = functional.pad(x, (width % 2, 1, height % 2, 1), value=float("-inf"))
        return functional.max_pool2d(padded, 3, 2)


class ThinnedConv2d(nn.Conv2d):
    """A 1x1 convolution at stride 2, computed at stride 1 on every second pixel of every second row.

    At stride 2 itself the gradient crashes on a CPU for fewer than 16 channels in channels_last
    (`nas_attn.training.onednn`).

    Shape: (N, in_channels, H, W) -> (N, out_channels, H / 2, W / 2), both rounded up.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved map."""
        return super().forward(x[:, :, ::2, ::2])


class XceptionModule(nn.Module):
    """A branch of two separable convolutions and a pooling, and a shortcut of a 1x1 convolution at stride 2.

    Shape: (N, in_channels, H, W) -> (N, out_channels, H / 2, W / 2), both rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(ThinnedConv2d(in_channels, out_channels, 1, bias=False), _norm(out_channels))
        self.branch = nn.Sequential(
            *_separable(in_channels, out_channels),
            nn.ReLU(),
            *_separable(out_channels, out_channels),
            SamePool(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the branch and the projection."""
        projected: Tensor = self.projection(x)
        added: Tensor = self.branch(x) + projected
        return added


class MiniXception(nn.Module):
    """mini_XCEPTION, as Keras computes it.

    Source: Arriaga et al., "Real-time Convolutional Neural Networks for Emotion and Gender Classification",
    arXiv:1710.07557, and the authors' Keras code.
    Departs: it returns logits, the authors' a softmax. The running variance of Keras is the biased one, torch's the
    unbiased one. The authors' L2 penalty of 0.01 on kernels is left to the training.

    Shape: (N, in_channels, H, W) -> (N, num_classes).
    Cost: 56,951 trainable parameters for grey images and 7 classes, 58,423 with the running statistics.
    """

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 8, 3, bias=False),
            _norm(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, bias=False),
            _norm(8),
            nn.ReLU(),
        )
        self.stages = nn.Sequential(
            *(XceptionModule(before, width) for before, width in zip((8, *WIDTHS), WIDTHS, strict=False))
        )
        self.classifier = nn.Conv2d(WIDTHS[-1], num_classes, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        maps: Tensor = self.classifier(self.stages(self.stem(images)))
        return maps.mean((2, 3))


def _norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm with Keras's defaults."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _separable(in_channels: int, out_channels: int) -> list[nn.Module]:
    """Return a depthwise 3x3 convolution, a 1x1 one, and a norm."""
    depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
    return [depthwise, nn.Conv2d(in_channels, out_channels, 1, bias=False), _norm(out_channels)]
