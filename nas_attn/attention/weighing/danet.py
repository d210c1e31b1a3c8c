"""What pam and cam weigh; see `nas_attn.attention.weighing.record`."""

from __future__ import annotations

from torch import Tensor

from nas_attn.attention.danet import CAM, PAM
from nas_attn.attention.weighing.record import Weights, received_pixels


def pam(module: PAM, x: Tensor) -> Weights:
    """PAM: the attention that each pixel receives."""
    return received_pixels(module.weights(x.flatten(2).transpose(1, 2)).sum(1), x)


def cam(module: CAM, x: Tensor) -> Weights:
    """CAM: the attention that each channel receives from all channels."""
    return Weights("received", channels=module.weights(x.flatten(2)).sum(1))
