"""One network that has every choice of a space at every site, of which it runs one path at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas_attn.backbones.sites import open_blocks
from nas_attn.errors import SpaceError
from nas_attn.model.build import BackboneLike, connect, make_insert, move_beside, plain_network
from nas_attn.model.insert import Joined
from nas_attn.placement import Attention, Placement, Shape
from nas_attn.records import Part
from nas_attn.space.fit import resolve_at
from nas_attn.space.side_by_side import why_not_side_by_side


class Alternatives(nn.Module):
    """The attentions of one site side by side, of which at most one runs.

    Args:
        inserts: Each attention of the space at this site, joined as in a network that has it alone.

    Shape: (N, C, H, W) -> the same.
    """

    def __init__(self, inserts: Mapping[Attention, Joined]) -> None:
        super().__init__()
        self._names = {attention: str(number) for number, attention in enumerate(inserts)}
        self._used: str | None = None
        for attention, insert in inserts.items():
            self.add_module(self._names[attention], insert)

    def use(self, attention: Attention | None) -> None:
        """Run this attention from now on; None runs none. Raises: KeyError for one that the site does not have."""
        self._used = None if attention is None else self._names[attention]

    def forward(self, x: Tensor) -> Tensor:
        """Return the site's new tensor."""
        if self._used is None:
            return x
        attended: Tensor = self._modules[self._used](x)  # type: ignore[misc]  # never None
        return attended


class SharedNetwork(nn.Module):
    """A backbone with every choice of a space at every site; its placements share the weights.

    In train mode each forward pass draws a path: one choice of every decision. Draws are fair: the choices of a
    decision come in random order, and none comes again before all others have come. In evaluation mode the path is the
    selected one.

    Source: uniform paths: Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV
    2020, arXiv:1904.00420. Equal numbers of updates: Chu et al., "FairNAS", ICCV 2021, arXiv:1907.01845.
    Departs: FairNAS adds up the gradients of as many paths as there are choices before each step; here each path has a
    step of its own, so that as many steps are taken as in a usual training.

    Args:
        decisions: The choices of every decision, `none` among them; an attention with other options is another choice.

    Shape: (N, in_channels, H, W) -> what the backbone returns.
    """

    def __init__(
        self, backbone: nn.Module, sites: Mapping[str, Alternatives], decisions: Sequence[Sequence[Part]]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.attention = nn.ModuleList(sites.values())
        self._sites = dict(sites)
        self._decisions = tuple(map(tuple, decisions))
        self._coming: list[list[int]] = [[] for _ in self._decisions]

    def select(self, placement: Placement) -> None:
        """Run this placement of the space from now on. Raises: KeyError for a site or an attention that it has not."""
        for name in placement:
            self._sites[name]
        for name, alternatives in self._sites.items():
            alternatives.use(placement.attentions.get(name))

    def draw(self) -> Placement:
        """Return the next path, drawn by torch's global generator."""
        chosen: dict[str, Attention] = {}
        for parts, coming in zip(self._decisions, self._coming, strict=True):
            if not coming:
                coming.extend(torch.randperm(len(parts)).tolist())
            chosen.update(parts[coming.pop()])
        return Placement(chosen)

    def forward(self, images: Tensor) -> Any:
        """Return the logits of the selected path, in train mode of the next one that is drawn."""
        if self.training:
            self.select(self.draw())
        return self.backbone(images)

    def get_extra_state(self) -> list[list[int]]:
        """Return the order of the draws to come, so that a continued training draws the same paths."""
        return [list(coming) for coming in self._coming]

    def set_extra_state(self, state: list[list[int]]) -> None:
        """Continue with this order."""
        self._coming = [list(coming) for coming in state]


def build_shared(
    backbone: BackboneLike,
    decisions: Sequence[Sequence[Part]],
    shape: Shape,
    *,
    seed: int,
    class_names: Sequence[str] = (),
) -> SharedNetwork:
    """Return a network with every choice of a space; with one seed, each path has the initial weights of its placement.

    Args:
        decisions: As for `SharedNetwork`.
        seed, class_names: As for `nas_attn.build_model`.
    Raises: SpaceError if the choices cannot stand side by side.
    """
    net, _, found = plain_network(backbone, shape, seed, class_names)
    placed = dict.fromkeys(place for parts in decisions for part in parts for place in part)
    sites = {name: found.table.site(name) for name, _ in placed}
    reason = why_not_side_by_side(found.table, placed)
    if reason is not None:
        raise SpaceError(
            f"A network that shares its weights needs sites that keep the network's modules, but {reason}."
        )
    inserts: dict[str, dict[Attention, Joined]] = {name: {} for name in sites}
    for name, attention in placed:
        resolved = resolve_at(sites[name], attention)
        inserts[name][attention] = make_insert(sites[name], resolved, found.table.num_classes, seed, ())
    alternatives = {name: Alternatives(attentions) for name, attentions in inserts.items()}
    open_blocks(net, ((site.kind, site.module) for site in sites.values()))
    move_beside(net, alternatives.values())
    for name, site in sites.items():
        connect(net, site, alternatives[name], copies=name in found.copied)
    return SharedNetwork(net, alternatives, decisions)
