"""Matrix products that half precision cannot hold."""

from __future__ import annotations

import torch
from torch import Tensor


def wide_product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b in at least float32, also under autocast.

    Scores before a softmax are such products: a sum over many pixels exceeds the range of float16, and the softmax
    needs differences of scores that bfloat16 rounds away. torch.fx records the plain product.

    Shape: (..., R, K), (..., K, S) -> (..., R, S).
    """
    if not isinstance(a, Tensor):  # what torch.fx passes has no dtype and no device yet
        return a @ b
    wide = torch.promote_types(a.dtype, torch.float32)
    if not torch.amp.is_autocast_available(a.device.type):
        return a.to(wide) @ b.to(wide)
    with torch.autocast(a.device.type, enabled=False):
        return a.to(wide) @ b.to(wide)
