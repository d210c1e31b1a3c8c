"""The attention that each pixel receives, for attentions between pixels; see `nas_attn.attention.weighing.record`.

Where every query has weights of its own over the pixels, a pixel's weight is their sum over all queries and the mean
over the heads, times the number of pixels and divided by the number of queries: 1 is the weight of the mean pixel. The
weights of all pairs are never stored: such a sum is the derivative of the summed outputs by the values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import deform_conv2d

from nas_attn.attention.kernel import Deform, resample, widen
from nas_attn.attention.pairwise import GC, NonLocal
from nas_attn.attention.self_attention import AttentionPool, Blocks, SelfAttention
from nas_attn.attention.weighing.record import Weights, received_pixels


def gc(module: GC, x: Tensor) -> Weights:
    """GC: the weight of each pixel in the mean that is added to all pixels."""
    return received_pixels(module.score(x).flatten(2).softmax(2)[:, 0], x)


def non_local(module: NonLocal, x: Tensor) -> Weights:
    """Non-local: the attention that each pixel receives; of pooled keys, that of its cell."""
    pixels = _by_pixel(x)
    query, key = module.theta(pixels)[:, None], module.phi(pixels)
    keys = key.transpose(1, 2).reshape(len(x), -1, *x.shape[2:])  # (N, h, H, W)
    if module.subsample:
        keys = functional.max_pool2d(keys, 2)
    key = keys.flatten(2).transpose(1, 2)[:, None]

    def attend(value: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(query, key, value, scale=module.scale)

    received = _slope(attend, torch.zeros_like(key)).mean((1, 3))  # (N, keys)
    cells = received.view(-1, 1, *keys.shape[2:])
    return received_pixels(functional.interpolate(cells, x.shape[2:]).flatten(1), x)


def self_attention(module: SelfAttention, x: Tensor) -> Weights:
    """Self-attention: the attention that each pixel receives, the mean over the heads."""
    blocks = Blocks(x.shape[2], x.shape[3], module.window, module.heads, x.device)
    pixels = _by_pixel(x)
    queries, keys = module.queries_and_keys(pixels, x.shape[2], x.shape[3])
    query = blocks.cut(queries, blocks.query_index)
    key = blocks.cut(keys, blocks.key_index)

    def attend(value: Tensor) -> Tensor:
        return blocks.join(module.score(query, key, blocks.cut(value, blocks.key_index), blocks.mask))

    return received_pixels(_slope(attend, torch.zeros_like(pixels)).mean(2), x)


def attention_pool(module: AttentionPool, x: Tensor) -> Weights:
    """Attention pooling: the weight of each pixel in the pooled value, the mean over the heads."""
    pixels = _by_pixel(x)
    parts = module.query(x.mean((2, 3))[:, None]), module.key(pixels), pixels
    query, key, value = (part.unflatten(2, (module.heads, -1)).transpose(1, 2) for part in parts)

    def attend(value: Tensor) -> Tensor:
        pooled: Tensor = module.score(query, key, value, None)
        return pooled

    return received_pixels(_slope(attend, torch.zeros_like(value)).mean((1, 3)), x)


def deform(module: Deform, x: Tensor) -> Weights:
    """Deformable convolution: how often each pixel is read, relative to the same convolution without offsets.

    Bilinear reading counts by its weights, a modulated tap by its mask; the mean over the groups of channels.
    """
    if module.offsets == "channel":
        offsets = module.offset(x)
        return Weights("read", pixels=_slope(lambda maps: resample(maps, offsets), torch.zeros_like(x)).mean(1))
    conv, (offsets, mask) = module.replaced, module.moves(x)
    offsets, groups = widen(offsets), offsets.shape[1] // 18
    taps, one = offsets.new_ones(1, groups, 3, 3), offsets.new_zeros(x.shape[0], groups, *x.shape[2:])

    def reads(offsets: Tensor, mask: Tensor | None) -> Tensor:
        def read(maps: Tensor) -> Tensor:
            moved: Tensor = deform_conv2d(maps, offsets, taps, None, conv.stride, conv.dilation, conv.dilation, mask)
            return moved

        return _slope(read, one).mean(1)

    return Weights("read", pixels=reads(offsets, mask) / reads(torch.zeros_like(offsets), None).clamp(min=1))


def _by_pixel(x: Tensor) -> Tensor:
    """Shape: (N, C, H, W) -> (N, H * W, C)."""
    return x.flatten(2).transpose(1, 2).contiguous()


def _slope(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Return the derivative of the summed output by the input."""
    with torch.enable_grad():
        leaf = at.detach().clone().requires_grad_()
        slope: Tensor = torch.autograd.grad(function(leaf).sum(), leaf)[0]
    return slope
