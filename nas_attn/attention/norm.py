"""Batch norm that accepts a single value per channel."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics, without an update, if the input has one value per channel.

    One value has no variance: torch raises for it in train mode. The last batch of an epoch may be one image, and after
    a global pooling that is one value per channel.

    Shape: (N, C, H, W) -> the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise."""
        if self.training and input.numel() == input.shape[1]:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)
