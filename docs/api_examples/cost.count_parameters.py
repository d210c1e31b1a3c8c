"""Trainable parameters, a shared one once."""

from torch import nn

from nas_attn.cost import count_parameters

assert count_parameters(nn.Linear(4, 3)) == 15
