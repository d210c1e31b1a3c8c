"""The weights of attentions by projections, norms and several kernels; see `nas_attn.attention.weighing.record`."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_attn.attention.cbam import GATES
from nas_attn.attention.channel import means
from nas_attn.attention.double_attention import DoubleAttention
from nas_attn.attention.effective_se import ESE
from nas_attn.attention.large_kernel import LKA
from nas_attn.attention.norm_weights import NAM, as_channels
from nas_attn.attention.polarized import Polarized
from nas_attn.attention.pyramid import EPSA
from nas_attn.attention.weighing.record import Weights, by_channel, by_element


def double_attention(module: DoubleAttention, x: Tensor) -> Weights:
    """Double attention: the weight of each pixel in what all pixels receive, relative to that of the mean pixel."""
    gathering, distributing = module.weights(x)
    received = (distributing.sum(2)[:, None] @ gathering)[:, 0]  # (N, H * W)
    return Weights("received", pixels=(received / received.mean(1, keepdim=True)).view(-1, *x.shape[2:]))


def ese(module: ESE, x: Tensor) -> Weights:
    """Effective SE: the gate of each channel."""
    return by_channel(GATES[module.gate](module.layer(means(x))))


def polarized(module: Polarized, x: Tensor) -> Weights:
    """Polarized self-attention: the gate of each channel and that of each pixel, whose sum or product is the factor."""
    channels = module.channel(x)[:, :, None, None]
    if module.layout == "parallel":
        pixels = module.pixel.similarity(x)
        return Weights("gate", channels.flatten(1), pixels[:, 0], channels + pixels)
    pixels = module.pixel.expectation(x * channels)
    return Weights("gate", channels.flatten(1), pixels[:, 0], channels * pixels)


def epsa(module: EPSA, x: Tensor) -> Weights:
    """Pyramid split attention: the weight of each channel of the output against those of the other kernels."""
    weights = module.weights([conv(x) for conv in module.convs])
    return Weights("gate", channels=weights.flip(1).flatten(1))


def nam(module: NAM, x: Tensor) -> Weights:
    """NAM: the gate of each element, the product of both if it has both branches."""
    gate = torch.ones_like(x)
    if module.channel is not None:
        gate = torch.sigmoid(module.channel(x))
    if module.spatial is not None:
        pixels = torch.sigmoid(module.spatial(as_channels(x * gate))).squeeze(2)  # (N, H * W, C)
        gate = gate * pixels.transpose(1, 2).view(x.shape)
    return by_element(gate)


def lka(module: LKA, x: Tensor) -> Weights:
    """LKA: the gate of each element, any number; with projections, that of the projected map."""
    gate = module.kernel(module.embed(x if module.norm is None else module.norm(x)))
    return by_element(gate) if module.project is None else Weights("gate", gate.mean((2, 3)), gate.mean(1))
