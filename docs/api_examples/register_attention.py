"""An attention of your own joins the catalogue of this process, and of the workers of its searches."""

import torch
from torch import nn

from nas_attn import ATTENTIONS, Entry, create_attention, register_attention


class Slope(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.slope = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x):
        return x * torch.sigmoid(self.slope * x)


register_attention(
    Entry(
        name="slope",
        cls=Slope,
        summary="Gates each element by itself, with one slope per channel.",
        formula="y = x * sigmoid(slope_c * x)",
        source="this page",
    )
)
attention = create_attention("slope", channels=8)
ATTENTIONS.unregister("slope")
