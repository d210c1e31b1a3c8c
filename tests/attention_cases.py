"""Shared by the tests of attention modules: options for a narrow width, random weights, goldens, failed checks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.create import create_attention
from nas_attn.attention.entry import Context, Entry
from nas_attn.testing.cases import NUM_CLASSES, Case, cases_of, randomised
from nas_attn.testing.suite import Check

CHANNELS = 16
CONTEXT = Context(num_classes=NUM_CLASSES)
GOLDENS = Path(__file__).parent / "goldens"


@cache
def _cases(name: str) -> list[Case]:
    return cases_of(ATTENTIONS[name], CHANNELS)


def base_options(entry: Entry) -> dict[str, Any]:
    """Options that fit `CHANNELS` channels, as near to the defaults as possible."""
    return dict(_cases(entry.name)[0].options)


def other_values(entry: Entry) -> list[tuple[str, Any]]:
    """Every option with values that are not the base's, and fit beside it."""
    base, *cases = _cases(entry.name)
    return [(case.changed, case.options[case.changed]) for case in cases if case.reference == base.options]


def build(name: str, channels: int = CHANNELS, *, salt: int = 0, **options: Any) -> nn.Module:
    """A module in eval mode whose parameters and buffers are random, and seeded by their names, shapes and `salt`."""
    return randomised(create_attention(name, channels, context=CONTEXT, **options), salt).eval()


def images(*shape: int, seed: int = 0) -> Tensor:
    """Normal random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def failure(check: Check) -> str:
    """The message of a check that fails; empty if it passes."""
    try:
        check.run()
    except AssertionError as error:
        return f"{check}: {error}"
    return ""


def run_all(checks: Iterable[Check]) -> None:
    """Run checks to the last. Raises: AssertionError with the message of each that fails, a line each."""
    messages = [message for check in checks if (message := failure(check))]
    assert not messages, "\n".join(messages)


def read_golden(name: str) -> dict[str, Any]:
    """The content of `tests/goldens/NAME.pt`, which goldens/README.md describes."""
    golden: dict[str, Any] = torch.load(GOLDENS / f"{name}.pt", weights_only=True)
    return golden


def with_weights_of(golden: dict[str, Any], module: nn.Module, names: Iterable[str] = ()) -> nn.Module:
    """The module in eval mode with the golden's weights, in its own order or under our `names`.

    The weights of a 1x1 convolution fit a linear layer.
    """
    own = module.state_dict()
    tensors = zip(names or own, golden["state_dict"], strict=True)
    module.load_state_dict({name: tensor.reshape(own[name].shape) for name, (_, tensor) in tensors})
    return module.eval()


def kept_bytes(module: nn.Module, x: Tensor) -> int:
    """Bytes that the forward pass keeps for the backward pass, parameters and buffers apart."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*module.parameters(), *module.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = module(x)
    assert output.requires_grad
    return sum(kept.values())
