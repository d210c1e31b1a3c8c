"""Builds the site tables of the catalogue's networks: named places, with shapes from one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from nas_attn.backbones.build import build_backbone, load_function
from nas_attn.backbones.catalog import backbone_entry
from nas_attn.backbones.entry import Spec
from nas_attn.backbones.further import find_further
from nas_attn.backbones.modules import built_in_se, put_module
from nas_attn.backbones.opening import OPENING_KINDS, has_opening, may_open, open_block, opening_path
from nas_attn.backbones.passes import Passage, count_parameters, forward_macs
from nas_attn.placement import SWAPPED, Convolution, Shape, Site, SiteTable


@dataclass(frozen=True)
class Place:
    """A site without its shape, as the `places` function of a `Backbone` returns it.

    Args:
        name: The site's name, unique in the network.
        kind: One of `output`, `pre`, `branch`, `shortcut`, `hidden`, `conv`, `merge`, `head`.
        module: Path of the module: with this output, to be replaced (`conv`, `head`), or the residual block.
        stage: The site's stage; empty for a plug-in means that stages are numbered by map size.
        norm: Path of the batch norm that follows a `conv`, if any; in a plug-in it is detected.
        relu: Whether a ReLU follows; in a plug-in it is detected.
        enters: Whether the tensor is the input of the module, a convolution, and not its output; not for plug-ins.
        spelled: Whether a pattern with "*" matches the site only if it spells the word of its name; not for plug-ins.
    """

    name: str
    kind: str
    module: str
    stage: str = ""
    norm: str | None = None
    relu: bool = True
    enters: bool = False
    spelled: bool = False


def make_table(spec: Spec, shape: Shape) -> SiteTable:
    """Return the site table of a catalogue network, built and run once on the meta device (shapes without values)."""
    with torch.device("meta"):  # skips the initialisation of weights
        net = build_backbone(spec, shape, seed=0)
    entry = backbone_entry(spec["name"])
    assert entry.places is not None, f"{entry.name} must name its places"
    places: list[Place] = list(load_function(entry.places, "places function")(net))
    n_parameters, built_in = count_parameters(net), built_in_se(net)
    image = torch.zeros(1, shape.in_channels, shape.image_size, shape.image_size, device="meta")
    net = net.eval().to("meta")
    _copy_for_norms(net)
    n_macs = forward_macs(net, image)
    plain, spelled = ([place for place in places if place.spelled is flag] for flag in (False, True))
    open_blocks(net, ((place.kind, place.module) for place in plain))
    taps = {place.name: tap_path(net, place.kind, place.module) for place in places}
    found = find_further(net, image, plain, spelled, taps, built_in)
    return SiteTable(
        backbone=spec["name"],
        **vars(shape),
        n_parameters=n_parameters,
        n_macs=n_macs,
        sites=tuple(measured(net, place, found.passages[taps[place.name]]) for place in plain),
        built_in=built_in,
        lacks=entry.lacks,
        extra=tuple(measured(net, place, found.passages[place.module]) for place in found.places),
        order=found.order,
        aliases=found.aliases,
        before_conv=found.before_conv,
    )


def _copy_for_norms(net: nn.Module) -> None:
    """Copy maps instead of normalising them, which would take half of the time of a pass on the meta device.

    A copy is one operator too, of the same shape and without multiply-adds.
    """
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = torch.clone  # type: ignore[method-assign]


def open_blocks(net: nn.Module, places: Iterable[tuple[str, str]]) -> None:
    """Open the residual blocks in which these sites (kind, module) lie.

    Raises: SpaceError if one cannot be opened.
    """
    kinds: dict[str, set[str]] = {}
    for kind, module in places:
        kinds.setdefault(module, set()).add(kind)
    for path, wanted in kinds.items():
        if any(_is_opening(net, kind, path) for kind in wanted):
            put_module(net, path, open_block(net.get_submodule(path), path, wanted))


def tap_path(net: nn.Module, kind: str, module: str) -> str:
    """Return the path of the module whose output is the site's tensor; in an opened block, of an opening.

    Before a convolution it is the path of that, whose input is the site's tensor.
    """
    if _is_opening(net, kind, module) or has_opening(net.get_submodule(module), "output"):
        return opening_path(module, kind)
    return module


def _is_opening(net: nn.Module, kind: str, module: str) -> bool:
    """Return whether a site lies inside the block at `module`; any other site is the output of that module.

    A branch that is one module, or a Sequential, is such an output.
    """
    return kind in OPENING_KINDS and may_open(net.get_submodule(module))


def measured(net: nn.Module, place: Place, passage: Passage) -> Site:
    """Return the site with its shape: that of the output, or of the input if a module is replaced or follows."""
    seen = passage.source if place.enters or place.kind in SWAPPED else passage.tensor
    assert seen is not None, f"no tensor passed site '{place.name}'"
    _, channels, height, width = seen.shape
    if place.kind != "conv":
        shape = (channels, height, width)
        return Site(place.name, place.kind, place.module, *shape, place.stage, enters=place.enters)
    conv = net.get_submodule(place.module)
    assert isinstance(conv, nn.Conv2d), f"{place.module} is no convolution"
    replaced = Convolution(
        in_channels=channels,
        out_channels=conv.out_channels,
        kernel_size=conv.kernel_size[0],
        stride=conv.stride[0],
        dilation=conv.dilation[0],
        groups=conv.groups,
        bias=conv.bias is not None,
        norm=place.norm,
        relu=place.relu,
    )
    return Site(place.name, place.kind, place.module, conv.out_channels, height, width, place.stage, replaced)
