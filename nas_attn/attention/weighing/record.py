"""What an attention weighed in a forward pass: a weight per channel, a weight per pixel, and the gate of each element.

The record of an attention names the function (module, its inputs) -> `Weights` that recomputes them from the module's
parts, in evaluation mode and without gradients; nothing is stored on the module. `change` holds for every attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import torch
from torch import Tensor, nn

from nas_attn.attention.entry import Entry
from nas_attn.errors import SpaceError, in_one_line

Meaning = Literal["gate", "received", "share", "read", "change"]

MEANINGS: dict[Meaning, str] = {
    "gate": "factor that multiplies it",
    "received": "attention that a pixel receives from all queries, or a channel from all channels, 1: the mean",
    "share": "share of one map against others: of the branch against the shortcut, of dilated kernels against the "
    "plain one, of splits other than the first, of the dynamic context against the static one",
    "read": "how often a pixel is read, 1: as often as by the plain convolution",
    "change": "root of the output's energy divided by the input's, energy: the sum of squares",
}
"""What a weight says, by the word in `Weights.meaning`. With `received`, weights of channels beside those of pixels are
factors."""


@dataclass(frozen=True, eq=False)
class Weights:
    """What one attention weighed in one forward pass; None for what it does not weigh.

    Where an attention has a gate for every element, the weight of a channel is the gate's mean over the pixels, and
    that of a pixel its mean over the channels.

    Args:
        meaning: What a weight says, see `MEANINGS`.
        channels: Weight of each channel of the output; of `shuffle`, before its channels are shuffled.
        pixels: Weight of each pixel of the input.
        elements: The gate, in a shape that broadcasts to the input: the output is the input times it.

    Shape: channels (N, C), pixels (N, H, W), elements (N, C or 1, H or 1, W or 1).
    """

    meaning: Meaning
    channels: Tensor | None = None
    pixels: Tensor | None = None
    elements: Tensor | None = None

    def each(self, of: Callable[[Tensor], Tensor]) -> Weights:
        """Return the weights with every tensor passed through `of`."""
        parts = (self.channels, self.pixels, self.elements)
        return Weights(self.meaning, *(None if part is None else of(part) for part in parts))


def weigh(entry: Entry, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Weights:
    """Return what a module weighed, by the function of its entry, or by `change` without one; no gradients.

    Args:
        module: In evaluation mode, as built from the entry.
        inputs, output: Of the forward pass.
    Raises: SpaceError if the entry's function cannot be imported.
    """
    with torch.no_grad():
        return change(inputs, output) if entry.weighs is None else _function(entry.weighs)(module, *inputs)


def change(inputs: tuple[Tensor, ...], output: Tensor) -> Weights:
    """Return how much an attention changes each channel and each pixel: sqrt(sum y^2 / sum x^2).

    The sums go over the pixels of a channel, or the channels of a pixel; x is the sum of the inputs. For a gate per
    channel the first is the gate's magnitude, for a gate per pixel the second. Where x is 0 throughout, the weight is
    0. Channels, or pixels, that the output does not have in the same number have no weights.
    """
    x = torch.stack(inputs).sum(0).float()
    y = output.float()

    def ratio(dims: tuple[int, ...]) -> Tensor:
        energy = x.square().sum(dims)
        return torch.where(energy > 0, y.square().sum(dims) / energy.where(energy > 0, 1.0), 0.0).sqrt()

    channels = ratio((2, 3)) if x.shape[1] == y.shape[1] else None
    pixels = ratio((1,)) if x.shape[2:] == y.shape[2:] else None
    return Weights("change", channels, pixels)


def by_channel(gate: Tensor) -> Weights:
    """Return the weights of a gate (N, C)."""
    return Weights("gate", channels=gate, elements=gate[:, :, None, None])


def by_element(gate: Tensor, meaning: Meaning = "gate") -> Weights:
    """Return the weights of a gate (N, C, H, W); `elements` only if it is a factor of the input."""
    return Weights(meaning, gate.mean((2, 3)), gate.mean(1), gate if meaning == "gate" else None)


def received_pixels(weights: Tensor, x: Tensor) -> Weights:
    """Return the attention that pixels received, (N, H * W), divided by its mean."""
    return Weights("received", pixels=(weights / weights.mean(1, keepdim=True)).view(-1, *x.shape[2:]))


def _function(weighs: str | Callable[..., Weights]) -> Callable[..., Weights]:
    """Return the function, which is imported if written as `module:name`."""
    if not isinstance(weighs, str):
        return weighs
    module, _, name = weighs.partition(":")
    try:
        found: Callable[..., Weights] = getattr(import_module(module), name)
    except Exception as error:  # a plug-in's module may raise anything at import
        reason = f"{type(error).__name__}: {in_one_line(error)}"
        raise SpaceError(f"The function {weighs} of an attention cannot be loaded: {reason}.") from error
    return found
