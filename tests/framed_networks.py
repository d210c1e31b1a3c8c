"""A network around what a test is about, and what becomes of an attention there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nas_attn.errors import SpaceError
from nas_attn.model.build import build_model
from nas_attn.placement import Placement

SHAPE = {"num_classes": 5, "in_channels": 1, "image_size": 8}


class Net(nn.Module):
    """A stem, what a subclass puts into `body`, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def body(self, x):
        return x

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class OfBlock(Net):
    """One block between stem and classifier."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def body(self, x):
        return self.block(x)


def at(site: str, name: str = "se", **options) -> Placement:
    options = {"reduction": 4, **options} if name == "se" else options
    return Placement.from_dict({site: {"name": name, **options}})


def images() -> torch.Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def reason(net: nn.Module, site: str) -> str:
    with pytest.raises(SpaceError) as refusal:
        build_model(net, at(site), **SHAPE)
    return str(refusal.value)
