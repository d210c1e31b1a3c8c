"""Finds the sites of a catalogue network beyond its blocks: its ends, and the maps that enter its convolutions.

They are sites of their own only where their tensor has no other name: the last map of a ResNet is the output of its
last block, and the first map of a block's branch is the site `pre`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nas_attn.backbones.passes import Passage, watched
from nas_attn.backbones.readers import Readers

if TYPE_CHECKING:
    from nas_attn.backbones.sites import Place

_SHORTCUTS = ("downsample", "projection", "proj")
"""Names of the modules on a block's shortcut."""

_ALONE = ("pre", "hidden")
"""Kinds of site whose tensor nothing but the next layer reads."""


@dataclass(frozen=True)
class Further:
    """The further sites of a network, and what flows through all of its sites.

    Args:
        passages: By the path of the tapped module.
        places: The further sites, in the order of the data flow.
        order: Names of all sites in the order of the data flow.
        aliases: Name of an end -> the site that has the same tensor.
        before_conv: Names of the sites whose tensor enters one convolution, and that alone.
    """

    passages: Mapping[str, Passage]
    places: tuple[Place, ...]
    order: tuple[str, ...]
    aliases: Mapping[str, str]
    before_conv: tuple[str, ...]


def find_further(
    net: nn.Module,
    image: Tensor,
    plain: Sequence[Place],
    ends: Sequence[Place],
    taps: Mapping[str, str],
    built_in: Sequence[str],
) -> Further:
    """Run the network once, and find its further sites.

    Args:
        net: The network with its blocks opened.
        plain: Its other sites.
        ends: The places of its ends; a pooling that is an Identity is left out.
        taps: Path of the tapped module of each of these.
        built_in: Paths of its squeeze-and-excitation modules, whose convolutions see pixels only.
    """
    convs = [path for path, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    with watched(net, dict.fromkeys([*taps.values(), *convs])) as passages, torch.no_grad(), Readers() as readers:
        net(image)
    tensors = {place.name: passages[taps[place.name]].tensor for place in (*plain, *ends)}
    aliases = {}
    for end in ends:
        same = [place.name for place in plain if place.kind == "output" and tensors[place.name] is tensors[end.name]]
        aliases.update({end.name: same[-1]} if same else {})
    own = [end for end in ends if end.name not in aliases and not _is_nothing(net.get_submodule(end.module))]
    inside = [path for path in convs if not _is_beside(path, built_in)]
    known = [place for place in (*own, *plain) if place.kind in ("output", *_ALONE)]
    found = list(_before_convs(inside, known, plain, tensors, passages, readers))
    places = [*own, *(place for place in found if place.enters)]
    ranks = {place.name: _rank(place, passages[taps.get(place.name, place.module)]) for place in (*plain, *places)}
    places.sort(key=lambda place: ranks[place.name])
    order = _inserted([place.name for place in plain], [place.name for place in places], ranks)
    fed = {place.name for place in found}
    return Further(passages, tuple(places), tuple(order), aliases, tuple(name for name in order if name in fed))


def _is_nothing(module: nn.Module) -> bool:
    return isinstance(module, nn.Identity)


def _is_beside(path: str, built_in: Collection[str]) -> bool:
    """Return whether a convolution lies on a shortcut, in squeeze-and-excitation, or computes scores of classes."""
    words = path.split(".")
    return (
        words[0] == "classifier"
        or any(word in _SHORTCUTS for word in words)
        or any(path.startswith(f"{module}.") for module in built_in)
    )


def _before_convs(
    convs: Sequence[str],
    known: Sequence[Place],
    plain: Sequence[Place],
    tensors: Mapping[str, Tensor | None],
    passages: Mapping[str, Passage],
    readers: Readers,
) -> Iterator[Place]:
    """Yield the site before each convolution: a known one, or a new one of the block that the convolution lies in.

    The input of the network's first convolution is the image, which is no site.
    """
    counts: dict[str, int] = {}
    for index, path in enumerate(sorted(convs, key=lambda conv: passages[conv].order)):
        block = _block_of(path, plain) or replace(plain[0], name="stem", stage="stem")
        name = block.name.removesuffix(".output")
        counts[name] = counts.get(name, 0) + 1
        source = passages[path].source
        if index == 0 or source is None:
            continue
        feeding = [place for place in known if tensors[place.name] is source]
        alone = feeding if _is_read_once(source, readers) else [place for place in feeding if place.kind in _ALONE]
        if alone:
            yield alone[-1]
            continue
        inner = replace(block, kind="hidden", module=path, norm=None, enters=True, spelled=True)
        yield replace(inner, name=f"{name}.before_conv{counts[name]}")


def _block_of(conv: str, plain: Sequence[Place]) -> Place | None:
    """Return the place that names the innermost block of a convolution; for one outside of blocks, its own `conv`."""
    replaced = next((place for place in plain if place.kind == "conv" and place.module == conv), None)
    around = [place for place in plain if place.kind == "output" and conv.startswith(f"{place.module}.")]
    if around:
        return max(around, key=lambda place: len(place.module))
    return replace(replaced, name=replaced.name.rpartition(".")[0]) if replaced else None


def _is_read_once(tensor: Tensor, readers: Readers) -> bool:
    """Return whether one operator reads the tensor, beside those that changed it in place before."""
    return readers.n_readers(tensor) - tensor._version == 1


def _rank(place: Place, passage: Passage) -> float:
    """Return the rank of a site by the end of its module's run; the input of a convolution comes before it."""
    return passage.order - 0.5 if place.enters else passage.order


def _inserted(names: Sequence[str], others: Sequence[str], ranks: Mapping[str, float]) -> list[str]:
    """Insert names between those of a list, whose order stays, before the first one of a higher rank."""
    order = list(names)
    for other in others:
        index = next((k for k, name in enumerate(order) if ranks[name] > ranks[other]), len(order))
        order.insert(index, other)
    return order
