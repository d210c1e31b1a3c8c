"""Which space a run searches, in which network: stated, made from the network's sites, or the default for the data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nas_attn.backbones.catalog import check_backbone
from nas_attn.backbones.own_network import OwnNetwork
from nas_attn.backbones.written import read_network
from nas_attn.config import DataConfig
from nas_attn.data.catalog import data_source
from nas_attn.data.entry import SPACE_FOR_SMALL_IMAGES
from nas_attn.errors import ConfigError, SpaceError
from nas_attn.placement import SiteTable
from nas_attn.space.default_space import ATTENTIONS, default_space
from nas_attn.space.search_space import SearchSpace

MakeSpace = Callable[[SiteTable], tuple[SearchSpace, str]]
"""Returns the space of a network whose sites are known, and a sentence on it."""


@dataclass(frozen=True)
class Choice:
    """The space of a run, and its network.

    Args:
        space: As stated; with `make`, one of any site in its place until the sites are known.
        network: A network in memory; None if the space's backbone can be imported.
        make: Makes the space from the sites; None if it is known.
        reason: Why a space is searched that nobody named, as a sentence; None if one was named, or made.
    """

    space: SearchSpace
    network: OwnNetwork | None = None
    make: MakeSpace | None = None
    reason: str | None = None

    @property
    def is_own(self) -> bool:
        """Whether the network is the user's own code: in memory, or imported."""
        return self.network is not None or "import" in self.space.backbone


def choose(stated: Mapping[str, Any]) -> Choice:
    """Return the space and the network of a run, from its `space`, `backbone`, `network`, `data` and `train`.

    Raises: SpaceError or ConfigError, in one sentence.
    """
    spec, network = _network(stated)
    if "space" in stated:
        return _stated(stated["space"], spec, network)
    if spec is None and network is None:
        return _default(stated)
    name = network.name if network is not None else network_name(spec or {})
    anywhere = {"title": f"Attention in {name}", "sites": [{"match": ["**"], "attentions": list(ATTENTIONS)}]}
    where = f"the space made for {name}"
    space = SearchSpace.from_dict(anywhere | ({"backbone": spec} if spec else {}), where, name=name)
    return Choice(space, network, partial(_made, spec, name, where))


def network_name(spec: Mapping[str, Any]) -> str:
    """Return the name of a network, without what stands before a colon."""
    return str(spec.get("name", spec.get("import", ""))).rpartition(":")[2]


def _network(stated: Mapping[str, Any]) -> tuple[dict[str, Any] | None, OwnNetwork | None]:
    """Return the spec of the network that is stated, or the network in memory, or neither."""
    backbone, source = stated.get("backbone"), stated.get("network")
    if backbone is not None and source is not None:
        raise ConfigError("A search has one network, but got both backbone=... and network=...: leave one out.")
    if isinstance(backbone, str):
        return read_network(backbone.split()), None
    if isinstance(backbone, Mapping):
        return check_backbone(backbone), None
    if backbone is not None:
        raise ConfigError(
            f"backbone=... must name a network, but got a {type(backbone).__name__}: pass a network, or a function "
            "that returns it, as network=...."
        )
    if source is None:
        return None, None
    if isinstance(source, str | Mapping) or not callable(source):
        raise ConfigError(
            f"network=... must be a function that returns a network, or a torch module, but got {source!r}: name a "
            "network by backbone=...."
        )
    path = _import_path(source)
    return ({"import": path}, None) if path else (None, OwnNetwork(source))


def _import_path(source: Any) -> str | None:
    """Return the path `module:name` of a function that another process can import, or None."""
    module, name = getattr(source, "__module__", None), getattr(source, "__qualname__", None)
    if module in (None, "__main__") or not isinstance(name, str) or not name.isidentifier():
        return None
    return f"{module}:{name}" if getattr(sys.modules.get(str(module)), name, None) is source else None


def _stated(space: Any, spec: dict[str, Any] | None, network: OwnNetwork | None) -> Choice:
    """Return a space that is named, in its own network or in the one that is stated beside it."""
    if not isinstance(space, str | Path | SearchSpace):
        raise SpaceError(
            f"The first argument of a search is a space (a name, a file or a SearchSpace), but got a "
            f"{type(space).__name__}: pass a network as network=...."
        )
    space = space if isinstance(space, SearchSpace) else SearchSpace.load(space)
    if spec is None and network is None:
        if not space.backbone:
            raise SpaceError(
                f"A search needs a backbone, but {space.where} has none: add [backbone] with a name, or state "
                "--backbone."
            )
        return Choice(space)
    if space.backbone:
        name = network.name if network is not None else network_name(spec or {})
        raise SpaceError(
            f"A search has one network, but {space.where} has its own ('{network_name(space.backbone)}') and "
            f"'{name}' is stated beside it: leave one of them out."
        )
    return Choice(replace(space, file=space.file.model_copy(update={"backbone": spec})), network)


def _default(stated: Mapping[str, Any]) -> Choice:
    """Return the shipped space for images of this kind."""
    if "train" in stated and "data" not in stated:
        return Choice(SearchSpace.load(SPACE_FOR_SMALL_IMAGES))
    space = SearchSpace.load(data_source(stated.get("data", DataConfig().name)).space)
    if space.name == SPACE_FOR_SMALL_IMAGES:
        return Choice(space)
    return Choice(
        space,
        reason=f"Its {network_name(space.backbone)} suits natural images, as the default for digits does not, and "
        "begins with random weights: --space, --backbone and --image-size change this.",
    )


def _made(spec: dict[str, Any] | None, name: str, where: str, table: SiteTable) -> tuple[SearchSpace, str]:
    made = default_space(table)
    space = SearchSpace.from_dict(made.to_dict(spec), where, name=name)
    written = "" if spec is None else " `nas-attn init` writes such a space as a file."
    return space, f"No space was named, so one was made from the sites of {table.backbone}: {made.in_words}.{written}"
