"""Trainable parameters, a shared one once."""

from nas_attn.cost import count_parameters
from torch import nn

assert count_parameters(nn.Linear(4, 3)) == 15
