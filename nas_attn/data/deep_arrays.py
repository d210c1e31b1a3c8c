"""Arrays of images whose values are not of 8 bits: scaled by one range for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.data.pixel_range import Range, bounds_of, cut_note, find_range, in_words, n_outside, scaled
from nas_attn.errors import DataError

_BLOCK = 256


def eight_bit_arrays(
    arrays: Mapping[str, NDArray[Any]], stated: Range | None, place: str
) -> tuple[dict[str, NDArray[Any]], Range | None, tuple[str, ...]]:
    """Return the images of the parts as uint8, the range of their values, and a note on it.

    Arrays of 8 bits, and of other types than numbers, are returned as they are.

    Args:
        arrays: Images by the name of their part.
        stated: Range that the user states; None finds it.
        place: The file of the arrays, for messages.
    Raises: DataError for parts of several types, and for values that are no numbers.
    """
    types = {part: images.dtype for part, images in arrays.items()}
    if not all(kind.kind in "iuf" for kind in types.values()) or {*types.values()} == {np.dtype(np.uint8)}:
        return dict(arrays), None, ()
    if len({*types.values()}) > 1 or not all(images.size for images in arrays.values()):
        shown = ", ".join(f"{part} {kind}" for part, kind in types.items())
        raise DataError(f"All images of {place} must have one type and be there, but they are {shown}: convert them.")
    for part, images in arrays.items():
        if not np.isfinite(images).all():
            raise DataError(
                f"The images of {part} in {place} must be finite numbers, but some are NaN or infinite: replace those."
            )
    whole = types["train"].kind in "iu" if "train" in types else False
    bounds = {part: bounds_of(images, whole) for part, images in arrays.items()}
    others = [one for part, one in bounds.items() if part != "train"]
    own = len(bounds) > 1
    where = "the training images" if own else "all images, before they are split"
    chosen = find_range([bounds["train"]], others, where=where)
    ends, basis = (chosen.pair, chosen.basis) if stated is None else (stated, "as stated by --pixel-range")
    note = f"Pixel range: {in_words(ends)} for images of {types['train']} ({basis}); --pixel-range changes it."
    n_cut = sum(n_outside(images, ends) for images in arrays.values())
    notes = (note, cut_note(ends, n_cut)) if n_cut else (note,)
    return {part: _scaled(images, ends) for part, images in arrays.items()}, ends, notes


def _scaled(images: NDArray[Any], ends: Range) -> NDArray[np.uint8]:
    """Return images as uint8, scaled block by block."""
    found = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _BLOCK):
        found[start : start + _BLOCK] = scaled(images[start : start + _BLOCK], *ends)
    return found
