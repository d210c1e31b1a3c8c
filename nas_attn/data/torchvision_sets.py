"""The data sets of torchvision, each with its own test part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nas_attn.data.arrays import ImageDataset, LabelledImages
from nas_attn.data.entry import DataRequest, Reader
from nas_attn.errors import DataError


def _reader(name: str, folder: str) -> Reader:
    """Return the reader of one class of `torchvision.datasets`.

    Args:
        folder: Where the class looks for its files below the root.
    """

    def read(request: DataRequest) -> ImageDataset:
        import torchvision

        build: Callable[..., Any] = getattr(torchvision.datasets, name)
        try:
            halves = {
                part: build(str(request.root), train=part == "train", download=request.download)
                for part in ("train", "test")
            }
        except Exception as error:  # missing, wrong checksum, damaged, no network: each raises another class
            raise DataError(_failure(name, folder, request, error)) from None
        parts = {part: _part(half) for part, half in halves.items()}
        return ImageDataset(tuple(map(str, halves["train"].classes)), parts)

    return read


read_mnist = _reader("MNIST", "MNIST/raw")
read_fashion_mnist = _reader("FashionMNIST", "FashionMNIST/raw")
read_cifar10 = _reader("CIFAR10", "cifar-10-batches-py")
read_cifar100 = _reader("CIFAR100", "cifar-100-python")


def _failure(name: str, folder: str, request: DataRequest, error: Exception) -> str:
    """Return the sentence on a data set that could not be read or downloaded."""
    place = (request.root / folder).absolute()
    reason = next(iter(str(error).splitlines()), type(error).__name__).partition(" You can use download")[0]
    if request.download:
        return f"{name} could not be downloaded to {request.root.absolute()}: {reason}"
    if place.exists():
        return f"{name} is incomplete or damaged in {place} ({reason}): download it with --download."
    return f"{name} was not found in {place}: name its folder with --data-root, or download it with --download."


def _part(half: Any) -> LabelledImages:
    """Return the arrays of a torchvision data set: its grey images are a tensor, its colour ones an array."""
    pixels = np.asarray(half.data, np.uint8)
    return LabelledImages(pixels[..., None] if pixels.ndim == 3 else pixels, np.asarray(half.targets, np.int64))
