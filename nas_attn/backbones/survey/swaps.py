"""Finds the modules of a network that an attention can replace: 3x3 convolutions and the last global pooling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from nas_attn.backbones.modules import has_hooks
from nas_attn.backbones.passes import Passage, watched
from nas_attn.backbones.readers import Readers
from nas_attn.backbones.sites import Place
from nas_attn.backbones.user_network import run

_KINDS = (nn.Conv2d, nn.AdaptiveAvgPool2d, nn.BatchNorm2d)
_TO_A_PIXEL = (1, (1, 1), [1, 1])


@dataclass(frozen=True)
class Sighting:
    """Record of one pass in one mode: output, passages of convolutions and norms, and readers of all tensors."""

    output: object
    passages: Mapping[str, Passage]
    readers: Readers


def sight(net: nn.Module, images: Tensor, paths: Sequence[str]) -> tuple[Sighting, dict[str, Passage]]:
    """Run the network once in its current mode; return also the passages of all modules at `paths`.

    Raises: SpaceError if it does not accept the images.
    """
    with Readers() as readers, watched(net, paths, readers=readers) as passages:
        output = run(net, images)
    steps = {path for path in paths if isinstance(net.get_submodule(path), nn.Conv2d | nn.BatchNorm2d)}
    return Sighting(output, {path: passages[path] for path in paths if path in steps}, readers), passages


def swapped_places(
    net: nn.Module,
    paths: Sequence[str],
    passages: Mapping[str, Passage],
    sightings: Sequence[Sighting],
    end: int,
) -> tuple[list[Place], dict[str, str]]:
    """Return the places in place of a module, and the reasons for the other convolutions and poolings.

    Args:
        sightings: In every mode in which the network runs; a norm or a ReLU belongs to a convolution only if all agree.
        end: Rank of the last module with maps of more than one pixel: a pooling at or after it is the head.
    """
    places, refusals = [], {}
    n_owners = Counter(id(weight) for module in net.modules() for weight in module.parameters(recurse=False))
    for path in paths:
        module = net.get_submodule(path)
        if isinstance(module, nn.Conv2d):
            kind, rule = "conv", _conv_rule(module)
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            kind, rule = "head", _head_rule(module, is_last=passages[path].order >= end)
        else:
            continue
        reason = rule or _owner_rule(module, n_owners) or _call_rule(passages[path])
        if reason:
            refusals[f"{path}.{kind}"] = reason
        elif kind == "head":
            places.append(Place(f"{path}.head", kind, path, ""))
        else:
            norm, relu = _behind(net, path, sightings, n_owners)
            places.append(Place(f"{path}.conv", kind, path, "", norm=norm, relu=relu))
    return places, refusals


def _conv_rule(conv: nn.Conv2d) -> str | None:
    """Return why this is not a 3x3 convolution with zero padding that keeps the map size up to its stride."""
    is_square = conv.stride[0] == conv.stride[1] and conv.dilation[0] == conv.dilation[1]
    is_padded = conv.padding in (conv.dilation, "same") and conv.padding_mode == "zeros"
    if conv.kernel_size == (3, 3) and is_square and is_padded:
        return None
    return "it must be a 3x3 convolution with zero padding that keeps the map size up to its stride"


def _head_rule(pool: nn.AdaptiveAvgPool2d, *, is_last: bool) -> str | None:
    """Return why this is not the last pooling to one pixel: squeeze-and-excitation has such poolings too."""
    if pool.output_size not in _TO_A_PIXEL:
        return "it must pool to one pixel"
    return None if is_last else "it must be the last pooling, but maps follow it"


def _owner_rule(module: nn.Module, n_owners: Mapping[int, int]) -> str | None:
    """Return why a module cannot be replaced: it is not torch's own class, has hooks, or shares or freezes weights."""
    if is_parametrized(module):
        return "its weights are computed by a parametrization"
    if "forward" in vars(module) or not any(type(module).forward is kind.forward for kind in _KINDS):
        return f"{'it' if 'forward' in vars(module) else type(module).__name__} has a forward of its own"
    if has_hooks(module):
        return "it has hooks of its own"
    if any(n_owners[id(weight)] > 1 for weight in module.parameters()):
        return "it shares its weights with another module"
    if not all(weight.requires_grad for weight in module.parameters()):
        return "its weights are frozen, but an attention in its place is trained"
    return None


def _call_rule(passage: Passage) -> str | None:
    is_map = passage.source is not None and passage.source.ndim == 4
    return None if is_map else "its input must be one map (N, C, H, W), passed by position"


def _behind(
    net: nn.Module, path: str, sightings: Sequence[Sighting], n_owners: Mapping[int, int]
) -> tuple[str | None, bool]:
    """Return the batch norm that is the only reader of a convolution, and whether a ReLU is the only next reader."""
    norms = {_norm_behind(net, path, sighting, n_owners) for sighting in sightings}
    norm = norms.pop() if len(norms) == 1 else None
    return norm, all(_relu_behind(norm or path, sighting) for sighting in sightings)


def _norm_behind(net: nn.Module, path: str, sighting: Sighting, n_owners: Mapping[int, int]) -> str | None:
    output = sighting.passages[path].tensor
    if output is None or sighting.readers.n_readers(output) != 1:
        return None
    for other, passage in sighting.passages.items():
        norm = net.get_submodule(other)
        if passage.source is output and passage.calls == 1 and isinstance(norm, nn.BatchNorm2d):
            return other if norm.affine and _owner_rule(norm, n_owners) is None else None
    return None


def _relu_behind(path: str, sighting: Sighting) -> bool:
    output = sighting.passages[path].tensor
    return output is not None and sighting.readers.only_relu(output)
