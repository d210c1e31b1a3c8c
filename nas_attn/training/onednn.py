"""Workaround for a crash in oneDNN: the gradient of strided 1x1 convolutions with few input channels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

SAFE_CHANNELS = 16
"""Smallest number of input channels with a correct gradient on every processor: the vector width of AVX-512."""


@contextmanager
def subsampled_inputs(model: nn.Module) -> Iterator[None]:
    """Context manager: subsample the input of strided 1x1 convolutions and run them at stride 1; the output is equal.

    On the CPU, the weight gradient of such a convolution writes out of oneDNN's bounds if the map is float32 and
    channels_last with fewer than 16 channels (torch 2.15, oneDNN issue 6035): a segmentation fault, or corrupt memory.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d) and _crashes(module)]
    strides = [conv.stride for conv in convolutions]
    handles = [conv.register_forward_pre_hook(_Subsample(conv.stride)) for conv in convolutions]
    for conv in convolutions:
        conv.stride = (1, 1)
    try:
        yield
    finally:
        for conv, stride, handle in zip(convolutions, strides, handles, strict=True):
            conv.stride = stride
            handle.remove()


def _crashes(conv: nn.Conv2d) -> bool:
    """Return whether the gradient of a convolution may crash; with groups or padding, oneDNN uses other code."""
    is_plain = conv.kernel_size == (1, 1) and conv.groups == 1 and conv.padding in ((0, 0), "valid")
    return is_plain and conv.in_channels < SAFE_CHANNELS and max(conv.stride) > 1


class _Subsample:
    """Forward pre-hook: return every s-th pixel of every s-th row of the input."""

    def __init__(self, stride: tuple[int, ...]) -> None:
        self.stride = stride

    def __call__(self, conv: nn.Module, args: tuple[Any, ...]) -> Tensor:
        rows, columns = self.stride
        kept: Tensor = args[0][..., ::rows, ::columns]
        return kept
