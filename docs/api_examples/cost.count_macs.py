"""Multiply-adds for one image."""

from torch import nn

from nas_attn.cost import count_macs

assert count_macs(nn.Conv2d(3, 8, 3, padding=1), (3, 32, 32)) == 3 * 8 * 9 * 32 * 32
