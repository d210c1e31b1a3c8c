"""Matrix products that half precision cannot hold."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_attn.attention.plain import widened


def wide_product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b in at least float32, also under autocast.

    Scores before a softmax are such products: a sum over many pixels exceeds the range of float16, and the softmax
    needs differences of scores that bfloat16 rounds away. torch.fx records the plain product.

    Shape: (..., R, K), (..., K, S) -> (..., R, S).
    """
    if not isinstance(a, Tensor):  # what torch.fx passes has no dtype and no device yet
        return a @ b
    a, b = widened(a), widened(b)
    if not torch.amp.is_autocast_available(a.device.type):
        return a @ b
    with torch.autocast(a.device.type, enabled=False):
        return a @ b
