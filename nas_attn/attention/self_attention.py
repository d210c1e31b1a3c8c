"""Multi-head attention by queries, keys and values: between pixels, and as a pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_attn.attention.forms.pairwise import window_blocks
from nas_attn.attention.options import require_fit
from nas_attn.attention.plain import attend, is_followed


class Dot(nn.Module):
    """Average the values by the scores q.k / sqrt(d)."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Shape: (B, G, Q, d), (B, G, K, d), (B, G, K, d), mask broadcast to (B, G, Q, K) -> (B, G, Q, d).

        G is the number of heads, of one image or of several images in sequence.
        """
        return attend(query, key, value, mask)


class Unscaled(nn.Module):
    """Average the values by the scores q.k."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Shape: as `Dot`."""
        return attend(query, key, value, mask, 1.0)


class General(nn.Module):
    """Average the values by the scores q.W k / sqrt(d), with one matrix W per head that starts as the identity."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.eye(width).repeat(heads, 1, 1))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Shape: as `Dot`."""
        weight = self.weight.repeat(query.shape[1] // self.heads, 1, 1)  # (G, d, d)
        return attend(query @ weight, key, value, mask)


class Concat(nn.Module):
    """Average the values by the scores u.tanh(q + k), with one vector u per head."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.empty(heads, width).uniform_(-(width**-0.5), width**-0.5))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Shape: as `Dot`; stores d values of tanh per pair."""
        weight = self.weight.repeat(query.shape[1] // self.heads, 1).unsqueeze(2)  # (G, d, 1)
        pairs = torch.tanh(query.unsqueeze(3) + key.unsqueeze(2))  # (B, G, Q, K, d)
        scores = (pairs.flatten(2, 3) @ weight).view(query.shape[0], -1, query.shape[2], key.shape[2])
        return masked(scores, mask).softmax(3) @ value


@torch.fx.wrap
def masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return the scores, minus infinity where the mask is False; a step of its own for torch.fx."""
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf)


SCORES: dict[str, type[nn.Module]] = {
    **{"dot": Dot, "scaled_dot": Dot, "location": Dot},
    **{"unscaled_dot": Unscaled, "general": General, "concat": Concat},
}


class SelfAttention(nn.Module):
    """Add to each pixel a weighted mean of all pixels, or of a window around it, in several heads.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762; the other scores and the
    window: Luong et al., EMNLP 2015, arXiv:1508.04025; the additive score: Bahdanau et al., ICLR 2015,
    arXiv:1409.0473.
    Departs: without `position` there is no position encoding, which is a sum of sines, so that any map fits; the paper
    adds it to the values too. `dot` and `scaled_dot` are one score; `unscaled_dot` is the dot of Luong et al., whose
    `location` score is a product of the query and a matrix with a row per position: here the rows are sines of the
    row and the column, so that any map fits. `general` divides by sqrt(d) as `dot` does, and starts as
    `dot`. `concat` adds projected queries and keys, which equals one layer over their concatenation. A window is a
    square of pixels, weighted by the score alone. The bias of the keys has an effect in `concat` only: otherwise the
    softmax cancels it. With `residual` the last projection starts at 0, so that the module starts as the identity; all
    other layers have torch's default initialisation.

    Args:
        heads: Number of heads, each over d = C / heads channels.
        score: Score of a query and a key: `dot` (or `scaled_dot`), `unscaled_dot`, `general`, `concat` or `location`,
            which sees the place of the key and not the key.
        position: What is added to the inputs of queries and keys: `none`, or `sine`, of the row and the column.
        window: Height and width, odd, of the window around a pixel, cut at the border; None is the whole map.
        residual: Whether the input is added.

    Shape: (N, C, H, W) -> the same; H and W are free.
    Cost: 4*C*C + 4*C weights (3 of 4 for `location`), and C*d for `general`, C for `concat`; 4*C*C*H*W + 2*C*(H*W)^2
        multiply-adds for the whole map, and C*d*H*W for `general`. Windows are computed in blocks, as counted by
        `self_attention_macs`. Memory is linear in the map where torch has a fused kernel, and for every window;
        `concat` over the whole map stores C*(H*W)^2 values.
    Raises: SpaceError unless the heads divide the channels, for an even window, or for an unknown score.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 4,
        score: str = "dot",
        position: str = "none",
        window: int | None = None,
        residual: bool = True,
    ) -> None:
        super().__init__()
        require_fit(
            "self_attention",
            channels,
            heads=heads,
            score=score,
            position=position,
            window=window,
            residual=residual,
        )
        self.heads = heads
        self.position = position
        self.window = window
        self.residual = residual
        self.query = nn.Linear(channels, channels)
        self.key = None if score == "location" else nn.Linear(channels, channels)
        self.score = SCORES[score](heads, channels // heads)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)
        if residual:
            _start_at_zero(self.out)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> the same."""
        height, width = x.shape[2], x.shape[3]
        blocks = blocks_of(height, width, self.window, self.heads, x.device)
        pixels = _pixels(x)
        queries, keys = self.queries_and_keys(pixels, height, width)
        query = blocks.cut(queries, blocks.query_index)
        key, value = (blocks.cut(part, blocks.key_index) for part in (keys, self.value(pixels)))
        collected = blocks.join(self.score(query, key, value, blocks.mask))
        y: Tensor = self.out(collected).transpose(1, 2).unflatten(2, (height, width))
        return x + y if self.residual else y

    def queries_and_keys(self, pixels: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the projected queries and keys. Shape: (N, H*W, C) -> the same, twice."""
        placed = pixels
        if self.position == "sine":
            placed = pixels + places(height, width, self.query.in_features, pixels)
        queries: Tensor = self.query(placed)
        if self.key is not None:
            return queries, self.key(placed)
        keys = places(height, width, self.query.in_features // self.heads, queries).repeat(1, self.heads)
        return queries, keys.expand(queries.shape)


class AttentionPool(nn.Module):
    """Pool the map by a weighted mean of its pixels in several heads; the query is their plain mean.

    Source: the attention pooling of Radford et al. (CLIP), ICML 2021, arXiv:2103.00020; scores as in `SelfAttention`.
    Departs: no position encoding, so that any map fits; the mean is not among the keys; the result is added to the
    mean, and the last projection starts at 0, so that the module starts as global average pooling. All other layers
    have torch's default initialisation.

    Args:
        heads: Number of heads, each over d = C / heads channels.
        score: Score of the query and a pixel: `dot`, `general` or `concat`.

    Shape: (N, C, H, W) -> (N, C, 1, 1); H and W are free.
    Cost: 4*C*C + 4*C weights, and C*d for `general`, C for `concat`; 2*C*(C + 1)*H*W + 2*C*C multiply-adds, and C*d for
        `general`.
    Raises: SpaceError unless the heads divide the channels, or for an unknown score.
    """

    def __init__(self, channels: int, *, heads: int = 4, score: str = "dot") -> None:
        super().__init__()
        require_fit("attention_pool", channels, heads=heads, score=score)
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.score = SCORES[score](heads, channels // heads)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)
        _start_at_zero(self.out)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (N, C, H, W) -> (N, C, 1, 1)."""
        pixels = _pixels(x)
        mean = x.mean((2, 3)).unsqueeze(1)  # (N, 1, C)
        parts = self.query(mean), self.key(pixels), self.value(pixels)
        collected = self.score(*(_split_heads(part, self.heads) for part in parts), None)
        y: Tensor = mean + self.out(_join_heads(collected))
        return y.transpose(1, 2).unsqueeze(3)


@torch.fx.wrap
def places(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Return sines and cosines of the row, then of the column, of every pixel; a step of its own for torch.fx.

    Args:
        like: Has the device and the dtype of the result.

    Shape: (H*W, channels); half of the channels are of the row.
    """
    rows = _waves(height, channels // 2, like)
    columns = _waves(width, channels - channels // 2, like)
    both = rows[:, None, :].expand(-1, width, -1), columns[None, :, :].expand(height, -1, -1)
    return torch.cat(both, 2).flatten(0, 1).to(like.dtype)


def _waves(size: int, channels: int, like: Tensor) -> Tensor:
    """Return sin and cos of 0, 1, ..., size - 1 in turn, with wavelengths from 2 pi on. Shape: (size, channels)."""
    number = torch.arange(channels, device=like.device)
    slowness = 10_000 ** (2 * (number // 2) / max(channels, 1))
    angles = torch.arange(size, device=like.device)[:, None] / slowness
    return torch.where(number % 2 == 0, angles.sin(), angles.cos())


class Blocks:
    """The blocks of queries that are computed together, each with the keys that its windows cover.

    Each axis is cut into equal blocks (the last may extend over the border, where it repeats the last row). The keys of
    a block are the rows that its windows cover, moved inward at the border: no key lies outside the map. The mask then
    selects the window of every pixel. Without a window, or with few pixels, there is one block and no index.

    Args:
        window: Height and width of the window around a pixel; None is the whole map.
    """

    def __init__(self, height: int, width: int, window: int | None, heads: int, device: torch.device) -> None:
        self.heads = heads
        self.size = height, width
        self.query_index: Tensor | None = None
        self.key_index: Tensor | None = None
        self.mask: Tensor | None = None
        if window is None or window // 2 >= max(height, width) - 1:
            return
        rows, columns = _Axis(height, window, device), _Axis(width, window, device)
        near = rows.near[:, None, :, None, :, None] & columns.near[None, :, None, :, None, :]
        self.mask = near.flatten(4).flatten(2, 3).flatten(0, 1).unsqueeze(1)  # (blocks, 1, Q, K)
        self.grid = rows.queries.shape + columns.queries.shape
        if len(self.mask) > 1:
            self.query_index = _crossed(rows.queries, columns.queries, width)
            self.key_index = _crossed(rows.keys, columns.keys, width)

    def cut(self, pixels: Tensor, index: Tensor | None) -> Tensor:
        """Shape: (N, H*W, C), (blocks, P) -> (blocks, N * heads, P, d), or (N, heads, H*W, d) for one block."""
        if index is None:
            return _split_heads(pixels, self.heads)
        taken = pixels.index_select(1, index.flatten())
        return taken.view(pixels.shape[0], *index.shape, self.heads, -1).permute(1, 0, 3, 2, 4).flatten(1, 2)

    def join(self, collected: Tensor) -> Tensor:
        """Shape: as `cut` returns -> (N, H*W, C)."""
        if self.query_index is None:
            return _join_heads(collected)
        (height, width), (n_rows, block_height, n_columns, block_width) = self.size, self.grid
        parts = collected.view(n_rows, n_columns, -1, self.heads, block_height, block_width, collected.shape[3])
        whole = parts.permute(2, 0, 4, 1, 5, 3, 6).flatten(5).flatten(3, 4).flatten(1, 2)
        return whole[:, :height, :width].flatten(1, 2)


def blocks_of(height: int, width: int, window: int | None, heads: int, device: torch.device) -> Blocks:
    """Return the blocks of a map; those of windows, which depend on its size, as a step of their own for torch.fx."""
    if window is None:
        return Blocks(height, width, None, heads, device)
    return _windowed_blocks(height, width, window, heads, device)


@torch.fx.wrap
def _windowed_blocks(height: int, width: int, window: int, heads: int, device: torch.device) -> Blocks:
    return Blocks(height, width, window, heads, device)


class _Axis:
    """Blocks along one axis: positions of queries (n, Q) and keys (n, K), and which pairs are near: (n, Q, K)."""

    def __init__(self, size: int, window: int, device: torch.device) -> None:
        n_blocks, block, region = window_blocks(size, window)
        first = torch.arange(n_blocks, device=device).unsqueeze(1) * block
        self.queries = (first + torch.arange(block, device=device)).clamp(max=size - 1)
        self.keys = (first - window // 2).clamp(0, size - region) + torch.arange(region, device=device)
        self.near = (self.queries.unsqueeze(2) - self.keys.unsqueeze(1)).abs() <= window // 2


def _crossed(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """Return the pixels of every block: (n, P), (m, R) -> (n * m, P * R)."""
    pixels = rows[:, None, :, None] * width + columns[None, :, None, :]
    return pixels.flatten(2).flatten(0, 1)


def _pixels(x: Tensor) -> Tensor:
    """Shape: (N, C, H, W) -> (N, H*W, C), a view where `x` is in channels_last."""
    last = x if is_followed(x) else x.contiguous(memory_format=torch.channels_last)
    return last.flatten(2).transpose(1, 2)


def _split_heads(pixels: Tensor, heads: int) -> Tensor:
    """Shape: (N, P, C) -> (N, heads, P, d)."""
    return pixels.view(pixels.shape[0], pixels.shape[1], heads, -1).transpose(1, 2)


def _join_heads(collected: Tensor) -> Tensor:
    """Shape: (N, heads, P, d) -> (N, P, C)."""
    return collected.transpose(1, 2).flatten(2)


def _start_at_zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
