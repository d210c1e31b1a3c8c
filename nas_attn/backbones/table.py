"""The site table of a backbone, from a cache that needs no torch; torch is loaded only for a network not seen yet."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_attn.backbones.catalog import check_backbone, check_shape, without_start
from nas_attn.backbones.entry import Spec
from nas_attn.cache_folder import cache_path, write_whole
from nas_attn.placement import Site, SiteTable

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


def site_table(spec: str | Spec, *, num_classes: int, in_channels: int, image_size: int | None = None) -> SiteTable:
    """Return the sites of a backbone at one input shape.

    A catalogue backbone's table is kept in the user's cache folder, under a name made from the spec, the shape, the
    versions of torch and torchvision, and the text of the code that makes it. A damaged file is made again.

    Args:
        spec: As `check_backbone` takes it. A network that is imported is measured afresh in every process.
        image_size: Height and width of the images; None takes the backbone's default.
    Raises: SpaceError if the spec is not valid, or the image is smaller than the backbone takes.
    """
    checked = without_start(check_backbone(spec))
    size = check_shape(checked, num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    return _remembered(json.dumps(checked, sort_keys=True), num_classes, in_channels, size)


def own_table(net: nn.Module, *, num_classes: int, in_channels: int, image_size: int) -> SiteTable:
    """Return the sites of a user's own network: its module paths, and `PATH.branch` and the like where a block opens.

    Raises: SpaceError if the network does not take such images, or does not give `num_classes` numbers for each.
    """
    from nas_attn.backbones.own import survey  # loads torch

    return survey(net, num_classes=num_classes, in_channels=in_channels, image_size=image_size).table


@lru_cache(maxsize=64)
def _remembered(spec_json: str, num_classes: int, in_channels: int, image_size: int) -> SiteTable:
    spec = json.loads(spec_json)
    shape = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    if "import" in spec:
        from nas_attn.backbones.own import imported_table  # loads torch

        return imported_table(spec, **shape)
    path = _cache_file(spec_json, json.dumps(shape))
    found = _read(path) if path else None
    if found is not None:
        return found
    from nas_attn.backbones.sites import make_table  # loads torch and torchvision

    table = make_table(spec, **shape)
    if path is not None:
        _write(path, table)
    return table


def _cache_file(*parts: str) -> Path | None:
    """Return where the table of this spec and shape is kept; None on a machine without a home folder."""
    digest = hashlib.sha256("\n".join([*parts, *_versions(), _code()]).encode()).hexdigest()
    return cache_path("sites", f"{digest[:32]}.json")


def _versions() -> list[str]:
    return [f"{name} {metadata.version(name)}" for name in ("torch", "torchvision")]


def _code() -> str:
    """Digest of this folder's files, which decide what a table holds: an edit there makes every kept table stale."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> SiteTable | None:
    """Return the kept table, or None where there is none or the file is damaged."""
    try:
        kept = json.loads(path.read_bytes())
        record = kept["table"]
        if kept["digest"] != _digest(record):
            raise ValueError("its digest does not fit")
        sites = tuple(Site.from_dict(site) for site in record.pop("sites"))
        return SiteTable(sites=sites, **record)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.debug("The site table %s is made again: %s", path, error)
        return None


def _write(path: Path, table: SiteTable) -> None:
    """Keep the table; a folder that cannot be written only costs time at the next start."""
    record = json.loads(json.dumps(asdict(table)))
    text = json.dumps({"digest": _digest(record), "table": record})
    try:
        write_whole(path, lambda file: file.write(text.encode()))
    except OSError as error:
        log.debug("The site table is not kept: %s", error)
