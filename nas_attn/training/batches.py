"""Batches of training images, augmented and normalised on the device of the training."""

from __future__ import annotations

from collections.abc import Iterator

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
    mean, std = normalisation(images)
    parts = order.tensor_split(n_batches(len(images), batch_size))
    if augment == "none":
        for index in parts:
            yield _scaled(images.take(index), mean, std), images.targets[index.to(images.device)]
        return
    tops, lefts, mirrored = _draw(images, augment, generator)
    start = 0
    for index in parts:
        drawn = slice(start, start + len(index))
        start += len(index)
        pixels = crop(images.take(index), tops[drawn], lefts[drawn], mirrored[drawn])
        yield _scaled(pixels, mean, std), images.targets[index.to(images.device)]


def n_batches(n_images: int, batch_size: int) -> int:
    """Return the number of batches per epoch."""
    return max(1, min(-(-n_images // batch_size), n_images // 2))


def normalisation(images: Images) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel on the batches' device. Shape: both (C, 1, 1)."""
    channels = images.pixels.shape[1]
    device = images.device
    mean = torch.tensor(images.mean, dtype=torch.float32, device=device).expand(channels)
    std = torch.tensor(images.std, dtype=torch.float32, device=device).expand(channels)
    return mean[:, None, None], std[:, None, None]


def normalised(images: Images, index: Tensor | slice) -> Tensor:
    """Return the selected images as floats with mean 0 and standard deviation 1. Shape: (B, C, H, W)."""
    return _scaled(images.take(index), *normalisation(images))


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


def _scaled(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return uint8 pixels as normalised floats."""
    return pixels.float().sub_(255 * mean).mul_(1 / (255 * std))
