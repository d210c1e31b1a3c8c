"""Finds the modules of a network whose output is a map (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from torch import Tensor, nn
from torch.nn import functional

from nas_attn.backbones.passes import Passage, watched
from nas_attn.backbones.user_network import described, run
from nas_attn.errors import SpaceError

_WIDER = 32
"""Pixels added to the width of the images: a map becomes wider, up to a total stride of this."""

_TAKES_MAPS = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm2d,
    nn.InstanceNorm2d,
    nn.GroupNorm,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Upsample,
    nn.PixelShuffle,
)

Shape = tuple[int, ...]


def wide_shapes(net: nn.Module, images: Tensor, paths: Iterable[str]) -> dict[str, Shape]:
    """Return the output shapes for one wider image, of the modules that run before the network fails, if it does."""
    with watched(net, paths) as passages, suppress(SpaceError):
        run(net, functional.pad(images[:1], (0, _WIDER)))
    return {path: tuple(found.tensor.shape) for path, found in passages.items() if found.tensor is not None}


def not_maps(net: nn.Module, passages: Mapping[str, Passage], wider: Mapping[str, Shape]) -> dict[str, str]:
    """Return the modules whose output is no map, with the reason.

    A tensor of four dimensions may also be (N, H, W, C), or an attention matrix over pixels. On wider images, only the
    last dimension of a map grows. Where nothing grows, or the network does not accept wider images, a convolution, norm
    or pooling of the network must have an input or output of the same shape.

    Args:
        wider: Output shapes for wider images, from `wide_shapes`.
    """
    known = set(_known_maps(net, passages))
    reasons = {}
    for path, passage in passages.items():
        shape = () if passage.tensor is None else tuple(passage.tensor.shape)
        if len(shape) != 4:
            found = described(passage.output) if passage.tensor is None else f"a tensor of shape {shape}"
            reasons[path] = f"it returns {found}, but must return a map (N, C, H, W)"
        elif not _is_map(shape, wider.get(path), known):
            reasons[path] = f"it returns a tensor of shape {shape}, which is not known to be a map (N, C, H, W)"
    return reasons


def _is_map(shape: Shape, wider: Shape | None, known: set[Shape]) -> bool:
    if wider is not None and wider[1:] != shape[1:]:
        return wider[1:3] == shape[1:3]
    return shape[1:] in known or shape[2:] == (1, 1)


def _known_maps(net: nn.Module, passages: Mapping[str, Passage]) -> Iterator[Shape]:
    """Yield (C, H, W) of the inputs and outputs of modules that accept maps only."""
    for path, passage in passages.items():
        if isinstance(net.get_submodule(path), _TAKES_MAPS):
            for tensor in (passage.source, passage.tensor):
                if tensor is not None:
                    yield tuple(tensor.shape[1:])


def last_map(net: nn.Module, passages: Mapping[str, Passage], wider: Mapping[str, Shape]) -> int:
    """Return the rank (`Passage.order`) of the last module with an input or output of more than one pixel."""
    ranks = [-1]
    for path, passage in passages.items():
        is_leaf = not any(True for _ in net.get_submodule(path).children())
        seen = [passage.tensor, passage.source if is_leaf else None]
        shapes = [tuple(tensor.shape) for tensor in seen if tensor is not None] + [wider.get(path, ())]
        if any(len(shape) == 4 and max(shape[2:]) > 1 for shape in shapes):
            ranks.append(passage.order)
    return max(ranks)
