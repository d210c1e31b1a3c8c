"""Finds the ends of a network that is not in the catalogue: its first map, and the map that enters its pooling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from nas_attn.backbones.passes import Passage
from nas_attn.backbones.readers import Readers
from nas_attn.placement import Site

_aten = torch.ops.aten
_POOLING = (_aten.mean.dim, _aten._adaptive_avg_pool2d.default, _aten.adaptive_max_pool2d.default, _aten.amax.default)
_FLATTENING = (_aten.view.default, _aten._unsafe_view.default, _aten._reshape_alias.default)
_COPYING = (_aten.clone.default,)
"""A pass that copies the inputs of blocks reads them once more."""

_POOLS = (nn.MaxPool2d, nn.AvgPool2d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BEHIND = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.Identity)
"""Modules that belong to the convolution before them, beside those of `torch.nn.modules.activation`."""


def end_names(
    net: nn.Module, sites: Sequence[Site], passages: Mapping[str, Passage], readers: Readers
) -> dict[str, str]:
    """Return `stem`, `stem.pool` and `features` with the site that each of them is, as far as they are found.

    A module of the network that is called so keeps its name.

    Args:
        sites: In the order of the data flow.
        passages: Of one pass, by the path of a module.
        readers: Of the same pass.
    """
    outputs = [site.name for site in sites if site.kind == "output" and passages[site.name].tensor is not None]
    found = {}
    first = _behind_first(net, passages, readers)
    if first is not None:
        found["stem"] = _name_of(first, outputs, passages)
        found["stem.pool"] = _name_of(_pooled(net, first, passages), outputs, passages)
    found["features"] = _entering_pooling(outputs, passages, readers)
    taken = {path for path, _ in net.named_modules()}
    return {name: site for name, site in found.items() if site is not None and name.partition(".")[0] not in taken}


def _behind_first(net: nn.Module, passages: Mapping[str, Passage], readers: Readers) -> Tensor | None:
    """Return the output of the first convolution with its norm and activation; None if a function computes it."""
    convs = [path for path in passages if isinstance(net.get_submodule(path), nn.Conv2d) and passages[path].calls == 1]
    if not convs:
        return None
    first = min(convs, key=lambda path: passages[path].order)
    for path in _around(first):
        unit = net.get_submodule(path)
        if sum(isinstance(module, _CONVOLUTIONS) for module in unit.modules()) == 1 and not _has_pool(unit):
            return passages[path].tensor
    return _chained(net, first, passages, readers)


def _around(path: str) -> Iterator[str]:
    """Yield the paths of the modules around a module, the outermost first."""
    words = path.split(".")
    yield from (".".join(words[:n]) for n in range(1, len(words)))


def _has_pool(unit: nn.Module) -> bool:
    return any(isinstance(module, _POOLS) for module in unit.modules())


def _chained(net: nn.Module, first: str, passages: Mapping[str, Passage], readers: Readers) -> Tensor | None:
    """Follow the convolution's output through the modules that read it one after the other."""
    chain = [first]
    while (tensor := passages[chain[-1]].tensor) is not None:
        reading = [path for path in passages if path not in chain and passages[path].source is tensor]
        behind = next((path for path in reading if _belongs(net.get_submodule(path), tensor, readers)), None)
        if behind is None:
            by_function = not _is_activation(net.get_submodule(chain[-1])) and readers.only_relu(tensor)
            return None if by_function else tensor
        chain.append(behind)
    return None


def _belongs(module: nn.Module, tensor: Tensor, readers: Readers) -> bool:
    """Return whether a module that reads the tensor, alone or in place, is a norm or an activation."""
    is_alone = readers.n_readers(tensor, but=_COPYING) == 1 or getattr(module, "inplace", False)
    return is_alone and (_is_activation(module) or isinstance(module, _BEHIND))


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == "torch.nn.modules.activation"


def _pooled(net: nn.Module, tensor: Tensor, passages: Mapping[str, Passage]) -> Tensor | None:
    """Return the output of the pooling that reads the tensor, if there is one."""
    pools = (found for path, found in passages.items() if isinstance(net.get_submodule(path), _POOLS))
    return next((pool.tensor for pool in pools if pool.source is tensor), None)


def _name_of(tensor: Tensor | None, outputs: Sequence[str], passages: Mapping[str, Passage]) -> str | None:
    """Return the last site in the order of the data flow that has this tensor: the outermost module that returns it."""
    same = [name for name in outputs if tensor is not None and passages[name].tensor is tensor]
    return same[-1] if same else None


def _entering_pooling(outputs: Sequence[str], passages: Mapping[str, Passage], readers: Readers) -> str | None:
    """Return the last site whose map is pooled, or otherwise flattened."""
    kept = [name for name in outputs if not passages[name].overwritten]
    for operators in (_POOLING, _FLATTENING):
        for name in reversed(kept):
            tensor = passages[name].tensor
            if tensor is not None and readers.reads(tensor, operators):
                return name
    return None
