"""One module, in a network that you write yourself."""

import torch

from nas_attn import create_attention

attention = create_attention("cbam", channels=64, reduction=8)
y = attention(torch.rand(2, 64, 14, 14))  # the same shape
