"""GCT: channels that compete by the norm of their maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.fused import PIXELS, norm_over_pixels, scale, sum_over
from nas_attn.attention.options import require_fit
from nas_attn.attention.plain import is_recorded, widened


class GCT(nn.Module):
    """Gate each channel by the norm of its map relative to those of all channels, with three parameters per channel.

    Source: Yang et al., "Gated Channel Transformation for Visual Recognition", CVPR 2020, arXiv:1909.11519, and the
    authors' code, which starts as the identity: alpha 1, gamma 0, beta 0.
    Departs: gamma and beta are vectors (the authors' have shape (1, C, 1, 1)), so that the common rule "no weight decay
    for vectors" excludes them and applies to alpha.

    Args:
        mode: Norm of a map: `l2`, the root of the sum of squares, or `l1`, the sum of magnitudes.
        eps: Added under both roots; with `l1`, to the mean norm in the denominator.
        after_relu: Whether the map has no negative values, so that `l1` sums it as it is, as in the authors' code.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: 3*C weights; stores x for the backward pass.
    Raises: SpaceError for an unknown mode, or eps out of range.
    """

    def __init__(self, channels: int, *, mode: str = "l2", eps: float = 1e-5, after_relu: bool = False) -> None:
        super().__init__()
        require_fit("gct", channels, mode=mode, eps=eps, after_relu=after_relu)
        self.after_relu = after_relu
        self.mode = mode
        self.eps = eps
        self.alpha = nn.Parameter(torch.ones(channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        if self.mode == "l2":
            x, norm = norm_over_pixels(x, self.eps)
            size = norm * self.alpha
            share = self._relative(size.flatten(1))
        else:
            magnitude = x if self.after_relu else x.abs()
            size = (sum_over(widened(magnitude), PIXELS) * self.alpha).flatten(1)
            share = size * (self.gamma / (size.abs().mean(1, keepdim=True) + self.eps))
        gate = (1 + torch.tanh(share + self.beta))[:, :, None, None]
        return scale(x, gate.to(torch.promote_types(x.dtype, self.beta.dtype)))

    def _relative(self, size: Tensor) -> Tensor:
        """Divide by the root of the channels' mean square, and multiply by gamma. Shape: (N, C) -> the same."""
        if is_recorded(size):  # older ONNX has no such norm
            return size * self.gamma * (size.square().mean(1, keepdim=True) + self.eps).rsqrt()
        return functional.rms_norm(size, self.gamma.shape, self.gamma.to(size.dtype), self.eps)
