"""Batch norm that accepts a single value per channel, and a group norm that can be traced."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_attn.attention.plain import is_recorded


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics, without an update, if the input has one value per channel.

    One value has no variance: torch raises for it in train mode. The last batch of an epoch may be one image, and after
    a global pooling that is one value per channel.

    Shape: (N, C, H, W) -> the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise."""
        if not is_recorded(input):
            if not self.training or input.numel() != input.shape[1]:
                return super().forward(input)
            return self._normalise(input, training=False)
        return self._normalise(input, training=self.training)

    def _normalise(self, input: Tensor, *, training: bool) -> Tensor:
        """Normalise by the batch or by the running statistics, without a look at the input's size."""
        momentum = 0.1 if self.momentum is None else self.momentum
        vectors = self.weight, self.bias, self.running_mean, self.running_var
        return torch.batch_norm(input, *vectors, training, momentum, self.eps, torch.backends.cudnn.enabled)


class GroupNorm(nn.GroupNorm):
    """Group norm without torch's check of the input's size, which a trace cannot follow.

    Shape: (N, C, H, W) -> the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise."""
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
