"""Builds a network with a placement's attention in it; the network keeps its own names and its own forward."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from nas_attn.attention.create import create_attention
from nas_attn.attention.options import context_at
from nas_attn.backbones.build import build_backbone
from nas_attn.backbones.catalog import check_backbone, check_shape, is_foreign, without_start
from nas_attn.backbones.modules import put_module, seeded
from nas_attn.backbones.site_table import site_survey
from nas_attn.backbones.sites import open_blocks, tap_path
from nas_attn.backbones.survey.survey import foreign_survey, survey
from nas_attn.backbones.user_network import copy_network, make_network
from nas_attn.errors import SpaceError
from nas_attn.model.insert import Held, Insert, SkippedNorm, Tap
from nas_attn.placement import SWAPPED, Attention, Placement, Shape, Site, Survey
from nas_attn.space.fit import is_neutral, resolve_at

log = logging.getLogger(__name__)

Maker = Callable[..., nn.Module]
BackboneLike = str | Mapping[str, Any] | nn.Module | Maker


class AttentionModel(nn.Module):
    """A backbone under its own names, and the attention that is placed in it.

    Its state dict is `backbone.*`, as the plain network has it, and `attention.<site>.<attention's name>.*`.

    Args:
        spec: The backbone's checked spec; `{"own": class name}` for a network that was passed in.
        inserts: The attention by site.

    Shape: (N, in_channels, H, W) -> (N, num_classes).
    """

    preprocess: Callable[[Any], Tensor] | None
    """Turns images into what the network was trained on; set by `load_model`."""
    class_names: tuple[str, ...] | None
    """Names of the classes, in the order of the probabilities; set by `load_model`."""
    probabilities: Callable[[Tensor], Tensor] | None
    """Turns logits into a probability for each class name; set by `load_model` where it is known what they mean."""

    def __init__(
        self, backbone: nn.Module, inserts: Mapping[str, Insert], placement: Placement, spec: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.attention = _nested(inserts)
        self.placement = placement
        self.spec = dict(spec)
        self.num_classes = self.in_channels = self.image_size = 0
        self.preprocess = self.class_names = self.probabilities = None

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.backbone(images)
        return logits

    def insert_at(self, site: str) -> Insert:
        """Return what sits at a site of the placement. Raises: SpaceError if nothing does."""
        if site not in self.placement:
            raise SpaceError(f"Nothing is placed at site '{site}': the placement is {self.placement}.")
        insert = self.attention.get_submodule(site)
        assert isinstance(insert, Insert), f"{site} holds {insert}"
        return insert


def build_model(
    backbone: BackboneLike,
    placement: Placement,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: int | None = None,
    seed: int | None = None,
    class_names: Sequence[str] = (),
) -> AttentionModel:
    """Build a backbone with the placement's attention in it.

    The backbone and each attention are drawn on their own, from the seed and the site's name: two placements share
    the backbone's initial weights bit for bit. With an empty placement the outputs are the plain network's, bit for
    bit.

    Args:
        backbone: A catalogue name, `timm:NAME`, a `{"name": ..., option: value}` mapping, the user's own network, or
            a function that makes it, from those of num_classes, in_channels and image_size that it takes. A network
            that is passed in is copied with its weights, and never changed.
        image_size: Height and width of the images, which attention is fitted to (others of at least the backbone's
            smallest size pass too); None takes the catalogue backbone's default.
        seed: None draws one from torch's global generator, which is otherwise left as it was.
        class_names: Of the images: where the backbone's `weights` name their classes too, the classifier keeps the
            rows of those that match.
    Raises: SpaceError that names the site, and what is refused there; FileError if the backbone's `weights` cannot be
    read, or are another network's.
    """
    spec = check_backbone(backbone) if isinstance(backbone, str | Mapping) else {"import": ""}
    shape = check_shape(spec, num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    return build(backbone, placement, shape, seed=seed, class_names=class_names)


def build(
    backbone: BackboneLike,
    placement: Placement,
    shape: Shape,
    *,
    seed: int | None = None,
    class_names: Sequence[str] = (),
) -> AttentionModel:
    """Build a model of a checked shape; otherwise as `build_model`."""
    seed = int(torch.randint(2**31, ())) if seed is None else seed
    net, spec, found = _backbone(backbone, shape, seed, class_names)
    table = found.table
    sites = {name: table.site(name) for name in placement}
    _refuse_doubles(net, sites)
    resolved = {name: resolve_at(site, placement[name]) for name, site in sites.items()}
    resolved = {name: attention for name, attention in resolved.items() if not is_neutral(attention)}
    placement = Placement({name: placement[name] for name in resolved})
    sites = {name: sites[name] for name in resolved}
    if sites and table.stacking:
        _warn_once(table.stacking)
    inserts = {name: _insert(site, resolved[name], table.num_classes, seed, sites) for name, site in sites.items()}
    open_blocks(net, ((site.kind, site.module) for site in sites.values()))
    _move_beside(net, inserts)
    copied = found.copied | _written_later(sites, found.copied)
    for name in sorted(inserts, key=lambda name: sites[name].kind not in SWAPPED):  # taps outlast no later swap
        _join(net, sites[name], inserts[name], name in copied)
    model = AttentionModel(net, inserts, placement, spec)
    model.num_classes, model.in_channels, model.image_size = table.num_classes, table.in_channels, table.image_size
    model.attention.train(net.training)
    model.training = net.training  # a network's own modules keep their modes
    return model


def _backbone(
    backbone: BackboneLike, shape: Shape, seed: int, class_names: Sequence[str]
) -> tuple[nn.Module, dict[str, Any], Survey]:
    """Return the plain network, its spec, and its sites."""
    if isinstance(backbone, str | Mapping):
        spec = check_backbone(backbone)
        net = build_backbone(spec, shape, seed=seed, class_names=class_names)
        spec = without_start(spec)  # a model file holds its own weights
        if not is_foreign(spec):
            return net, spec, site_survey(spec, shape)
        return net, spec, foreign_survey(spec, net, shape)
    with seeded(seed, "backbone"):
        net = _own(backbone, shape)
    return net, {"own": type(net).__name__}, survey(net, shape)


def _own(backbone: nn.Module | Maker, shape: Shape) -> nn.Module:
    """Return a copy of the user's network, or what the user's function makes. Raises: SpaceError if it is neither."""
    if isinstance(backbone, nn.Module):
        return copy_network(backbone)
    if not callable(backbone):
        raise SpaceError(f"A backbone must be a name, a mapping, a network or a function, but got {backbone!r}.")
    return make_network(backbone, "backbone's function", {}, shape)


@lru_cache(maxsize=64)
def _warn_once(sentence: str) -> None:
    log.warning("%s", sentence)


def _written_later(sites: Mapping[str, Site], copied: Collection[str]) -> set[str]:
    """Return the replaced convolutions whose norm goes too, where the network writes over what the norm gave."""
    replaced = (site for site in sites.values() if site.replaced is not None)
    return {site.module for site in replaced if site.replaced is not None and site.replaced.norm in copied}


def _refuse_doubles(net: nn.Module, sites: Mapping[str, Site]) -> None:
    """Refuse two names of one place: in a user's own network, a Sequential and its last child."""
    places: dict[tuple[str, bool], str] = {}
    for name, site in sites.items():
        first = places.setdefault((tap_path(net, site.kind, site.module), site.kind in SWAPPED), name)
        if first != name:
            raise SpaceError(f"Sites '{first}' and '{name}' are one place: leave one of them out.")


def _insert(site: Site, attention: Attention, num_classes: int, seed: int, names: Iterable[str]) -> Insert:
    start = f"{site.name}."
    below = {name.removeprefix(start).split(".")[0] for name in names if name.startswith(start)}
    with seeded(seed, f"attention.{site.name}"):
        context = context_at(site, num_classes)
        module = create_attention(attention.name, site.channels, context=context, **attention.options)
        return Insert(attention, module, site.channels, below)


def _join(net: nn.Module, site: Site, insert: Insert, copies: bool) -> None:
    """Let what passes the site run through the insert, which is tapped in, or held in the place of a module."""
    path = tap_path(net, site.kind, site.module)
    if site.kind not in SWAPPED:
        tap = Tap(insert, copies)
        tap.handle = net.get_submodule(path).register_forward_hook(tap)
        return
    replaced = net.get_submodule(path)
    held = Held(insert, replaced)
    take_over = getattr(insert.attention, "take_over", None)
    if take_over is not None:
        held.keep(replaced)
        take_over(held)
    elif site.replaced is not None and site.replaced.norm:
        put_module(net, site.replaced.norm, SkippedNorm(net.get_submodule(site.replaced.norm)))
    put_module(net, path, held)


def _nested(inserts: Mapping[str, Insert]) -> nn.Module:
    """Hang each insert under its site's name, a level a dot. Raises: SpaceError where two children want one name."""
    root = nn.Module()
    for name in sorted(inserts, key=len):  # a name comes before those that continue it
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
        raise SpaceError(f"Site '{name}' cannot be used: '{part}' means something else beside the attention there.")
    node.add_module(part, child)


def _move_beside(net: nn.Module, inserts: Mapping[str, Insert]) -> None:
    """Give the attention the device and the number type of the network's weights."""
    weight = next((weight for weight in net.parameters() if weight.is_floating_point()), None)
    if weight is not None:
        for insert in inserts.values():
            insert.to(weight.device, weight.dtype)
