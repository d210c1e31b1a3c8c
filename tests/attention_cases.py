"""What the tests of attention modules share: options that fit a narrow width, modules with seeded random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nas_attn.attention.create import create_attention
from nas_attn.attention.entry import Context, Entry
from nas_attn.testing.cases import NUM_CLASSES, cases_of, randomised

CHANNELS = 16
CONTEXT = Context(num_classes=NUM_CLASSES)


def base_options(entry: Entry) -> dict[str, Any]:
    """Options that fit `CHANNELS` channels, as near to the defaults as can be."""
    return dict(cases_of(entry, CHANNELS)[0].options)


def other_values(entry: Entry) -> list[tuple[str, Any]]:
    """Every option with values that are not the base's, and fit beside it."""
    base, *cases = cases_of(entry, CHANNELS)
    return [(case.changed, case.options[case.changed]) for case in cases if case.reference == base.options]


def build(name: str, channels: int = CHANNELS, *, salt: int = 0, **options: Any) -> nn.Module:
    """A module in eval mode whose parameters and buffers are random, and seeded by their names, shapes and `salt`."""
    return randomised(create_attention(name, channels, context=CONTEXT, **options), salt).eval()


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
