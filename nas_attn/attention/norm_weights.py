"""NAM: gates from a batch norm, whose scales say how much a channel or a pixel weighs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_attn.attention.entry import Context
from nas_attn.attention.norm import BatchNorm
from nas_attn.attention.options import require_fit
from nas_attn.attention.plain import is_recorded
from nas_attn.errors import SpaceError


def as_channels(x: Tensor) -> Tensor:
    """Return a map whose channels are the pixels.

    The channels must be its last dimension: torch's norm on CPUs has wrong gradients for (N, H * W, C, 1) if the map
    and its gradient lie in memory differently.

    Shape: (N, C, H, W) -> (N, H * W, 1, C).
    """
    return x.flatten(2).transpose(1, 2).unsqueeze(2)


class WeightedNorm(nn.Module):
    """A batch norm over the second axis, times the share of each scale in the sum of all magnitudes.

    The share is a constant of the backward pass, as in the code of NAM's authors.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = BatchNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, size, A, B) -> the same."""
        scales = self.norm.weight.detach().abs()
        shares = scales / scales.sum().clamp(min=torch.finfo(torch.float32).tiny)
        weighted: Tensor = self.norm(x) * shares[:, None, None]
        return weighted


class NAM(nn.Module):
    """Gate each element by its batch-normalised value, weighted by the share of its channel's, or pixel's, scale.

    Source: Liu et al., "NAM: Normalization-based Attention Module", NeurIPS 2021 workshop, arXiv:2111.12419, and the
    authors' code: the channel branch, which is all that their last version has, then the pixel branch of their first.
    Departs: none in the module; the paper also adds the sum of the scales' magnitudes to the loss, with a weight of
    1e-4. If all scales are 0, so are the shares; in the authors' code they are nan.

    Args:
        branches: `channel`, `spatial`, or `both`, first the channels. A pixel has a scale, a bias and statistics of its
            own: a module with the spatial branch fits maps of one size only.
        context: The size of the map, for the spatial branch.

    Shape: (N, C, H, W) -> the same; H and W are free with `channel`.
    Cost: 2*C weights for the channels, 2*H*W for the pixels; no matrix product.
    Raises: SpaceError if the spatial branch is asked for and the context has no size; a pass over a map of another size
        raises it too.
    """

    def __init__(self, channels: int, *, branches: str = "channel", context: Context | None = None) -> None:
        super().__init__()
        require_fit("nam", channels, context=context, branches=branches)
        self.channel = WeightedNorm(channels) if branches != "spatial" else None
        self.spatial = None
        if branches != "channel":
            assert context is not None, "the spatial branch has a context"
            assert context.height is not None, f"the context has a height: {context}"
            assert context.width is not None, f"the context has a width: {context}"
            self.size = (context.height, context.width)
            self.spatial = WeightedNorm(context.height * context.width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        if self.channel is not None:
            x = x * torch.sigmoid(self.channel(x))
        if self.spatial is not None:
            self._check_size(x)
            x = x * torch.sigmoid(self.spatial(as_channels(x))).squeeze(2).transpose(1, 2).view(x.shape)
        return x

    def _check_size(self, x: Tensor) -> None:
        """Refuse a map of another size than that of the context. Raises: SpaceError."""
        if is_recorded(x) or tuple(x.shape[2:]) == self.size:
            return
        raise SpaceError(
            f"Attention 'nam' needs maps of {self.size[0]}x{self.size[1]}, for whose pixels its scales were built, but "
            f"got {x.shape[2]}x{x.shape[3]}: build the network for images of this size, or choose branches=channel."
        )
