"""From a configuration to images: calls the reader of the data source, and checks what it returns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_attn.config import DataConfig
from nas_attn.config.images import OF_READING
from nas_attn.data.appearance import read_colour
from nas_attn.data.arrays import ImageDataset
from nas_attn.data.catalog import DATA, data_path, data_source
from nas_attn.data.checks import checked_dataset
from nas_attn.data.entry import DataRequest, DataSource, Progress, Reading, no_progress
from nas_attn.data.pixel_range import read_range
from nas_attn.errors import DataError, NasAttnError, in_one_line
from nas_attn.validation import validate


def read_source(config: DataConfig, progress: Progress | None = None) -> ImageDataset:
    """Return the images of the data source that `config` names, in the size that its reader returns.

    Raises: DataError, in one sentence, for an unknown name, for data that is missing or damaged, and for a plug-in
        that fails.
    """
    source = data_source(config.name)
    request = DataRequest(
        path=data_path(config.name),
        image_size=config.image_size or source.default_image,
        channels=config.channels,
        root=Path(os.path.expanduser(config.root)),
        download=config.download,
        strict=config.strict,
        reading=reading_of(config),
        progress=progress or no_progress,
    )
    found = source.reader(request) if source.name in DATA.own else _read_plugin(source, request)
    return checked_dataset(found, config.name)


def stated_reading(settings: Mapping[str, Any]) -> Reading:
    """Return how image files become pixels, from settings by name, of which others are ignored.

    Raises: ConfigError or DataError for a value that cannot be understood.
    """
    stated = {name: settings[name] for name in OF_READING if settings.get(name) is not None}
    return reading_of(validate(DataConfig, stated, "the settings"))


def reading_of(config: DataConfig) -> Reading:
    """Return how image files become pixels. Raises: DataError for a range or a colour that cannot be understood."""
    return Reading(
        pixel_range=None if config.pixel_range is None else read_range(config.pixel_range),
        background=read_colour(config.background),
        frames=config.frames,
        max_pixels=config.max_pixels,
    )


def _read_plugin(source: DataSource, request: DataRequest) -> object:
    """Return what a plug-in's reader returns. Raises: DataError for whatever else it raises."""
    try:
        return source.reader(request)
    except NasAttnError:
        raise
    except Exception as error:  # somebody else's code, which may raise anything
        raise DataError(
            f"Data source '{source.name}' of {DATA.origin(source.name)} raised {type(error).__name__}: "
            f"{in_one_line(error)}."
        ) from error
