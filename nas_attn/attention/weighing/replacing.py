"""What cot, split_attention and bot weigh; see `nas_attn.attention.weighing.record`."""

from __future__ import annotations

from torch import Tensor

from nas_attn.attention.bot import BoT
from nas_attn.attention.cot import CoT
from nas_attn.attention.split_attention import SplitAttention
from nas_attn.attention.weighing.record import Weights, received_pixels


def cot(module: CoT, x: Tensor) -> Weights:
    """CoT: for each channel, the share of the dynamic context, by each pixel's own kernel, against the static one."""
    return Weights("share", channels=module.shares(*module.contexts(x))[:, :, 0])


def split_attention(module: SplitAttention, x: Tensor) -> Weights:
    """Split attention: for each channel, the share of the splits other than the first; of a single one, its gate."""
    first = module.shares(module.splits(x))[:, 0]
    return Weights("share", channels=first if module.radix == 1 else 1 - first)


def bot(module: BoT, x: Tensor) -> Weights:
    """BoT: the attention that each pixel receives, the mean over the heads."""
    return received_pixels(module.weights(x.flatten(2).transpose(1, 2)).mean(1).sum(1), x)
