"""A way around a crash of oneDNN: 1x1 convolutions with a stride that read few channels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

SAFE_CHANNELS = 16
"""From here on the gradient is right on every processor: what AVX-512 takes at once; AVX2 takes 8."""


@contextmanager
def thinned(model: nn.Module) -> Iterator[None]:
    """Thin maps out before the convolutions that would skip pixels and crash, while this is entered.

    A 1x1 convolution at stride s reads each s-th pixel of each s-th row. On the CPU, the gradient of its weights writes
    past oneDNN's own memory where the map is float32, channels_last and of fewer than 16 channels (torch 2.15, oneDNN's
    issue 6035): a segmentation fault, or worse. Given those pixels alone, it computes the same at stride 1.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d) and _crashes(module)]
    strides = [conv.stride for conv in convolutions]
    handles = [conv.register_forward_pre_hook(_Thin(conv.stride)) for conv in convolutions]
    for conv in convolutions:
        conv.stride = (1, 1)
    try:
        yield
    finally:
        for conv, stride, handle in zip(convolutions, strides, handles, strict=True):
            conv.stride = stride
            handle.remove()


def _crashes(conv: nn.Conv2d) -> bool:
    """Tell whether this is a convolution whose gradient may crash; with groups or padding, other code computes it."""
    is_plain = conv.kernel_size == (1, 1) and conv.groups == 1 and conv.padding in ((0, 0), "valid")
    return is_plain and conv.in_channels < SAFE_CHANNELS and max(conv.stride) > 1


class _Thin:
    """A hook that keeps each s-th pixel of what enters."""

    def __init__(self, stride: tuple[int, ...]) -> None:
        self.stride = stride

    def __call__(self, conv: nn.Module, args: tuple[Any, ...]) -> Tensor:
        rows, columns = self.stride
        kept: Tensor = args[0][..., ::rows, ::columns]
        return kept
