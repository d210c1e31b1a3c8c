"""Batches of training images, augmented and normalised on the device of the training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nas_attn.data.dataset import Images


def epoch_batches(
    images: Images, *, batch_size: int, augment: str, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all images once, in random order, as (float images, targets).

    The batches of an epoch differ by at most one image and have 2 to `batch_size` images. So no image is dropped, and
    no batch is too small for batch normalisation. All random numbers come from the CPU's `generator`.

    Shape: (B, C, H, W) float32, channels last in memory; (B,).
    """
    order = torch.randperm(len(images), generator=generator).to(images.pixels.device)
    scale = Scale.of(images)
    parts = order.tensor_split(n_batches(len(images), batch_size))
    if augment == "none":
        for index in parts:
            yield scale(images.take(index)), images.targets[index.to(images.device)]
        return
    tops, lefts, mirrored = _draw(images, augment, generator)
    start = 0
    for index in parts:
        drawn = slice(start, start + len(index))
        start += len(index)
        pixels = crop(images.take(index), tops[drawn], lefts[drawn], mirrored[drawn])
        yield scale(pixels), images.targets[index.to(images.device)]


def ordered_batches(images: Images, *, batch_size: int) -> Iterator[Tensor]:
    """Return an iterator over all images as floats, in their order, without augmentation. Shape: (B, C, H, W) each."""
    scale = Scale.of(images)
    parts = (slice(start, start + batch_size) for start in range(0, len(images), batch_size))
    return (scale(images.take(part)) for part in parts)


def n_batches(n_images: int, batch_size: int) -> int:
    """Return the number of batches per epoch."""
    return max(1, min(-(-n_images // batch_size), n_images // 2))


@dataclass(frozen=True)
class Scale:
    """Converts uint8 pixels to floats with the mean 0 and the standard deviation 1 of their data set.

    Its numbers are copied to the device once, not once per batch.

    Shape: shift and factor (C, 1, 1).
    """

    shift: Tensor
    factor: Tensor

    @classmethod
    def of(cls, images: Images) -> Scale:
        """Return the scale of some images, on the device of their batches."""
        channels, device = images.pixels.shape[1], images.device
        mean = torch.tensor(images.mean, dtype=torch.float32, device=device).expand(channels)[:, None, None]
        std = torch.tensor(images.std, dtype=torch.float32, device=device).expand(channels)[:, None, None]
        return cls(255 * mean, 1 / (255 * std))

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return a batch of pixels as floats. Shape: (B, C, H, W) uint8 -> float32."""
        return pixels.float().sub_(self.shift).mul_(self.factor)


def crop(pixels: Tensor, tops: Tensor, lefts: Tensor, mirrored: Tensor) -> Tensor:
    """Return each image shifted by its own offset within a black border, and mirrored if requested.

    Args:
        tops, lefts: Offsets (B,) into the image with a border of an eighth of its size (at least 1) on each side.
        mirrored: Mask (B,) of the images to mirror left to right, after the crop.

    Shape: (B, C, H, W) uint8 -> the same; one gather per batch.
    """
    n, channels, height, width = pixels.shape
    top, left = border(height), border(width)
    framed = pixels.new_zeros(n, height + 2 * top, width + 2 * left, channels)
    framed[:, top : top + height, left : left + width] = pixels.permute(0, 2, 3, 1)
    across = torch.arange(width, device=pixels.device)
    columns = lefts[:, None] + torch.where(mirrored[:, None], across.flip(0), across)  # (B, W)
    rows = tops[:, None] + torch.arange(height, device=pixels.device)  # (B, H)
    rows = (
        rows + torch.arange(n, device=pixels.device)[:, None] * framed.shape[1]
    )  # as if all images were stacked vertically
    flat = rows[:, :, None] * framed.shape[2] + columns[:, None, :]  # (B, H, W)
    return framed.view(-1, channels)[flat.view(-1)].view(n, height, width, channels).permute(0, 3, 1, 2)


def border(size: int) -> int:
    """Return the width of the border of a crop: an eighth of the image."""
    return max(1, size // 8)


def _draw(images: Images, augment: str, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the offsets of a whole epoch, and the mask of mirrored images."""
    n, device = len(images), images.device
    height, width = images.pixels.shape[2:]
    tops = torch.randint(2 * border(height) + 1, (n,), generator=generator)
    lefts = torch.randint(2 * border(width) + 1, (n,), generator=generator)
    mirrored = torch.rand(n, generator=generator) < (0.5 if augment == "crop-flip" else 0.0)
    return tops.to(device), lefts.to(device), mirrored.to(device)
