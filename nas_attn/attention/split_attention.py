"""ResNeSt's split attention: a convolution in several splits, weighed against each other for every channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_attn.attention.channel import means
from nas_attn.attention.entry import Context
from nas_attn.attention.forms.fusion import replaced_by
from nas_attn.attention.forms.replacing import split_groups, split_hidden
from nas_attn.attention.norm import BatchNorm
from nas_attn.attention.options import NO_CONTEXT, require_fit


class SplitAttention(nn.Module):
    """Compute several splits by a grouped 3x3 convolution and weigh them against each other for every channel.

    Source: Zhang et al., "ResNeSt: Split-Attention Networks", CVPRW 2022, arXiv:2004.08955, and the authors' code
    (`SplAtConv2d` with batch norm): a split reads its own part of the input channels; `radix=1` gates by a sigmoid;
    convolutions start from N(0, 2 / (k*k*out)), biases from torch's default.
    Departs: none where the groups divide the hidden width max(radix * C_in / 4, 32); elsewhere it is rounded up to a
    multiple. The layer replaces a 3x3 convolution with its norm and ReLU, as published, where the authors' networks
    move a stride into average pooling behind it and ours keeps it; or it takes the map of any site that keeps the
    shape.

    Args:
        radix: Number of splits.
        groups: Groups of a split, the paper's cardinality; None: those of the replaced convolution, or 1.
        context: Names the replaced convolution, if any.

    Shape: (N, C, H, W) -> the same; in place of a convolution, its shape.
    Cost: 9*C_in*C / groups + (1 + radix)*C*h / groups weights and a few per channel, 9*C_in*C / groups multiply-adds
        per output pixel and (1 + radix)*C*h / groups once, h = max(radix * C_in / 4, 32).
    Raises: SpaceError unless radix * groups divides the input channels and groups the output's, if the replaced
        convolution is depthwise, or if no ReLU follows it.
    """

    def __init__(
        self, channels: int, *, radix: int = 2, groups: int | None = None, context: Context | None = None
    ) -> None:
        super().__init__()
        require_fit("split_attention", channels, context=context, radix=radix, groups=groups)
        conv = replaced_by(channels, context or NO_CONTEXT)
        self.radix = radix
        self.groups = split_groups(channels, context or NO_CONTEXT) if groups is None else groups
        hidden = split_hidden(conv.in_channels, radix, self.groups)
        splits, placing = channels * radix, (conv.stride, conv.dilation, conv.dilation)
        self.conv = nn.Conv2d(conv.in_channels, splits, 3, *placing, groups=self.groups * radix, bias=False)
        self.norm = BatchNorm(splits)
        self.reduce = nn.Conv2d(channels, hidden, 1, groups=self.groups)
        self.hidden_norm = BatchNorm(hidden)
        self.expand = nn.Conv2d(hidden, splits, 1, groups=self.groups)
        for layer in (self.conv, self.reduce, self.expand):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C_in, H, W) -> (N, C, H / stride, W / stride), both rounded up."""
        splits = self.splits(x)
        shares = self.shares(splits)[:, :, :, None, None]
        parts = splits.chunk(self.radix, 1)
        y = parts[0] * shares[:, 0]
        for split in range(1, self.radix):
            y = torch.addcmul(y, parts[split], shares[:, split])
        return y

    def splits(self, x: Tensor) -> Tensor:
        """Return the splits one behind the other. Shape: (N, C_in, H, W) -> (N, radix * C, H / stride, W / stride)."""
        return torch.relu_(self.norm(self.conv(x)))

    def shares(self, splits: Tensor) -> Tensor:
        """Return the share of each split in each channel, by a softmax over the splits, or a sigmoid for one.

        Shape: (N, radix * C, H, W) -> (N, radix, C).
        """
        n_images = splits.shape[0]
        pooled = means(splits).view(n_images, self.radix, -1).sum(1)
        hidden = torch.relu_(self.hidden_norm(self.reduce(pooled[:, :, None, None])))
        logits: Tensor = self.expand(hidden).flatten(1)
        if self.radix == 1:
            return torch.sigmoid(logits).unsqueeze(1)
        by_group = logits.view(n_images, self.groups, self.radix, -1).transpose(1, 2)
        return by_group.softmax(1).flatten(2)
