"""1x1 convolutions in training on the CPU as matrix products: quicker on small maps, and without a crash of oneDNN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SAFE_CHANNELS = 16
"""Smallest number of input channels with a correct gradient on every processor: the vector width of AVX-512."""

MOST_PIXELS = 4096
"""Largest output, in pixels of the whole batch, that is computed by a matrix product where both are correct."""


@contextmanager
def matrix_products(model: nn.Module) -> Iterator[None]:
    """Context manager: compute 1x1 convolutions by matrix products while they are trained, where that is better.

    - On small maps: oneDNN prepares each call of a convolution and of its two gradients for 0.1 to 0.2 ms, longer than
      the work itself takes. A product takes a half to a third of the time; on larger maps, the same.
    - With a stride and fewer than 16 input channels: oneDNN's weight gradient writes out of bounds if the map is
      float32 and channels_last (torch 2.15, oneDNN issue 6035), which is a segmentation fault or corrupt memory.

    Results are equal up to rounding. Evaluation is left as it is. A class of convolutions with a forward of its own
    keeps it, on subsampled inputs where oneDNN may crash.
    """
    found = [module for module in model.modules() if isinstance(module, nn.Conv2d) and _is_pointwise(module)]
    plain = [conv for conv in found if type(conv).forward is nn.Conv2d.forward and "forward" not in conv.__dict__]
    others = [conv for conv in found if conv not in set(plain) and _crashes(conv)]
    for conv in plain:
        conv.forward = partial(_product, conv)  # type: ignore[method-assign]
    strides = [conv.stride for conv in others]
    handles = [conv.register_forward_pre_hook(_Subsample(conv.stride)) for conv in others]
    for conv in others:
        conv.stride = (1, 1)
    try:
        yield
    finally:
        for conv in plain:
            del conv.forward
        for conv, stride, handle in zip(others, strides, handles, strict=True):
            conv.stride = stride
            handle.remove()


def _is_pointwise(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is 1x1; with groups or padding, oneDNN uses other code."""
    return conv.kernel_size == (1, 1) and conv.groups == 1 and conv.padding in ((0, 0), "valid")


def _crashes(conv: nn.Conv2d) -> bool:
    """Return whether the gradient of a 1x1 convolution may crash."""
    return conv.in_channels < SAFE_CHANNELS and max(conv.stride) > 1


def _product(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the output of a 1x1 convolution; that of a small map in training is a matrix product."""
    rows, columns = conv.stride
    n_pixels = x.shape[0] * -(-x.shape[-2] // rows) * -(-x.shape[-1] // columns) if x.ndim == 4 else MOST_PIXELS + 1
    if not torch.is_grad_enabled() or (n_pixels > MOST_PIXELS and not _crashes(conv)):
        return nn.Conv2d.forward(conv, x)
    kept = x[..., ::rows, ::columns] if max(conv.stride) > 1 else x
    weight = conv.weight.flatten(1)  # (O, C, 1, 1) -> (O, C)
    return functional.linear(kept.movedim(-3, -1), weight, conv.bias).movedim(-1, -3)


class _Subsample:
    """Forward pre-hook: return every s-th pixel of every s-th row of the input."""

    def __init__(self, stride: tuple[int, ...]) -> None:
        self.stride = stride

    def __call__(self, conv: nn.Module, args: tuple[Any, ...]) -> Tensor:
        rows, columns = self.stride
        kept: Tensor = args[0][..., ::rows, ::columns]
        return kept
