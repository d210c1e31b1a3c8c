"""What a network costs: parameters, multiply-adds, latency."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from nas_attn.backbones import sites


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters; a shared one counts once."""
    return sites.count_parameters(model)


def count_macs(model: nn.Module, shape: Sequence[int]) -> int:
    """Return the multiply-adds of the convolutions and matrix products for one image in evaluation mode.

    Args:
        shape: Of one image, (C, H, W).
    """
    weight = next(model.parameters(), torch.zeros(()))
    image = torch.zeros(1, *shape, device=weight.device, dtype=weight.dtype)
    with _evaluating(model):
        return sites.forward_macs(model, image)


def latency_ms(
    model: nn.Module, shape: Sequence[int], device: str | torch.device = "cpu", *, seconds: float = 0.5
) -> tuple[float, float]:
    """Return median and spread of the time of one forward pass in evaluation mode, without gradients.

    The model itself is left where it is: a copy is measured. On the CPU as many threads run as torch is set to.

    Args:
        shape: Of the input, (N, C, H, W).
        seconds: How long to measure.
    Units: milliseconds; the spread is the distance between the quartiles.
    """
    # On a machine with CUDA's tools and no GPU, this import warns of what nobody asked for.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer

    measured = copy.deepcopy(model).to(device).eval()
    dtype = next((weight.dtype for weight in measured.parameters()), torch.float32)
    images = torch.zeros(*shape, device=device, dtype=dtype)
    timer = Timer("model(images)", globals={"model": measured, "images": images}, num_threads=torch.get_num_threads())
    with torch.inference_mode():
        result = timer.blocked_autorange(min_run_time=seconds)
    return result.median * 1e3, result.iqr * 1e3


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and each back into its own afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
