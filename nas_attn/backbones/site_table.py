"""The site table of a backbone, from a cache that needs no torch; torch is loaded only for a network not seen yet."""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING

from nas_attn.backbones.catalog import check_backbone, check_shape, is_foreign, plugged_entry, without_start
from nas_attn.backbones.entry import Backbone, Spec
from nas_attn.backbones.timm_names import is_timm
from nas_attn.files import cache_record, cached_record_path, read_cached_record
from nas_attn.placement import Shape, SiteTable, Survey

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

log = logging.getLogger(__name__)


def site_table(spec: str | Spec, *, num_classes: int, in_channels: int, image_size: int | None = None) -> SiteTable:
    """Return the sites of a backbone at one input shape.

    Those of a backbone of the catalogue or of timm's are kept in the user's cache folder, under a name made from the
    spec, the shape, the versions of torch, torchvision and timm, and the text of the code that makes them. A damaged
    file is made again.

    Args:
        spec: As `check_backbone` takes it. A network that is imported, or a plug-in's, is measured afresh in every
            process; a plug-in's also when another record is registered under its name.
        image_size: Height and width of the images; None takes the backbone's default.
    Raises: SpaceError if the spec is not valid, or the image is smaller than the backbone takes.
    """
    checked = check_backbone(spec)
    shape = check_shape(checked, num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    return site_survey(checked, shape).table


def site_survey(spec: Spec, shape: Shape) -> Survey:
    """Return the sites of a checked spec's backbone, and why its other places are none; otherwise as `site_table`."""
    plain = without_start(spec)
    return _remembered(json.dumps(plain, sort_keys=True), plugged_entry(plain), shape)


def own_table(net: nn.Module, *, num_classes: int, in_channels: int, image_size: int) -> SiteTable:
    """Return the sites of a user's own network: its module paths, and `PATH.branch` and the like where a block opens.

    Raises: SpaceError if the network does not take such images, or does not give `num_classes` numbers for each.
    """
    from nas_attn.backbones.survey.survey import survey  # loads torch

    shape = check_shape({"import": ""}, num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    return survey(net, shape).table


@lru_cache(maxsize=64)
def _remembered(spec_json: str, plugged: Backbone | None, shape: Shape) -> Survey:
    """Return the survey, made once for each record of a plug-in: another one may come to bear its name."""
    spec = json.loads(spec_json)
    if is_foreign(spec):
        return _made(spec, shape)
    path = cached_record_path("sites", spec_json, json.dumps(vars(shape)), *_versions(spec), room="backbones")
    found = _kept(path)
    if found is None:
        found = _made(spec, shape)
        if path is not None:
            cache_record(path, found.to_dict())
    return found


def _kept(path: Path | None) -> Survey | None:
    """Return the survey that is kept, or None where there is none or the file holds something else."""
    record = None if path is None else read_cached_record(path)
    try:
        return None if record is None else Survey.from_dict(record)
    except (KeyError, TypeError) as error:
        log.debug("%s is made again: %s", path, error)
        return None


def _made(spec: Spec, shape: Shape) -> Survey:
    if is_foreign(spec) or is_timm(spec):
        from nas_attn.backbones.survey.survey import survey_spec  # loads torch

        return survey_spec(spec, shape)
    from nas_attn.backbones.sites import make_table  # loads torch and torchvision

    return Survey(make_table(spec, shape))


def _versions(spec: Spec) -> list[str]:
    packages = ("torch", "torchvision", "timm") if is_timm(spec) else ("torch", "torchvision")
    return [f"{name} {metadata.version(name)}" for name in packages]
