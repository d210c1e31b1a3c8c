"""Batch norm that does not raise where there is nothing to normalise by."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics, and leaves them, when it gets one value a channel.

    One value has no variance: torch raises there in train mode, which a last batch of one image would meet behind any
    global pooling.

    Shape: (N, C, H, W) -> the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise."""
        if self.training and input.numel() == input.shape[1]:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)
