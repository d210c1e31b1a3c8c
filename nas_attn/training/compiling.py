"""The training step's forward pass, compiled by torch where the recipe asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nas_attn.errors import TrialFailed, first_line

Forward = Callable[[Tensor], Any]


def forward_of(model: nn.Module, mode: str) -> Forward:
    """Return the forward pass of training steps: of the module itself, or compiled.

    Only training steps are compiled, because validation has other batches, each of which would be compiled again. The
    module keeps its names and its weights.

    Args:
        mode: "no", "default", or "cudagraphs", which replays the whole pass from one CUDA graph.
    Raises: TrialFailed("compile"), by the result, where torch cannot compile the network.
    """
    if mode == "no":
        return model
    compiled: Forward = torch.compile(model, mode="reduce-overhead" if mode == "cudagraphs" else mode)

    def forward(inputs: Tensor) -> Any:
        if mode == "cudagraphs":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        try:
            return compiled(inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = first_line(error)
        raise TrialFailed("compile", f"torch could not compile the network: {reason}. Leave --compile out.")

    return forward
