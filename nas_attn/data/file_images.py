"""From image files with labels to a data set: the common end of every reader of files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas_attn.data.arrays import PARTS, ImageDataset, Labels
from nas_attn.data.decode import ImageFile, decode_cached
from nas_attn.data.entry import DataRequest


def dataset_of_files(
    request: DataRequest,
    files: Sequence[ImageFile],
    class_names: tuple[str, ...],
    labels: Labels,
    notes: Sequence[str] = (),
) -> ImageDataset:
    """Return the files as a data set, decoded in the requested size.

    Args:
        labels: Of each file. Shape: (N,) class numbers, or (N, K) of 0 and 1.
        notes: Sentences that the user should read before those on the files.
    Raises: DataError as `decode_cached` does.
    """
    assert request.image_size is not None, "the record of the source states a default size"
    decoded, more = decode_cached(
        request.path,
        files,
        request.image_size,
        channels=request.channels,
        reading=request.reading,
        strict=request.strict,
        progress=request.progress,
    )
    images = decoded.labelled(labels[decoded.kept])
    part_of = np.array([file.part for file in files])[decoded.kept]
    present = [part for part in PARTS if part in set(part_of)]
    if len(present) == 1:
        parts = {present[0]: images}
    else:
        parts = {part: images.view(np.flatnonzero(part_of == part)) for part in present}
    return ImageDataset(class_names, parts, notes=(*notes, *more), pixel_range=decoded.pixel_range)
