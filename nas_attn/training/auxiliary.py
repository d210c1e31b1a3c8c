"""The loss of the auxiliary logits that attentions compute in train mode."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.triple import AuxiliaryLogits
from nas_attn.model.tasks import class_logits


def auxiliary_loss(model: nn.Module, target: Tensor, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
    """Return the weighted sum of the losses of the auxiliary logits of the last forward pass, and remove these logits.

    A second call returns 0 until the next forward pass. The logits of each attention have the shape (N, K).

    Args:
        loss: `loss(logits, target)`; None uses cross-entropy, also for the one logit of two classes. Pass the loss of
            the training, with its class weights.

    Shape: a scalar on the device of `target`; 0 without auxiliary logits.
    """
    criterion = _cross_entropy if loss is None else loss
    total = torch.zeros((), device=target.device)
    for module in model.modules():
        if isinstance(module, AuxiliaryLogits) and (logits := module.take()) is not None:
            total = total + module.weight * criterion(logits, target)
    return total


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(class_logits(logits), target)
