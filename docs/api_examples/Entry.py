"""A record that makes a module of your own an attention of the catalogue."""

import torch
from torch import nn

from nas_attn import Entry, Option


class Steep(nn.Module):
    def __init__(self, channels, *, scale=1.0):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        self.scale = scale

    def forward(self, x):
        return x * torch.sigmoid(self.scale * x + self.bias)


entry = Entry(
    name="steep",
    cls=Steep,
    summary="Gates each element by itself.",
    formula="y = x * sigmoid(scale * x + b_c)",
    source="this page",
    options=(Option("scale", 1.0, "float", "Steepness of the gate.", low=0.1, high=10.0),),
)
