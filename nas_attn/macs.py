"""The multiply-adds of a computation, counted while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten


def counted_macs(compute: Callable[[], object]) -> int:
    """Return the multiply-adds of the convolutions and matrix products of `compute`, by torch's counter.

    Departs: torch's counter ignores products with a vector, sums of products, fused attention on the CPU and deformable
    convolutions; they are counted here. Recurrent layers are not.
    """
    formulas: dict[Any, Any] = {
        aten.mv: _mv,
        aten.addmv: _addmv,
        aten.dot: _dot,
        aten.addbmm: _addbmm,
        aten._scaled_dot_product_flash_attention_for_cpu: _fused_attention,
    }
    deform = getattr(torch.ops.torchvision, "deform_conv2d", None)  # exists if torchvision is imported
    if deform is not None:
        formulas[deform] = deform_flops
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with torch.no_grad(), counter:
        compute()
    return int(counter.get_total_flops()) // 2


def deform_flops(x: Any, weight: Any, *others: Any, out_shape: Any, **kwargs: Any) -> int:
    """Return twice the multiply-adds of the convolution; as in other counters, the interpolation of taps has none."""
    flops: int = 2 * math.prod(out_shape) * math.prod(weight[1:])
    return flops


def _mv(matrix: Sequence[int], vector: Sequence[int], **kwargs: Any) -> int:
    return 2 * math.prod(matrix)


def _addmv(added: Sequence[int], matrix: Sequence[int], vector: Sequence[int], **kwargs: Any) -> int:
    return 2 * math.prod(matrix)


def _dot(first: Sequence[int], second: Sequence[int], **kwargs: Any) -> int:
    return 2 * math.prod(first)


def _addbmm(added: Sequence[int], first: Sequence[int], second: Sequence[int], **kwargs: Any) -> int:
    return 2 * math.prod(first) * second[-1]


def _fused_attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Return twice the multiply-adds of the scores of all pairs and of the weighted means of the values."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
