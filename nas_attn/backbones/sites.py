"""Names the sites of the catalogue's networks, and measures by one dry pass what flows through them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas_attn.backbones.build import build_backbone, load_function
from nas_attn.backbones.catalog import backbone_entry
from nas_attn.backbones.entry import Spec
from nas_attn.backbones.modules import built_in_se, put_module
from nas_attn.backbones.opening import SEAM_KINDS, has_seam, may_open, open_block, seam_path
from nas_attn.macs import counted_macs
from nas_attn.placement import SWAPPED, Convolution, Shape, Site, SiteTable


@dataclass(frozen=True)
class Place:
    """A site before it was measured; `module` ends there, or it is the block that must be opened.

    Args:
        stage: The site's stage; a plug-in that gives none gets it by the sizes of the maps.
        norm: Path of the batch norm behind a convolution, if there is one; a plug-in's is found by running it.
        relu: Whether a ReLU follows it; found as the norm is.
    """

    name: str
    kind: str
    module: str
    stage: str = ""
    norm: str | None = None
    relu: bool = True


@dataclass
class Passage:
    """What was seen at one module in a dry pass: a pair of hooks that keep it.

    Args:
        clock: Counts the modules that have ended, over the whole network.
        copy_input: Whether to keep the values of the input.
        calls: How often the module ran.
        order: Its rank among all modules by the end of its run.
        output: What it gave.
        tensor, version: The tensor that it gave, and how often that had been written over by then.
        source: The first tensor that it was given.
        given: A copy of the tensor that it was given, if it was one and copies are kept.
    """

    clock: Iterator[int]
    copy_input: bool = False
    calls: int = 0
    order: int = -1
    output: object = None
    tensor: Tensor | None = None
    version: int = 0
    source: Tensor | None = None
    given: Tensor | None = None

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """See what goes in."""
        if args and isinstance(args[0], Tensor):
            self.source = args[0]
        if self.copy_input and len(args) == 1 and isinstance(args[0], Tensor):
            self.given = args[0].clone()

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """See what comes out."""
        self.calls += 1
        self.order = next(self.clock)
        self.output = output
        self.tensor = output if isinstance(output, Tensor) else None
        self.version = output._version if isinstance(output, Tensor) else 0

    @property
    def overwritten(self) -> bool:
        """Tell whether the network wrote over the tensor later on."""
        return self.tensor is not None and self.tensor._version != self.version


def make_table(spec: Spec, shape: Shape) -> SiteTable:
    """Build a catalogue network once and measure its sites; the pass runs on shapes alone."""
    with torch.device("meta"):  # no time for weights that nobody reads
        net = build_backbone(spec, shape, seed=0)
    entry = backbone_entry(spec["name"])
    assert entry.places is not None, f"{entry.name} must name its places"
    places: list[Place] = list(load_function(entry.places, "places function")(net))
    n_parameters, built_in = count_parameters(net), built_in_se(net)
    image = torch.zeros(1, shape.in_channels, shape.image_size, shape.image_size, device="meta")
    net = net.eval().to("meta")
    n_macs = forward_macs(net, image)
    open_blocks(net, ((place.kind, place.module) for place in places))
    passages = dry_pass(net, image, [tap_path(net, place.kind, place.module) for place in places])
    sites = [measured(net, place, passages[tap_path(net, place.kind, place.module)]) for place in places]
    return SiteTable(
        backbone=spec["name"],
        **vars(shape),
        n_parameters=n_parameters,
        n_macs=n_macs,
        sites=tuple(sites),
        built_in=built_in,
        lacks=entry.lacks,
    )


def open_blocks(net: nn.Module, places: Iterable[tuple[str, str]]) -> None:
    """Open the residual blocks that these sites (kind, module) need, at their edges.

    Raises: SpaceError if one cannot be opened.
    """
    kinds: dict[str, set[str]] = {}
    for kind, module in places:
        kinds.setdefault(module, set()).add(kind)
    for path, wanted in kinds.items():
        if any(_is_seam(net, kind, path) for kind in wanted):
            put_module(net, path, open_block(net.get_submodule(path), path, wanted))


def tap_path(net: nn.Module, kind: str, module: str) -> str:
    """Return the module whose output is the site's tensor; an opened block hands on no hooks of its own."""
    if _is_seam(net, kind, module) or has_seam(net.get_submodule(module), "output"):
        return seam_path(module, kind)
    return module


def _is_seam(net: nn.Module, kind: str, module: str) -> bool:
    """Tell whether a site lies inside of the block that it names; others lie where their module ends.

    A branch that is a module of its own, or layers in a row, ends there.
    """
    return kind in SEAM_KINDS and may_open(net.get_submodule(module))


def dry_pass(
    net: nn.Module, image: Tensor, paths: Iterable[str], copy_inputs_of: Collection[str] = ()
) -> dict[str, Passage]:
    """Run the network once without gradients, and return what was seen at each path."""
    with watched(net, paths, copy_inputs_of) as passages, torch.no_grad():
        net(image)
    return passages


@contextmanager
def watched(net: nn.Module, paths: Iterable[str], copy_inputs_of: Collection[str] = ()) -> Iterator[dict[str, Passage]]:
    """Yield what is seen at each path while the network runs inside."""
    clock = itertools.count()
    passages = {path: Passage(clock, copy_input=path in copy_inputs_of) for path in paths}
    handles = []
    for path, passage in passages.items():
        module = net.get_submodule(path)
        handles.append(module.register_forward_pre_hook(passage.before))
        handles.append(module.register_forward_hook(passage.after))
    try:
        yield passages
    finally:
        for handle in handles:
            handle.remove()


def measured(net: nn.Module, place: Place, passage: Passage) -> Site:
    """Return the site with the shape of what passed it; in place of a module, of what entered that."""
    seen = passage.source if place.kind in SWAPPED else passage.tensor
    assert seen is not None, f"no tensor passed site '{place.name}'"
    _, channels, height, width = seen.shape
    if place.kind != "conv":
        return Site(place.name, place.kind, place.module, channels, height, width, place.stage)
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


def count_parameters(net: nn.Module) -> int:
    """Return the number of trainable parameters; a shared one counts once."""
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)


def forward_macs(net: nn.Module, images: Tensor) -> int:
    """Return the multiply-adds of the convolutions and matrix products of one pass over `images`."""
    return counted_macs(lambda: net(images))
