"""The arms that a user adds to the comparison by `--arm`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_attn.errors import ConfigError, SpaceError
from nas_attn.placement import Placement
from nas_attn.space.bound import BoundSpace
from nas_attn.space.published import load_published
from nas_attn.space.search_space import SearchSpace

PUBLISHED, LAST_STAGE = "published:", "last-stage"

MakeArms = Callable[[BoundSpace], Mapping[str, Placement]]
"""Returns the resolved placements of one request by their labels, once the backbone's sites are known."""


def read_arms(requested: str | Sequence[str], space: SearchSpace) -> tuple[MakeArms, ...]:
    """Return what makes the requested arms, each once.

    Args:
        requested: `published:NAME`, a network of a paper; `last-stage`, each attention of the space in the last stage
            only; or the path of a JSON file with a placement: `best.json`, a file of `arms/`, or site -> attention.
    Raises: ConfigError or SpaceError, in one sentence.
    """
    requests = dict.fromkeys([requested] if isinstance(requested, str) else requested)
    return tuple(_read_arm(request, space) for request in requests)


def _read_arm(request: str, space: SearchSpace) -> MakeArms:
    if request == LAST_STAGE:
        return _in_last_stage
    if request.startswith(PUBLISHED):
        return _published(request, space)
    if request.endswith(".json"):
        return _from_file(Path(request))
    raise ConfigError(
        f"'--arm' must be {PUBLISHED}NAME, {LAST_STAGE} or the path of a JSON file with a placement, such as "
        f"{PUBLISHED}cbam_resnet50, but got {request}."
    )


def _in_last_stage(bound: BoundSpace) -> dict[str, Placement]:
    """Return each attention of the space in the last stage only.

    Raises: SpaceError if no decision belongs to the last stage alone.
    """
    arms = {f"{name} in the last stage": bound.in_last_stage(name) for name in bound.attentions}
    found = {label: placement for label, placement in arms.items() if len(placement)}
    if not found:
        raise SpaceError(
            f"'--arm {LAST_STAGE}' needs a decision on the last stage alone, but {bound.space.where} has none: let the "
            "last stage be decided separately."
        )
    return found


def _published(request: str, space: SearchSpace) -> MakeArms:
    network = load_published(request.removeprefix(PUBLISHED))
    backbone = space.backbone.get("name", space.backbone.get("import"))
    if network.backbone["name"] != backbone:
        raise SpaceError(
            f"An arm must be in the space's backbone, but '{network.name}' is in '{network.backbone['name']}' and "
            f"{space.where} in '{backbone}'."
        )
    return lambda bound: {request: bound.resolve(network.placement(bound.table))}


def _from_file(path: Path) -> MakeArms:
    placement = read_placement(path, "--arm")
    return lambda bound: {path.stem: bound.resolve(placement)}


def read_placement(path: Path, option: str) -> Placement:
    """Return the placement of a JSON file.

    Args:
        option: The setting that names the file, for messages.
    Raises: ConfigError if there is none.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"'{option}' names the file {path}, but there is none.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"'{option}' names {path}, which must be a JSON file with a placement, but: {error}."
        ) from None
    placement = content.get("placement", content) if isinstance(content, Mapping) else None
    try:
        if not isinstance(placement, Mapping):
            raise TypeError("it is no JSON object")
        return Placement.from_dict(placement)
    except (TypeError, KeyError, AttributeError, SpaceError, ConfigError) as error:
        raise ConfigError(
            f"{path} must have a placement, site -> attention with its options, but cannot be read: {error}"
        ) from None
