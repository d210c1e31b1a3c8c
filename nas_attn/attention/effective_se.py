"""eSE: one gate per channel from one layer over the channels' means."""

from __future__ import annotations

from torch import Tensor, nn

from nas_attn.attention.cbam import GATES
from nas_attn.attention.channel import means
from nas_attn.attention.options import require_fit


class ESE(nn.Module):
    """Gate each channel by one layer over the means of all channels, without the bottleneck of SE.

    Source: Lee and Park, "CenterMask: Real-Time Anchor-Free Instance Segmentation", CVPR 2020, arXiv:1911.06667 (eSE of
    VoVNet-v2), and the authors' code: one layer with a bias, relu6(x + 3) / 6, weights by Kaiming's normal rule.
    Departs: none with `gate="hard_sigmoid"`; the paper's text has a sigmoid: `gate="sigmoid"`.

    Args:
        gate: Activation of the gate, `hard_sigmoid` or `sigmoid`.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: C*C + C weights, C*C multiply-adds and one global mean.
    Raises: SpaceError for an unknown gate.
    """

    def __init__(self, channels: int, *, gate: str = "hard_sigmoid") -> None:
        super().__init__()
        require_fit("ese", channels, gate=gate)
        self.gate = gate
        self.layer = nn.Linear(channels, channels)
        nn.init.kaiming_normal_(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        return x * GATES[self.gate](self.layer(means(x)))[:, :, None, None]
