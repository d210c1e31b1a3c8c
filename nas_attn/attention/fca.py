"""FcaNet's channel attention: a gate per channel from one frequency of its map."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.channel import Bottleneck
from nas_attn.attention.entry import Context
from nas_attn.attention.forms.frequency import FREQUENCIES, LEAST, fca_size
from nas_attn.attention.options import NO_CONTEXT, require_fit
from nas_attn.attention.plain import is_recorded


class FCA(nn.Module):
    """Gate each channel by a bottleneck over one coefficient of every channel's discrete cosine transform.

    Source: Qin et al., "FcaNet: Frequency Channel Attention Networks", ICCV 2021, arXiv:2012.11879, and the authors'
    code: consecutive channels share a frequency; frequencies are those of a 7x7 map, times (H // 7, W // 7); a map of
    another size than the module was built for is first averaged to that size. Layers have torch's default
    initialisation.
    Departs: none on maps of 7x7 and larger; for smaller ones, where the authors' code leaves frequency 0 alone, the
    map is enlarged to 7 as by their average. The transform is no entry of the state dict.

    Args:
        reduction: Channels divided by the hidden width.
        frequencies: How many frequencies, and which: `top` by their accuracy alone, `bot` the worst, `low` the lowest.
        context: The height and the width of the map; without one, 7x7.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: 2*C*h weights and multiply-adds, h = C // reduction, and one weighted sum per channel.
    Raises: SpaceError unless 1 <= reduction <= channels and the number of frequencies divides the channels.
    """

    transform: Tensor

    def __init__(
        self, channels: int, *, reduction: int = 16, frequencies: str = "top16", context: Context | None = None
    ) -> None:
        super().__init__()
        require_fit("fca", channels, context=context, reduction=reduction, frequencies=frequencies)
        height, width = fca_size(context or NO_CONTEXT)
        pairs = FREQUENCIES[frequencies]
        rows, columns = (waves([pair[axis] for pair in pairs], size) for axis, size in enumerate((height, width)))
        planes = rows[:, :, None] * columns[:, None, :]  # (frequencies, H, W)
        repeated = planes.repeat_interleave(channels // len(pairs), 0).to(torch.get_default_dtype())
        self.register_buffer("transform", repeated.unsqueeze(0), persistent=False)
        self.bottleneck = Bottleneck(channels, hidden=channels // reduction, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        return x * self.gate(x)[:, :, None, None]

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate of every channel. Shape: (N, C, H, W) -> (N, C)."""
        height, width = self.transform.shape[2:]
        if is_recorded(x) or tuple(x.shape[2:]) != (height, width):
            x = functional.adaptive_avg_pool2d(x, (height, width))
        spectrum = (x * self.transform).sum((2, 3))
        return torch.sigmoid(self.bottleneck(spectrum))


def waves(frequencies: list[int], size: int) -> Tensor:
    """Return a row for each frequency of a map of 7: the cosines of an axis, in double precision.

    For fewer than 7 positions it is the transform of the axis enlarged to 7 by adaptive averages.

    Shape: (frequencies, size).
    """
    grid = max(size, LEAST)
    steps = torch.arange(grid, dtype=torch.float64) + 0.5
    scaled = torch.tensor([frequency * (grid // LEAST) for frequency in frequencies], dtype=torch.float64)
    found = torch.cos(scaled[:, None] * steps * (math.pi / grid)) * math.sqrt(2 / grid)
    found = torch.where(scaled[:, None] == 0, found / math.sqrt(2), found)
    enlarged = functional.adaptive_avg_pool1d(torch.eye(size, dtype=torch.float64).unsqueeze(0), grid)[0]
    return found @ enlarged.T
