"""Converts any image to an input of a trained network: size, channels, normalisation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nas_attn.data.appearance import picture_of, reopener
from nas_attn.data.arrays import resized, with_channels
from nas_attn.data.decode import decode_image
from nas_attn.data.deep import NotUnderstood
from nas_attn.data.entry import AS_USUAL
from nas_attn.data.pixel_range import EIGHT_BITS, scaled
from nas_attn.data.rendering import AS_BEFORE, Rendering
from nas_attn.errors import DataError

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601, as for the training images
_ROUNDING = 1e-5
"""Distance from [0, 1] that a floating image may have: a resize in float32 overshoots by rounding."""


@dataclass(frozen=True)
class Preprocess:
    """Convert images to grey or colour, resize and normalise them as the training images were.

    Files, PIL images and uint8 values are processed by the same code as the training images: files and PIL images are
    turned as their EXIF orientation says, what is transparent is shown on the background, and more than 8 bits are
    scaled by the training images' range. Floating arrays are resized by torch (bilinear, antialiased), which differs by
    rounding.

    Args:
        image_size: Height and width of the result.
        mean, std: Per channel, for pixels between 0 and 1.
        rendering: How the files of the training images became pixels.
        max_pixels: Number of pixels above which a file is not read.

    Shape: n images -> (n, len(mean), image_size, image_size). See `__call__` for what an image may be.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rendering: Rendering = AS_BEFORE
    max_pixels: int = AS_USUAL.max_pixels

    def __call__(self, images: Any) -> Tensor:
        """Return a float32 batch, also for one image.

        Args:
            images: One image, a batch, or a list of either. An image is the path of a file, a PIL image of any mode
                and size, a numpy array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W); a batch is an array
                (N, H, W, C) or a tensor (N, C, H, W). Values are uint8 (0 to 255, or the range that the run stated) or
                floating (0 to 1, or of the training images' range if that is one of floating values); an array may have
                whole numbers of the training images' range.
        Raises: DataError for anything else, and for a file that is no image.
        """
        if isinstance(images, str | np.ndarray | Tensor) or not isinstance(images, Iterable):
            return self._batch(images)
        batches = [self._batch(image) for image in images]
        if not batches:
            raise DataError("At least one image is needed, but the list of images is empty.")
        return torch.cat(batches)

    def _batch(self, image: Any) -> Tensor:
        """Return one image, or one array or tensor of several, as a batch."""
        channels, size = len(self.mean), self.image_size
        if isinstance(image, str | Path):
            pixels = decode_image(Path(image), size, self.rendering, max_pixels=self.max_pixels)
            return self._from_bytes(with_channels(pixels[None], channels))
        if hasattr(image, "convert"):
            return self._from_bytes(resized(with_channels(self._from_pil(image)[None], channels), size))
        if isinstance(image, np.ndarray):
            if image.dtype.kind in "iu" and image.dtype != np.uint8 and self.rendering.deep_range and image.size:
                image = self.rendering.pixels_of_numbers(image, "An array of images")
            image = torch.tensor(_four_axes(self._of_its_range(image), channels)).permute(0, 3, 1, 2)
        elif isinstance(image, Tensor):
            image = _four_dimensions(self._tensor_of_its_range(image), channels)
        else:
            raise DataError(
                f"Images must be paths, PIL images, numpy arrays or tensors, but got {type(image).__name__}."
            )
        if image.dtype == torch.uint8 and {image.shape[1], channels} <= {1, 3}:
            array = image.permute(0, 2, 3, 1).contiguous().cpu().numpy()
            return self._from_bytes(resized(with_channels(array, channels), size)).to(image.device)
        values = image.float() / 255 if image.dtype == torch.uint8 else _checked_range(image)
        return self._normalised(255 * _resized(_with_channels(values, channels), size))

    def _of_its_range(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return uint8 values, and floating ones of the training images' own range, scaled as those were."""
        if array.dtype == np.uint8 and self.rendering.range != EIGHT_BITS:
            return scaled(array, *self.rendering.range)
        if array.dtype.kind == "f":
            found = self.rendering.pixels_of_floats(array, "An array of images")
            return array if found is None else found
        return array

    def _tensor_of_its_range(self, tensor: Tensor) -> Tensor:
        """As `_of_its_range`, for a tensor on any device."""
        is_usual = tensor.dtype != torch.uint8 or self.rendering.range == EIGHT_BITS
        if is_usual and not (tensor.is_floating_point() and self.rendering.deep_range not in (None, EIGHT_BITS)):
            return tensor
        array = (tensor if tensor.dtype == torch.uint8 else tensor.float()).detach().cpu().numpy()
        return torch.tensor(self._of_its_range(array), device=tensor.device)

    def _from_pil(self, image: Any) -> NDArray[np.uint8]:
        """Shape: (H, W, C); C is 1 for a grey image."""
        try:
            picture = picture_of(image, self.rendering.reading, reopener(image))
        except NotUnderstood as error:
            raise DataError(f"A PIL image {error}: convert it.") from None
        return self.rendering.pixels_of(picture, "A PIL image")

    def _from_bytes(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Shape: (N, size, size, C) -> (N, C, size, size)."""
        return self._normalised(torch.tensor(pixels).permute(0, 3, 1, 2).float())

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Normalise pixels of 0 to 255 as the training loop does."""
        mean = torch.tensor(self.mean, device=pixels.device)[:, None, None]
        std = torch.tensor(self.std, device=pixels.device)[:, None, None]
        return ((pixels - 255 * mean) * (1 / (255 * std))).contiguous()


def _four_axes(array: NDArray[Any], channels: int) -> NDArray[Any]:
    """Return an array as (N, H, W, C). Raises: DataError for another shape, or another type than uint8 or floating."""
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataError(f"Images must be uint8 (0 to 255) or floating (0 to 1), but are {array.dtype}.")
    four = array[None, ..., None] if array.ndim == 2 else array[None] if array.ndim == 3 else array
    if four.ndim == 4 and _converts(four.shape[3], channels) and four.size:
        return four if array.dtype != np.float16 else four.astype(np.float32)
    hint = ""
    if four.ndim == 4 and _converts(four.shape[1], channels):
        axes = (1, 2, 0) if array.ndim == 3 else (0, 2, 3, 1)
        hint = f": put the channels last by array.transpose{axes}, or pass a tensor"
    known = _known_channels(channels)
    raise DataError(
        f"An array of images must be (H, W), (H, W, C) or (N, H, W, C) with C = {known}, but is {array.shape}{hint}."
    )


def _four_dimensions(tensor: Tensor, channels: int) -> Tensor:
    """Return a tensor as (N, C, H, W). Raises: DataError for another shape, or another type than uint8 or floating."""
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise DataError(f"Images must be uint8 (0 to 255) or floating (0 to 1), but are {tensor.dtype}.")
    four = tensor[None, None] if tensor.ndim == 2 else tensor[None] if tensor.ndim == 3 else tensor
    if four.ndim == 4 and _converts(four.shape[1], channels) and four.numel():
        return four
    hint = ""
    if four.ndim == 4 and _converts(four.shape[3], channels):
        axes = (2, 0, 1) if tensor.ndim == 3 else (0, 3, 1, 2)
        hint = f": put the channels first by tensor.permute{axes}"
    raise DataError(
        f"A tensor of images must be (H, W), (C, H, W) or (N, C, H, W) with C = {_known_channels(channels)}, "
        f"but is {tuple(tensor.shape)}{hint}."
    )


def _converts(found: int, channels: int) -> bool:
    """Return whether images of `found` channels can be converted to `channels`."""
    return found == channels or {found, channels} <= {1, 3}


def _known_channels(channels: int) -> str:
    return "1 or 3" if channels in (1, 3) else str(channels)


def _checked_range(values: Tensor) -> Tensor:
    """Return floating values as float32. Raises: DataError if one lies outside [0, 1] or is not a number."""
    values = values.float()
    low, high = (float(bound) for bound in values.aminmax())
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:  # false for NaN too
        return values
    raise DataError(
        f"Floating images must lie between 0 and 1, but these lie between {low:g} and {high:g}: divide values of 0 to "
        "255 by 255, or pass them as uint8, and do not normalise before."
    )


def _with_channels(batch: Tensor, channels: int) -> Tensor:
    if batch.shape[1] == channels:
        return batch
    if channels == 3:
        return batch.expand(-1, 3, -1, -1)
    weights = torch.tensor(_LUMINANCE, device=batch.device)[:, None, None]
    return (batch * weights).sum(dim=1, keepdim=True)


def _resized(batch: Tensor, size: int) -> Tensor:
    if batch.shape[2:] == (size, size):
        return batch
    return functional.interpolate(batch, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
