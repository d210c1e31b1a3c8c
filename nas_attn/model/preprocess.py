"""Converts any image to an input of a trained network: size, channels, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nas_attn.data.arrays import resized, with_channels
from nas_attn.errors import DataError

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601, as for the training images


@dataclass(frozen=True)
class Preprocess:
    """Convert images to grey or colour, resize and normalise them as the training images were.

    uint8 images are processed by the same code as the training images; floating ones are resized by torch (bilinear,
    antialiased), which differs by rounding.

    Args:
        image_size: Height and width of the result.
        mean, std: Per channel, for pixels between 0 and 1.

    Shape: (N, C, H, W), (C, H, W), a PIL image, or a sequence of PIL images -> (N, len(mean), size, size).
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Any) -> Tensor:
        """Return a float32 batch, also for one image.

        Args:
            images: uint8 tensors of 0 to 255, floating ones of 0 to 1, or PIL images of any mode and size.
        Raises: DataError for anything that is not an image.
        """
        channels, size = len(self.mean), self.image_size
        if not isinstance(images, Tensor):
            pixels = [resized(with_channels(one, channels), size) for one in _pil_arrays(images)]
            return self._normalised(torch.from_numpy(np.concatenate(pixels)).permute(0, 3, 1, 2).float())
        batch = images[None] if images.ndim == 3 else images
        found = batch.shape[1] if batch.ndim == 4 else 0
        if found != channels and not {found, channels} <= {1, 3}:
            raise DataError(f"Images must be (N, C, H, W) or (C, H, W) with C = 1 or 3, but are {tuple(images.shape)}.")
        if batch.dtype == torch.uint8:
            array = batch.permute(0, 2, 3, 1).contiguous().cpu().numpy()
            whole = torch.from_numpy(resized(with_channels(array, channels), size)).to(batch.device)
            return self._normalised(whole.permute(0, 3, 1, 2).float())
        if not batch.is_floating_point():
            raise DataError(f"Images must be uint8 (0 to 255) or floating (0 to 1), but are {batch.dtype}.")
        return self._normalised(255 * _resized(_with_channels(batch.float(), channels), size))

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Normalise pixels of 0 to 255 as the training loop does."""
        mean = torch.tensor(self.mean, device=pixels.device)[:, None, None]
        std = torch.tensor(self.std, device=pixels.device)[:, None, None]
        return ((pixels - 255 * mean) * (1 / (255 * std))).contiguous()


def _pil_arrays(images: Any) -> list[NDArray[np.uint8]]:
    """Return PIL images as arrays (1, H, W, C); C is 1 for grey images."""
    many = list(images) if isinstance(images, Sequence) else [images]
    if not many or not all(hasattr(image, "convert") for image in many):
        raise DataError(f"Images must be tensors or PIL images, but got {type(images).__name__}.")
    return [_pil_array(image) for image in many]


def _pil_array(image: Any) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 16-bit grey: PIL's own conversion clips values above 255
        wide = np.asarray(image).astype(np.int64)
        return np.clip((wide + 128) // 257, 0, 255).astype(np.uint8)[None, ..., None]
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))[None, ..., None]
    return np.asarray(image.convert("RGB"))[None]


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
