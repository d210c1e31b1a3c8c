"""A3Net's triple attention: channels, class-wise elements, scales; and its auxiliary logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.channel import SE
from nas_attn.attention.entry import Context
from nas_attn.attention.options import require_fit
from nas_attn.errors import SpaceError

SCALES = (1, 2, 4)


class AuxiliaryLogits(nn.Module):
    """Stores the logits of the last forward pass, for an auxiliary loss, until they are taken.

    They are stored only in train mode with gradients enabled; `eval()`, deepcopy and pickle drop them. The graph of
    torch.fx does not contain this step: it has the output alone.

    Args:
        weight: Weight of the auxiliary loss.
    """

    def __init__(self, *, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.logits: Tensor | None = None

    def forward(self, logits: Tensor) -> None:
        """Store `logits`, shape (N, K)."""
        self.logits = logits if torch.is_grad_enabled() and isinstance(logits, Tensor) else None

    def take(self) -> Tensor | None:
        """Return the stored logits and drop them."""
        logits, self.logits = self.logits, None
        return logits

    def train(self, mode: bool = True) -> AuxiliaryLogits:
        """Set the mode; leaving train mode drops the logits."""
        self.logits = self.logits if mode else None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "logits": None}


class ElementWise(nn.Module):
    """Add a class-wise attention to the map: y = x + conv1x1(sigmoid(S) * A), with A and S as in `Triple`."""

    def __init__(self, channels: int, *, num_classes: int, hidden: int, softmax: str, aux_weight: float) -> None:
        super().__init__()
        self.softmax = softmax
        self.attend = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, num_classes, 1, bias=softmax == "channel"),  # a spatial softmax cancels a bias
        )
        self.classify = nn.Conv2d(channels, num_classes, 1)
        self.restore = nn.Conv2d(num_classes, channels, 1)
        self.auxiliary = AuxiliaryLogits(weight=aux_weight)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        attention = self.attention(x)
        scores = self.classify(x)  # S: (N, K, H, W)
        if self.training:
            self.auxiliary((scores * attention).sum((2, 3)))
        restored: Tensor = self.restore(torch.sigmoid(scores) * attention)
        return x + restored

    def attention(self, x: Tensor) -> Tensor:
        """Return the attention A of each class. Shape: (N, C, H, W) -> (N, K, H, W)."""
        logits: Tensor = self.attend(x)
        if self.softmax == "channel":
            return logits.softmax(1)
        return logits.flatten(2).softmax(2).reshape(logits.shape)


class ScaleWise(nn.Module):
    """Gate every element by a learned mixture of averages of the map at several scales."""

    def __init__(self) -> None:
        super().__init__()
        self.mixture = nn.Parameter(torch.zeros(len(SCALES)))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        return x * self.gate(x)

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate of every element. Shape: (N, C, H, W) -> the same."""
        shares = self.mixture.softmax(0).unbind(0)
        averages = [average_cells(x, size) for size in SCALES]
        mixed = averages[0] * shares[0]
        for number in range(1, len(averages)):
            mixed = mixed + averages[number] * shares[number]
        return torch.sigmoid(mixed)


def average_cells(x: Tensor, size: int) -> Tensor:
    """Replace each pixel by the mean of its cell of `size` x `size` pixels.

    Cells at the right and bottom edges may be smaller; a map smaller than a cell is one cell.

    Shape: (N, C, H, W) -> the same.
    """
    if size == 1:
        return x
    means = functional.avg_pool2d(x, size, ceil_mode=True)
    return functional.interpolate(means, scale_factor=size)[:, :, : x.shape[2], : x.shape[3]]


class Triple(nn.Module):
    """Gate the channels, add a class-wise attention, and gate by several scales.

    With K classes: X = SE(x); A = softmax(f_att(X)), K maps, f_att = 1x1, 3x3 and 1x1 convolutions with a ReLU after
    the first two; S = conv1x1(X), K maps; the auxiliary logits are the sum over the map of S * A;
    Y = X + conv1x1(sigmoid(S) * A); y = Y * sigmoid(sum over s of p_s * mean_s(Y)), with mean_s the mean over cells of
    s x s pixels, s = 1, 2 and 4, and p the softmax of three learned numbers.

    Source: Wang et al., "Triple attention learning for classification of 14 thoracic diseases using chest radiography"
    (A3Net), Medical Image Analysis 67, 2021, doi:10.1016/j.media.2020.101846; f_att, the softmax over the map for each
    class, and sigmoid(S) * A follow Zhu et al. (SRN), CVPR 2017, arXiv:1702.05891, whose description is the same.
    Departs: no authors' code was found. The return path (the last convolution to C channels and the addition) and the
    whole scale part are ours: the paper recalibrates maps at different scales, of several stages, but an attention sees
    the map of its own site alone, so that its scales are those of cells within that map. With a spatial softmax, which
    would cancel it, the last convolution of f_att has no bias. `parts` and `softmax="channel"` (over the K maps at each
    pixel) are not in the paper.

    Args:
        parts: Any of `channel`, `element` and `scale`, in this order, joined by `+`.
        reduction: Channels divided by the hidden width of SE.
        hidden: Width of f_att; None is min(512, channels).
        softmax: `spatial` or `channel`.
        aux_weight: Weight of the auxiliary loss, see `nas_attn.training.auxiliary.auxiliary_loss`.
        context: Its number of classes is needed by the element part.

    Shape: (N, C, H, W) -> the same; H and W at least 2, since a softmax over one pixel is constant. The scale part
        accepts any map, see `average_cells`.
    Cost: h*(C + 9*h + K) + 2*C*K multiply-adds per pixel for the element part, h = hidden.
    Raises: SpaceError unless 1 <= reduction <= channels, for an unknown word, for the element part without a context,
        or for `softmax="channel"` with fewer than two classes, where it is constant.
    """

    def __init__(
        self,
        channels: int,
        *,
        parts: str = "channel+element+scale",
        reduction: int = 16,
        hidden: int | None = None,
        softmax: str = "spatial",
        aux_weight: float = 0.1,
        context: Context | None = None,
    ) -> None:
        super().__init__()
        require_fit(
            "triple",
            channels,
            parts=parts,
            reduction=reduction,
            hidden=hidden,
            softmax=softmax,
            aux_weight=aux_weight,
        )
        if "channel" in parts:
            self.channel = SE(channels, reduction=reduction)
        if "element" in parts:
            self.element = ElementWise(
                channels,
                num_classes=_num_classes(context, softmax),
                hidden=min(512, channels) if hidden is None else hidden,
                softmax=softmax,
                aux_weight=aux_weight,
            )
        if "scale" in parts:
            self.scale = ScaleWise()

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        for part in self.children():
            x = part(x)
        return x


def _num_classes(context: Context | None, softmax: str) -> int:
    """Return the number of classes. Raises: SpaceError if it is unknown, or too small for the softmax."""
    if context is None:
        raise SpaceError("Attention 'triple' needs the number of classes: pass context=Context(num_classes=...).")
    least = 2 if softmax == "channel" else 1
    if context.num_classes < least:
        raise SpaceError(
            f"num_classes >= {least} must hold for attention 'triple' with softmax='{softmax}', "
            f"but got num_classes={context.num_classes}."
        )
    return context.num_classes
