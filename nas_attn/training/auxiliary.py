"""The loss of the auxiliary logits that attentions leave in train mode."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.triple import AuxiliaryLogits
from nas_attn.model.tasks import class_logits


def auxiliary_loss(model: nn.Module, target: Tensor, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
    """Take the auxiliary logits of the last forward pass, and return the weighted sum of their losses.

    Each attention's logits, shape (N, K), are taken once: a second call returns 0 until the next forward pass.

    Args:
        loss: `loss(logits, target)`; None is cross-entropy, also of the one logit of two classes. Pass the training's
            own, with its class weights.

    Shape: a scalar; 0 on the device of `target` when no attention left any logits.
    """
    criterion = _cross_entropy if loss is None else loss
    total = torch.zeros((), device=target.device)
    for module in model.modules():
        if isinstance(module, AuxiliaryLogits) and (logits := module.take()) is not None:
            total = total + module.weight * criterion(logits, target)
    return total


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(class_logits(logits), target)
