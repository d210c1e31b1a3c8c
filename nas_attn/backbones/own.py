"""Finds the sites of a user's own network by running a copy of it, and says of the rest why they are none."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from nas_attn.backbones.build import build_backbone, seeded
from nas_attn.backbones.built_in import built_in_se
from nas_attn.backbones.catalog import check_shape
from nas_attn.backbones.entry import Spec
from nas_attn.backbones.seams import SEAM_KINDS, has_seam, may_open, open_block
from nas_attn.backbones.sites import Passage, Place, count_parameters, dry_pass, forward_macs, measured, tap_path
from nas_attn.errors import SpaceError
from nas_attn.placement import Site, SiteTable

N_IMAGES = 2


@dataclass(frozen=True)
class Survey:
    """What a network of the user's own offers.

    Args:
        refusals: For a name that is no site: why.
        copied: Sites whose tensor the network writes over later; a tap there works on copies, since an attention may
            need its input and its output for the gradient.
    """

    table: SiteTable
    refusals: Mapping[str, str]
    copied: frozenset[str]


def imported_table(spec: Spec, *, num_classes: int, in_channels: int, image_size: int) -> SiteTable:
    """Return the sites of the network that `{"import": "module:function"}` gives. Raises: SpaceError as `survey`."""
    shape = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    return survey(build_backbone(spec, **shape, seed=0, class_names=()), **shape).table


def copy_network(net: nn.Module) -> nn.Module:
    """Return a deep copy. Raises: SpaceError for a network that cannot be copied."""
    try:
        return copy.deepcopy(net)
    except Exception as error:  # the network is the user's: its copying may raise anything
        raise SpaceError(f"The network {type(net).__name__} cannot be copied: {_first_line(error)}.") from error


def survey(net: nn.Module, *, num_classes: int, in_channels: int, image_size: int) -> Survey:
    """Run a copy of the network on random images, as it is and with every residual block opened that can be.

    A block counts as openable only if the opened one gives bit-equal outputs in both modes. Stages are numbered by
    the sizes of the maps in the order of the data flow. A `Sequential` and its last child are one place: their sites
    name the same module.

    Raises: SpaceError if the network cannot be copied, does not take such images, or does not give `num_classes`
    numbers for each.
    """
    shape = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    check_shape({"import": ""}, **shape)
    trial = copy_network(net).cpu().eval()
    images = _random_images(trial, in_channels, image_size)
    _check_logits(trial, images, num_classes)
    n_parameters, n_macs = count_parameters(trial), forward_macs(trial, images) // N_IMAGES
    paths = [path for path, _ in trial.named_modules() if path]
    blocks = [path for path in paths if may_open(trial.get_submodule(path))]
    passages = dry_pass(trial, images, paths, copy_inputs_of=blocks)
    refusals = {path: reason for path in paths if (reason := _no_site(passages[path]))}
    opened = _open_all(trial, blocks, passages, refusals)
    known = [path for path in paths if path not in refusals]
    places = [*_places(trial, known, opened), *_swapped_places(trial, known, passages)]
    taps = {place.name: tap_path(trial, place.kind, place.module) for place in places}
    seen = dry_pass(trial, images, taps.values())
    places.sort(key=lambda place: (seen[taps[place.name]].order, -len(place.name)))
    sites = _with_stages(measured(trial, place, seen[taps[place.name]]) for place in places)
    copied = {name for name, path in taps.items() if seen[path].overwritten}
    copied |= {place.name for place in places if place.kind == "output" and passages[place.name].overwritten}
    table = SiteTable(
        type(net).__name__,
        num_classes,
        in_channels,
        image_size,
        n_parameters,
        n_macs,
        sites,
        built_in=built_in_se(net),
        refusals={name: why for name, why in refusals.items() if name not in taps},
    )
    return Survey(table, table.refusals, frozenset(copied))


def _random_images(net: nn.Module, in_channels: int, image_size: int) -> Tensor:
    """Return images that are the same in every process, in the type of the network's weights."""
    dtype = next((weight.dtype for weight in net.parameters() if weight.is_floating_point()), torch.float32)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N_IMAGES, in_channels, image_size, image_size, generator=generator).to(dtype)


def _check_logits(net: nn.Module, images: Tensor, num_classes: int) -> None:
    name, shape = type(net).__name__, tuple(images.shape)
    try:
        with torch.no_grad():
            logits = net(images)
    except Exception as error:  # the network is the user's: its forward may raise anything
        raise SpaceError(f"The network {name} does not take images {shape}: {_first_line(error)}.") from error
    given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if given != (N_IMAGES, num_classes):
        raise SpaceError(
            f"The network {name} must give {(N_IMAGES, num_classes)} for {N_IMAGES} images of {num_classes} classes, "
            f"but gives {given}: change its last layer, or num_classes."
        )


def _no_site(passage: Passage) -> str | None:
    """Return why nothing can be inserted after a module, if so."""
    if passage.calls != 1:
        return f"the network runs it {passage.calls} times, and once is needed" if passage.calls else "it is never run"
    if not passage.is_map:
        shape = "no tensor" if passage.tensor is None else f"a tensor of shape {tuple(passage.tensor.shape)}"
        return f"it gives {shape}, and a map (N, C, H, W) is needed"
    return None


def _open_all(
    net: nn.Module, blocks: list[str], passages: Mapping[str, Passage], refusals: dict[str, str]
) -> dict[str, fx.GraphModule]:
    """Open every block of `net` that can be opened, and add to `refusals` what cannot be had."""
    opened = {}
    for path in blocks:
        block = net.get_submodule(path)
        try:
            opened[path] = _open_one(block, path, passages[path], refusals.get(path))
        except SpaceError as error:
            refusals |= {f"{path}.{kind}": str(error).removesuffix(".") for kind in SEAM_KINDS}
            continue
        if not has_seam(opened[path], "pre"):
            refusals[f"{path}.pre"] = f"the shortcut of block '{path}' begins with what its branch begins with"
    for path, block in opened.items():
        net.set_submodule(path, block)
    return opened


def _open_one(block: nn.Module, path: str, passage: Passage, refusal: str | None) -> fx.GraphModule:
    """Return the opened block. Raises: SpaceError if it cannot be opened, or computes something else then."""
    if refusal is None and passage.given is None:
        refusal = "it must take one tensor"
    if refusal is not None:
        raise SpaceError(f"Block '{path}' cannot be opened: {refusal}.")
    opened = open_block(block, path)
    assert passage.given is not None, "checked above"
    for training in (False, True):
        plain, again = (_run(module, passage.given, training) for module in (block, opened))
        if not all(torch.equal(*pair) for pair in zip(plain, again, strict=True)):
            raise SpaceError(f"Block '{path}' cannot be opened: it would compute something else then.")
    return opened


def _run(block: nn.Module, given: Tensor, training: bool) -> tuple[Tensor, Tensor]:
    """Return the block's output in this mode, and its input afterwards; random numbers are the same at each call."""
    block.train(training)
    given = given.clone()
    with seeded(0, "survey"), torch.no_grad():
        output: Tensor = block(given)
    block.eval()
    return output, given


def _places(net: nn.Module, paths: list[str], opened: Mapping[str, fx.GraphModule]) -> list[Place]:
    """Name the sites; where a block's child is called like one of its edges, the edge keeps the name."""
    edges = {
        f"{path}.{kind}": Place(f"{path}.{kind}", kind, path, "")
        for path, block in opened.items()
        for kind in SEAM_KINDS
        if has_seam(block, kind)
    }
    outputs = {path: Place(path, "output", _outermost(net, path), "") for path in paths}
    return list({**outputs, **edges}.values())


def _swapped_places(net: nn.Module, paths: list[str], passages: Mapping[str, Passage]) -> list[Place]:
    """Name the modules whose place an attention can take: 3x3 convolutions that keep the map, and poolings to a pixel.

    A norm and a ReLU count as a convolution's own where modules of these types read what it gives.
    """
    places = []
    for path in paths:
        module = net.get_submodule(path)
        if isinstance(module, nn.Conv2d) and _keeps_map(module):
            norm = _reader(net, passages, path, nn.BatchNorm2d)
            relu = _reader(net, passages, norm or path, nn.ReLU) is not None
            places.append(Place(f"{path}.conv", "conv", path, "", norm=norm, relu=relu))
        elif isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            places.append(Place(f"{path}.head", "head", path, ""))
    return places


def _keeps_map(conv: nn.Conv2d) -> bool:
    """Tell whether this is a 3x3 convolution that keeps the map, but for its stride, with zeros around it."""
    is_square = conv.stride[0] == conv.stride[1] and conv.dilation[0] == conv.dilation[1]
    return conv.kernel_size == (3, 3) and is_square and conv.padding == conv.dilation and conv.padding_mode == "zeros"


def _reader(net: nn.Module, passages: Mapping[str, Passage], path: str, kind: type[nn.Module]) -> str | None:
    """Return the one module of a kind that reads what the module at `path` gives, or None."""
    given = passages[path].tensor
    readers = [
        other
        for other, passage in passages.items()
        if passage.source is given and passage.calls == 1 and isinstance(net.get_submodule(other), kind)
    ]
    return readers[0] if len(readers) == 1 else None


def _outermost(net: nn.Module, path: str) -> str:
    """Return the path of the largest `Sequential` whose last child this is: its output is the same tensor."""
    parent, _, name = path.rpartition(".")
    module = net.get_submodule(parent)
    in_turn = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    return _outermost(net, parent) if parent and in_turn and name == list(module._modules)[-1] else path


def _with_stages(sites: Iterable[Site]) -> tuple[Site, ...]:
    """Number the stages by the maps' sizes, in the order in which they appear."""
    sizes: dict[tuple[int, int], int] = {}
    staged = []
    for site in sites:
        number = sizes.setdefault((site.height, site.width), len(sizes) + 1)
        staged.append(replace(site, stage=f"stage{number}"))
    return tuple(staged)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
