"""Records what the attentions of a network weigh in a forward pass; the network itself stores nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nas_attn.attention.catalog import attention_entry
from nas_attn.attention.entry import Entry
from nas_attn.attention.weighing.record import Weights, weigh
from nas_attn.errors import ConfigError
from nas_attn.model.build import AttentionModel


@contextmanager
def watch(model: AttentionModel) -> Iterator[dict[str, Weights]]:
    """Context manager: record what each attention weighs in the forward passes within it.

    It yields a dictionary, site -> weights, which a forward pass fills in the order of the data flow and the next one
    overwrites. Weights are those of the attention itself, before its wiring, recomputed from its input: the outputs are
    those without this context, bit for bit. Nothing stays on the model.

    Args:
        model: As `build_model` or `load_model` returns it, in evaluation mode.

    Shape: of the weights, see `Weights`; float32, without gradients, on the model's device.
    Raises: ConfigError in train mode, where a recomputation would change running statistics.
    """
    inserts = {site: model.insert_at(site) for site in model.placement}
    if model.training or any(insert.attention.training for insert in inserts.values()):
        raise ConfigError("A network is watched in evaluation mode, but is in train mode: call model.eval() first.")
    found: dict[str, Weights] = {}
    handles = [
        insert.attention.register_forward_hook(_Record(site, attention_entry(model.placement[site].name), found))
        for site, insert in inserts.items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


class _Record:
    """A forward hook that stores what a module weighed in a dictionary."""

    def __init__(self, site: str, entry: Entry, into: dict[str, Weights]) -> None:
        self.site, self.entry, self.into = site, entry, into

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Store the weights under the site's name."""
        with torch.inference_mode(False):
            weights = weigh(self.entry, module, tuple(each.detach() for each in inputs), output.detach())
            self.into[self.site] = weights.each(Tensor.float)
