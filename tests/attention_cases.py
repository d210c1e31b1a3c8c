"""What the tests of attention modules share: variants from the catalogue's facts, and parameters seeded by name."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import nn

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.entry import Context, Entry
from nas_attn.attention.create import create_attention

CHANNELS = 16
CONTEXT = Context(num_classes=3)
BASE = {"reduction": 4}  # instead of defaults made for wide networks
OTHER_NUMBERS: dict[str, tuple[Any, ...]] = {
    "reduction": (2, 8),
    "min_hidden": (6, 12),
    "kernel_size": (3, 1),
    "groups": (2, 4),
    "hidden": (5, 8),
    "aux_weight": (0.5,),
}


def base_options(entry: Entry) -> dict[str, Any]:
    """Options that fit `CHANNELS` channels."""
    return {option.name: BASE.get(option.name, option.default) for option in entry.options}


def other_values(entry: Entry) -> list[tuple[str, Any]]:
    """Every documented option with values that are not the base's."""
    found: list[tuple[str, Any]] = []
    for option in entry.options:
        values: tuple[Any, ...] = {"bool": (True, False), "str": option.choices}.get(option.type, ())
        values = values or OTHER_NUMBERS[option.name]
        found += [(option.name, value) for value in values if value != base_options(entry)[option.name]]
    return found


def build(name: str, channels: int = CHANNELS, *, salt: int = 0, **options: Any) -> nn.Module:
    """A module in eval mode whose parameters and buffers are random, non-zero, and seeded by their names and `salt`."""
    module = create_attention(name, channels, context=CONTEXT, **options).eval()
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            generator = torch.Generator().manual_seed(zlib.crc32(f"{key} {salt}".encode()))
            values = torch.randn(tensor.shape, generator=generator)
            if tensor.dim() == 1:  # norms and biases are positive, so that no ReLU is dead
                values = values.abs() + 0.1
            tensor.copy_(values if tensor.dim() < 2 else values * 2.0 / tensor[0].numel() ** 0.5)
    return module


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


VARIANTS = [
    *[(name, base_options(entry)) for name, entry in ATTENTIONS.items()],
    *[
        (name, {**base_options(entry), option: value})
        for name, entry in ATTENTIONS.items()
        for option, value in other_values(entry)
    ],
]


def variant_id(case: tuple[str, dict[str, Any]]) -> str:
    """Name a variant by what is not its base."""
    name, options = case
    changed = {key: value for key, value in options.items() if base_options(ATTENTIONS[name])[key] != value}
    return name + "".join(f"-{key}={value}" for key, value in changed.items())
