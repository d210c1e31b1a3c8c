"""Builds a network with the attention of a placement; the network keeps its own names and its own forward."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from nas_attn.attention.catalog import attention_entry
from nas_attn.attention.create import create_attention
from nas_attn.attention.options import context_at
from nas_attn.backbones.build import build_backbone
from nas_attn.backbones.catalog import check_backbone, check_shape, is_foreign, without_start
from nas_attn.backbones.found_shape import found_shape
from nas_attn.backbones.modules import put_module, seeded
from nas_attn.backbones.own_network import OwnNetwork
from nas_attn.backbones.site_table import site_survey
from nas_attn.backbones.sites import open_blocks, tap_path
from nas_attn.backbones.survey.survey import foreign_survey, survey
from nas_attn.backbones.user_network import copy_network, make_network
from nas_attn.errors import SpaceError
from nas_attn.model.insert import Held, InputTap, Insert, SkippedNorm, Tap
from nas_attn.placement import SWAPPED, Attention, Placement, Shape, Site, Survey, Value
from nas_attn.space.fit import by_site_name, in_its_block, is_neutral, resolve_at
from nas_attn.space.rewritten import notes_on_placement

log = logging.getLogger(__name__)

Maker = Callable[..., nn.Module]
BackboneLike = str | Mapping[str, Any] | nn.Module | Maker | OwnNetwork


class AttentionModel(nn.Module):
    """A backbone and the attention that is placed in it.

    The keys of its state dict are `backbone.*`, as in the plain network, and `attention.<site>.<attention's name>.*`.

    Args:
        inserts: The attention by site.
        spec: The backbone's checked spec; `{"own": class name}` for a network that was passed in.

    Shape: (N, in_channels, H, W) -> (N, num_classes), or whatever the backbone returns.
    """

    preprocess: Callable[[Any], Tensor] | None
    """Converts images to inputs of the network; set by `load_model`."""
    class_names: tuple[str, ...] | None
    """Names of the classes, in the order of the probabilities; set by `load_model`."""
    probabilities: Callable[[Tensor], Tensor] | None
    """Converts logits to one probability per class name; set by `load_model` if the meaning of the logits is known."""
    about: str | None
    """What was loaded, in one sentence, also at the head of its `repr`; set by `load_model`."""

    def __init__(
        self, backbone: nn.Module, inserts: Mapping[str, Insert], placement: Placement, spec: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.attention = _nested(inserts)
        self.placement = placement
        self.spec = dict(spec)
        self.num_classes = self.in_channels = self.image_size = 0
        self.remarks: tuple[str, ...] = ()  # what is built with another value than stated, or is without effect
        self.sites_of_cores: tuple[str, ...] = ()  # where a smaller kernel is built than the placement says, see `core`
        self.preprocess = self.class_names = self.probabilities = self.about = None

    def forward(self, images: Tensor, *more: Any, **named: Any) -> Any:
        """Return the logits, or what the backbone returns; further arguments, such as targets, are passed to it."""
        if not isinstance(more, tuple):  # torch.fx records a call with the images alone
            return self.backbone(images)
        return self.backbone(images, *more, **named)

    def extra_repr(self) -> str:
        """Return what was loaded, or otherwise the placement."""
        return self.about or str(self.placement)

    def insert_at(self, site: str) -> Insert:
        """Return the insert at a site of the placement. Raises: SpaceError if there is none."""
        if site not in self.placement:
            raise SpaceError(f"Nothing is placed at site '{site}': the placement is {self.placement}.")
        insert = self.attention.get_submodule(site)
        assert isinstance(insert, Insert), f"at {site} is {insert}"
        return insert


def build_model(
    backbone: BackboneLike,
    placement: Placement,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: int | None = None,
    seed: int | None = None,
    class_names: Sequence[str] = (),
) -> AttentionModel:
    """Build a backbone with the attention of a placement.

    The backbone and each attention are initialised separately, from the seed and the site's name: with one seed, the
    backbone has the same initial weights for every placement. With an empty placement the outputs equal those of the
    plain network, bit for bit.

    Args:
        backbone: A catalogue name, `timm:NAME`, a `{"name": ..., option: value}` mapping, the user's own network, or
            a function that returns one and is called with those of num_classes, in_channels and image_size that it has
            as parameters. A network that is passed in is copied with its weights, and never changed.
        num_classes: Number of logits: one per class, or one for two classes. None, only with a network that is passed
            in, takes the number that it returns; a network that returns something else (a map, several outputs) has 0.
        in_channels: Channels of the images; None means 3, or what a network that is passed in accepts.
        image_size: Height and width for which the attention is built (other sizes of at least the backbone's smallest
            are accepted too); None takes the catalogue backbone's default, and of a network that is passed in timm's,
            or the first usual size that it accepts.
        seed: None draws one from torch's global generator, whose state is otherwise unchanged.
        class_names: Names of the images' classes: if the backbone's `weights` have class names too, the classifier
            keeps the rows of matching classes.
    Raises: SpaceError with the site and the reason; FileError if the backbone's `weights` cannot be read, or belong to
    another network.
    """
    is_guessed = isinstance(backbone, nn.Module) and image_size is None
    if isinstance(backbone, nn.Module):
        found = found_shape(backbone, num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        num_classes, in_channels, image_size = found.num_classes, found.in_channels, found.image_size
    if num_classes is None:
        raise SpaceError(
            "num_classes must be stated, unless the backbone is a network: add it, or pass the network itself."
        )
    spec = check_backbone(backbone) if isinstance(backbone, str | Mapping) else {"import": ""}
    n_channels = 3 if in_channels is None else in_channels
    shape = check_shape(spec, num_classes=num_classes, in_channels=n_channels, image_size=image_size)
    model = build(backbone, placement, shape, seed=seed, class_names=class_names)
    for remark in model.remarks:
        _warn_once(remark)
    if is_guessed and model.sites_of_cores:
        size = f"{shape.image_size}x{shape.image_size}"
        raise SpaceError(
            f"The kernel of the attention at '{model.sites_of_cores[0]}' depends on the size of the images, which is "
            f"not stated (on {size}, its map is smaller than the kernel): state image_size."
        )
    return model


def build(
    backbone: BackboneLike,
    placement: Placement,
    shape: Shape,
    *,
    seed: int | None = None,
    class_names: Sequence[str] = (),
) -> AttentionModel:
    """As `build_model`, with a shape that `check_shape` has returned."""
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    net, spec, found = plain_network(backbone, shape, seed, class_names)
    table = found.table
    placement = by_site_name(table, placement)
    sites = {name: table.site(name) for name in placement}
    _refuse_doubles(net, sites)
    resolved = {name: resolve_at(site, placement[name]) for name, site in sites.items()}
    resolved = {name: attention for name, attention in resolved.items() if not is_neutral(attention)}
    placement = Placement({name: placement[name] for name in resolved})
    sites = {name: in_its_block(table, sites[name], resolved) for name in resolved}
    if sites and table.stacking:
        _warn_once(table.stacking)
    inserts = {name: make_insert(site, resolved[name], table.num_classes, seed, sites) for name, site in sites.items()}
    open_blocks(net, ((site.kind, site.module) for site in sites.values()))
    move_beside(net, inserts.values())
    copied = found.copied | _written_later(sites, found.copied)
    for name in sorted(
        inserts, key=lambda name: sites[name].kind not in SWAPPED
    ):  # a replaced module would lose its hook
        replaces_norm = attention_entry(resolved[name].name).replaces_norm
        _join(net, sites[name], inserts[name], copies=name in copied, replaces_norm=replaces_norm)
    model = AttentionModel(net, inserts, placement, spec)
    model.remarks = tuple(notes_on_placement(table, placement))
    written = {name: _written_kernel(placement[name]) for name in resolved}
    model.sites_of_cores = tuple(
        name for name, size in written.items() if size not in (None, "auto", resolved[name].options.get("kernel_size"))
    )
    model.num_classes, model.in_channels, model.image_size = table.num_classes, table.in_channels, table.image_size
    model.attention.train(net.training)
    model.training = net.training  # a network's own modules keep their modes
    return model


def _written_kernel(attention: Attention) -> Value | None:
    """Return the kernel size that an attention states, or that it has by default; None without a kernel."""
    known = {option.name: option.default for option in attention_entry(attention.name).options}
    return attention.options.get("kernel_size", known.get("kernel_size"))


def plain_network(
    backbone: BackboneLike, shape: Shape, seed: int, class_names: Sequence[str]
) -> tuple[nn.Module, dict[str, Any], Survey]:
    """Return the plain network, its spec, and its survey."""
    if isinstance(backbone, str | Mapping):
        spec = check_backbone(backbone)
        net = build_backbone(spec, shape, seed=seed, class_names=class_names)
        spec = without_start(spec)  # a model file has its own weights
        if not is_foreign(spec):
            return net, spec, site_survey(spec, shape)
        return net, spec, foreign_survey(spec, net, shape)
    with seeded(seed, "backbone"):
        net = backbone.make(shape) if isinstance(backbone, OwnNetwork) else _own(backbone, shape)
    found = backbone.survey(net, shape) if isinstance(backbone, OwnNetwork) else survey(net, shape)
    return net, {"own": type(net).__name__}, found


def _own(backbone: nn.Module | Maker, shape: Shape) -> nn.Module:
    """Return a copy of the user's network, or call the user's function. Raises: SpaceError for anything else."""
    if isinstance(backbone, nn.Module):
        return copy_network(backbone)
    if not callable(backbone):
        raise SpaceError(f"A backbone must be a name, a mapping, a network or a function, but got {backbone!r}.")
    return make_network(backbone, "backbone's function", {}, shape)


@lru_cache(maxsize=64)
def _warn_once(sentence: str) -> None:
    log.warning("%s", sentence)


def _written_later(sites: Mapping[str, Site], copied: Collection[str]) -> set[str]:
    """Return the replaced convolutions whose norm is replaced too and has an output that is modified in place later."""
    replaced = (site for site in sites.values() if site.replaced is not None)
    return {site.module for site in replaced if site.replaced is not None and site.replaced.norm in copied}


def _refuse_doubles(net: nn.Module, sites: Mapping[str, Site]) -> None:
    """Refuse two names of one place, such as a Sequential and its last child in a user's own network."""
    places: dict[tuple[str, bool, bool], str] = {}
    for name, site in sites.items():
        how = (site.kind in SWAPPED, site.enters)
        first = places.setdefault((tap_path(net, site.kind, site.module), *how), name)
        if first != name:
            raise SpaceError(f"Sites '{first}' and '{name}' are one place: leave one of them out.")


def make_insert(site: Site, attention: Attention, num_classes: int, seed: int, names: Iterable[str]) -> Insert:
    """Return a resolved attention as it is joined at its site, with weights that follow from the seed and the site.

    Args:
        names: All sites that have an attention.
    """
    start = f"{site.name}."
    below = {name.removeprefix(start).split(".")[0] for name in names if name.startswith(start)}
    with seeded(seed, f"attention.{site.name}"):
        context = context_at(site, num_classes)
        module = create_attention(attention.name, site.channels, context=context, **attention.options)
        return Insert(attention, module, site.channels, below)


def _join(net: nn.Module, site: Site, insert: Insert, *, copies: bool, replaces_norm: bool) -> None:
    """Connect the insert at its site: by a hook on a module's output or input, or in place of a module.

    Args:
        copies: Whether the network modifies the tapped output in place later.
        replaces_norm: Whether the attention also takes the place of the norm behind a replaced convolution.
    """
    if site.enters or site.kind not in SWAPPED:
        connect(net, site, insert, copies=copies)
        return
    path = tap_path(net, site.kind, site.module)
    replaced = net.get_submodule(path)
    module = Held(insert, replaced)
    take_over = getattr(insert.attention, "take_over", None)
    if take_over is not None:
        module.keep(replaced)
        take_over(module)
    elif site.replaced is not None and site.replaced.norm and replaces_norm:
        put_module(net, site.replaced.norm, SkippedNorm(net.get_submodule(site.replaced.norm)))
    put_module(net, path, module)


def connect(net: nn.Module, site: Site, insert: nn.Module, *, copies: bool) -> None:
    """Connect an insert by a hook on the output or the input of its site's module, which stays; `copies` as `_join`."""
    path = tap_path(net, site.kind, site.module)
    if site.enters:
        before = InputTap(insert)
        before.handle = net.get_submodule(path).register_forward_pre_hook(before)
        return
    tap = Tap(insert, copies)
    tap.handle = net.get_submodule(path).register_forward_hook(tap)


def _nested(inserts: Mapping[str, Insert]) -> nn.Module:
    """Return nested modules that have each insert at the path of its site's name.

    Raises: SpaceError if two children would have one name.
    """
    root = nn.Module()
    for name in sorted(inserts, key=len):  # a name precedes those that extend it
        *path, last = name.split(".")
        node = root
        for part in path:
            if part not in node._modules:
                _add(node, part, nn.Module(), name)
            node = node.get_submodule(part)
        _add(node, last, inserts[name], name)
    return root


def _add(node: nn.Module, part: str, child: nn.Module, name: str) -> None:
    if hasattr(node, part):
        raise SpaceError(f"Site '{name}' cannot be used: another module of the model is called '{part}' there.")
    node.add_module(part, child)


def move_beside(net: nn.Module, inserts: Iterable[nn.Module]) -> None:
    """Move the attention to the device and type of the network's weights."""
    weight = next((weight for weight in net.parameters() if weight.is_floating_point()), None)
    if weight is not None:
        for insert in inserts:
            insert.to(weight.device, weight.dtype)
