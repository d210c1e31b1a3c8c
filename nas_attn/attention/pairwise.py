"""Attention that adds to each pixel a mean of all pixels: GC with the same weights for all, non-local with its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_attn.attention.fused import in_order
from nas_attn.attention.norm import BatchNorm
from nas_attn.attention.options import require_fit
from nas_attn.attention.plain import attend, differentiable, is_followed


class GC(nn.Module):
    """Add one vector to every pixel, computed by a bottleneck from a weighted mean of all pixels.

    Source: Cao et al., "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", ICCVW 2019,
    arXiv:1904.11492, and the authors' code (attention pooling, fusion by addition): the scores' weights are initialised
    by Kaiming's normal rule with fan in, their bias and the last layer by 0, so that the module starts as the identity.
    Departs: none. The bias of the scores has no effect, since the softmax cancels it; it is kept for the authors'
    weights.

    Args:
        reduction: Channels divided by the hidden width. The layer norm of a hidden width of 1 is constant, and that of
            2 little more than a sign.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: 2*C*h + 3*h + 2*C + 1 weights, 2*C*H*W + 2*C*h multiply-adds, h = C // reduction.
    Raises: SpaceError unless 1 <= reduction <= channels.
    """

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        require_fit("gc", channels, reduction=reduction)
        hidden = channels // reduction
        self.score = nn.Conv2d(channels, 1, 1)
        self.reduce = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm([hidden, 1, 1])
        self.expand = nn.Linear(hidden, channels)
        nn.init.kaiming_normal_(self.score.weight, mode="fan_in")
        nn.init.zeros_(self.score.get_parameter("bias"))
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        pixels = in_order(x).flatten(2)
        collect = _collect if is_followed(x) else _Collect.apply
        bias: Any = self.score.bias
        same, context, _ = collect(pixels, self.score.weight.flatten(1), bias)
        hidden = self.norm(self.reduce(context.flatten(1))[:, :, None, None]).relu()
        y: Tensor = same + self.expand(hidden.flatten(1))[:, :, None]
        return y.view(x.shape)


class NonLocal(nn.Module):
    """Add to each pixel a projected mean of all pixels, weighted by the similarity of their embeddings.

    Source: Wang et al., "Non-local Neural Networks", CVPR 2018, arXiv:1711.07971, the embedded Gaussian version, as in
    a widely used PyTorch port: no scale, no subsampling. `scale=True, subsample=True` is the authors' own version.
    Weight and bias of the last norm start at 0, so that the module starts as the identity; the projections have torch's
    default initialisation.
    Departs: the weights of all pairs are never stored: a fused kernel computes the softmax and the mean together.

    Args:
        reduction: Channels divided by the hidden width.
        scale: Whether scores are divided by the square root of the hidden width.
        subsample: Whether keys and values are max-pooled by 2.

    Shape: (N, C, H, W) -> the same; `subsample` needs a map of 2x2 or more.
    Cost: 4*C*h + 3*h + 3*C weights, h*(4*C*H*W + 2*H*W*K) multiply-adds, h = C // reduction, K = H*W keys, or
        (H//2)*(W//2) with `subsample`; memory linear in the map.
    Raises: SpaceError unless 1 <= reduction <= channels.
    """

    def __init__(self, channels: int, *, reduction: int = 2, scale: bool = False, subsample: bool = False) -> None:
        super().__init__()
        require_fit("non_local", channels, reduction=reduction, scale=scale, subsample=subsample)
        hidden = channels // reduction
        self.scale = hidden**-0.5 if scale else 1.0
        self.subsample = subsample
        self.theta = nn.Linear(channels, hidden)
        self.phi = nn.Linear(channels, hidden)
        self.g = nn.Linear(channels, hidden)
        self.out = nn.Linear(hidden, channels)
        self.norm = BatchNorm(channels)
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        last = x if is_followed(x) else x.contiguous(memory_format=torch.channels_last)
        last = last.permute(0, 2, 3, 1)  # (N, H, W, C)
        query, key, value = self.theta(last), self._pooled(self.phi(last)), self._pooled(self.g(last))
        query, key, value = (part.flatten(1, 2).unsqueeze(1) for part in (query, key, value))  # (N, 1, pixels, h)
        mean = attend(query, key, value, None, self.scale)
        added = self.out(mean.view(x.shape[0], x.shape[2], x.shape[3], -1)).permute(0, 3, 1, 2)
        normed: Tensor = self.norm(added)
        return x + normed

    def _pooled(self, last: Tensor) -> Tensor:
        """Shape: (N, H, W, h) -> (N, H//2, W//2, h) with `subsample`, else the same."""
        if not self.subsample:
            return last
        return functional.max_pool2d(last.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def _collect(x: Tensor, score: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `_Collect`."""
    weights = (score @ x + bias[:, None]).softmax(2).to(x.dtype)  # under autocast, a softmax is in float32
    return x.view_as(x), (x @ weights.transpose(1, 2)).to(x.dtype), weights


class _Collect(torch.autograd.Function):
    """Return x, the mean of its pixels weighted by the softmax of one score each, and these weights.

    Use the returned x from here on: all gradients of x are then summed in one new map, and the two products in the
    mean's gradient become one product of rank 2, accumulated in place. Autograd takes up to twice as long.

    Shape: (N, C, P), (1, C), (1,) -> (N, C, P), (N, C, 1), (N, 1, P).
    """

    @staticmethod
    def forward(x: Tensor, score: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _collect(x, score, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
        x, score, bias = inputs
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(x, score, bias, output[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_mean: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, score, bias, weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable(lambda *inputs: _collect(*inputs)[:2], (x, score, bias), (grad, grad_mean))
        grad_weights = grad_mean.transpose(1, 2) @ x
        grad_scores = weights * (grad_weights - (weights * grad_weights).sum(2, keepdim=True))  # (N, 1, P)
        columns = torch.cat([grad_mean, score.to(x.dtype).T.expand(len(x), -1, -1)], 2)  # (N, C, 2)
        rows = torch.cat([weights, grad_scores], 1)  # (N, 2, P)
        if x.stride(1) == 1:  # channels last: compute the product in that memory format
            grad_x = torch.baddbmm(grad.mT, rows.mT, columns.mT).mT
        else:
            grad_x = torch.baddbmm(grad, columns, rows)
        grad_score = (grad_scores @ x.mT).sum(0).to(score.dtype)
        return grad_x, grad_score, grad_scores.sum((0, 2)).to(bias.dtype)
