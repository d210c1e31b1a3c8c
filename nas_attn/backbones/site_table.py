"""Returns the site table of a backbone; a cached table needs no torch."""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING

from nas_attn.backbones.catalog import check_backbone, check_shape, is_foreign, without_start
from nas_attn.backbones.entry import Spec
from nas_attn.backbones.timm_names import is_timm
from nas_attn.files import cache_record, cached_record_path, read_cached_record
from nas_attn.placement import Shape, SiteTable, Survey

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

log = logging.getLogger(__name__)


def site_table(spec: str | Spec, *, num_classes: int, in_channels: int, image_size: int | None = None) -> SiteTable:
    """Return the sites of a backbone at one input shape.

    The tables of the catalogue's and timm's networks are cached in the user's cache folder. Their key covers the spec,
    the shape, the versions of torch, torchvision and timm, and the code of this package that makes them. A damaged file
    is replaced.

    Args:
        spec: As `check_backbone` takes it. An imported or plugged-in network is built in every call, since its code may
            change; its survey is repeated only if the network differs (see `foreign_survey`).
        image_size: Height and width of the images; None takes the backbone's default.
    Raises: SpaceError if the spec is not valid, or the image is smaller than the backbone takes.
    """
    checked = check_backbone(spec)
    shape = check_shape(checked, num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    return site_survey(checked, shape).table


def site_survey(spec: Spec, shape: Shape) -> Survey:
    """Return the site table of a checked spec's backbone with the sites that need copies; otherwise as `site_table`."""
    plain = without_start(spec)
    if is_foreign(plain):
        return _made(plain, shape)
    return _remembered(json.dumps(plain, sort_keys=True), shape)


def own_table(net: nn.Module, *, num_classes: int, in_channels: int, image_size: int) -> SiteTable:
    """Return the sites of a user's own network: its module paths, and `PATH.branch` etc. of blocks that can be opened.

    Raises: SpaceError if the network does not accept such images, or does not return `num_classes` logits per image.
    """
    from nas_attn.backbones.survey.survey import survey  # loads torch

    shape = check_shape({"import": ""}, num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    return survey(net, shape).table


@lru_cache(maxsize=64)
def _remembered(spec_json: str, shape: Shape) -> Survey:
    """Return the survey of a network of the catalogue or of timm, cached in this process and on disk."""
    spec = json.loads(spec_json)
    path = cached_record_path("sites", spec_json, json.dumps(vars(shape)), *_versions(spec), folder="backbones")
    found = _cached(path)
    if found is None:
        found = _made(spec, shape)
        if path is not None:
            cache_record(path, found.to_dict())
    return found


def _cached(path: Path | None) -> Survey | None:
    """Return the cached survey, or None if there is none or the file's content is invalid."""
    record = None if path is None else read_cached_record(path)
    try:
        return None if record is None else Survey.from_dict(record)
    except (KeyError, TypeError) as error:
        log.debug("%s is computed again: %s", path, error)
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
