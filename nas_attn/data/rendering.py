"""How a network's training images became pixels: stored with the network, so that a new image is read the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_attn.data.appearance import Colour, Deep, Picture
from nas_attn.data.collection import resized_image
from nas_attn.data.entry import Reading
from nas_attn.data.pixel_range import EIGHT_BITS, Bounds, Range, bounds_of, in_words, scaled
from nas_attn.errors import DataError

_SIXTEEN_BITS: Range = (0, 65535)
_FRACTIONS = 2
"""Upper end of a range up to which its values are of the size of fractions."""


@dataclass(frozen=True)
class Rendering:
    """How image files became pixels.

    Args:
        deep_range: Values that became black and white in images of more than 8 bits or of floating point; None where
            nobody knows: whole numbers are then read as 16 bits, and floating values are refused.
        range: The same of images of 8 bits.
        background: Red, green and blue behind transparent images.
    """

    deep_range: Range | None = None
    range: Range = EIGHT_BITS
    background: Colour = (255, 255, 255)

    @property
    def reading(self) -> Reading:
        """The settings by which files are read."""
        return Reading(pixel_range=None if self.range == EIGHT_BITS else self.range, background=self.background)

    def to_dict(self) -> dict[str, list[float] | None]:
        """Return the rendering as plain JSON."""
        deep = None if self.deep_range is None else list(self.deep_range)
        return {"deep_range": deep, "range": list(self.range), "background": list(self.background)}

    def pixels_of(self, picture: Picture, name: str, size: int | None = None) -> NDArray[np.uint8]:
        """Return a picture as the training images were rendered.

        Args:
            name: What the picture is, for messages.
            size: Height and width that it is resized to; None keeps its own.
        Shape: (H, W, 1) for a grey picture, otherwise (H, W, 3).
        Raises: DataError for values without a known range, or far outside of it.
        """
        content = picture.content
        if isinstance(content, Deep):
            pixel_range = self._range_of(content.bounds, name)
            return (content if size is None else content.resized(size)).scaled(pixel_range, self.background)
        pixels = np.asarray(content if size is None else resized_image(content, size))
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def pixels_of_numbers(self, values: NDArray[Any], name: str) -> NDArray[np.uint8]:
        """Return an array of whole numbers, of any shape, as the training images were rendered.

        Raises: DataError for values without a known range, or far outside of it.
        """
        return scaled(values, *self._range_of(bounds_of(values, whole=True), name))

    def pixels_of_floats(self, values: NDArray[Any], name: str) -> NDArray[np.float32] | None:
        """Return floating values of the training images' range between 0 and 1; None if it is not known to be theirs.

        Values from 0 to 1 are fractions, unless the training images have floating values of a range of that size.
        Raises: DataError for values far outside of the range.
        """
        if self.deep_range in (None, EIGHT_BITS) or not values.size or not np.isfinite(values).all():
            return None
        low, high = self.deep_range
        bounds = bounds_of(values, whole=False)
        if high > _FRACTIONS and bounds.low >= 0 and bounds.high <= 1:
            return None
        self._range_of(bounds, name)
        fractions: NDArray[np.float32] = np.clip((values.astype(np.float32) - low) / (high - low), 0, 1)
        return fractions

    def _range_of(self, bounds: Bounds, name: str) -> Range:
        """Return the range of a picture of more than 8 bits."""
        shown = in_words((bounds.low, bounds.high))
        if self.deep_range is None:
            if bounds.whole and bounds.low >= 0 and bounds.high <= _SIXTEEN_BITS[1]:
                return _SIXTEEN_BITS
            raise DataError(
                f"{name} has values of {shown} that are not of 8 or 16 bits, and the network's file states no range "
                "for them: convert it to 8 bits as the training images were."
            )
        low, high = self.deep_range
        if not bounds.whole and self.deep_range == EIGHT_BITS and 0 < bounds.high <= 1:
            raise DataError(
                f"{name} has floating values of {shown}, but the training images have {in_words(EIGHT_BITS)}: multiply "
                "by 255, or convert it to 8 bits."
            )
        if bounds.low < low - (high - low) or bounds.high > high + (high - low):
            raise DataError(
                f"{name} must have values like the training images, {in_words(self.deep_range)}, but has values of "
                f"{shown}: convert it to their range."
            )
        return self.deep_range


AS_BEFORE = Rendering()
"""The rendering of networks whose file states none."""
