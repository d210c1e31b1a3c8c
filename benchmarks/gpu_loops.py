"""Training loops to compare with on a GPU: PyTorch's tutorials', timm's, and one in the manner of airbench.

Each function trains ResNet-18 for 32x32 images and returns the median seconds per epoch, without the first one, which
warms up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from nas_attn.config import Recipe
from nas_attn.data.dataset import Images
from nas_attn.training.batches import crop
from nas_attn.training.loop import MOMENTUM, train

Batches = Iterable[tuple[Tensor, Tensor]]
LR, WEIGHT_DECAY = 0.1, 5e-4


def ours(
    model: nn.Module, images: Images, device: str, *, augment: str, batch: int, epochs: int, compile: str = "no"
) -> float:
    """Our loop."""
    recipe = Recipe(batch_size=batch, augment=augment, compile=compile)  # type: ignore[arg-type]  # of their literals
    facts = train(
        *(model, images, None, recipe),
        seed=0,
        epochs=epochs,
        device=device,
        report=lambda *_: None,
        num_classes=10,
    )
    return facts["seconds_per_epoch"]


def tutorial(model: nn.Module, dataset: Dataset[Any], device: str, *, batch: int, epochs: int, loaders: int) -> float:
    """The loop of PyTorch's tutorials with bf16 autocast, worker processes and pinned memory."""
    loader = DataLoader(
        dataset,
        batch_size=batch,
        shuffle=True,
        num_workers=loaders,
        persistent_workers=loaders > 0,
        pin_memory=device == "cuda",
        drop_last=True,
    )
    return _timed(model, lambda: _moved(loader, device), device, epochs, autocast=True)


def timm_loop(model: nn.Module, images: Images, device: str, *, batch: int, epochs: int, loaders: int) -> float:
    """The loop of timm's training script: its loader with its transforms and its prefetcher, bf16 autocast."""
    from timm.data import create_loader

    loader = create_loader(
        _Pictures(images),
        input_size=(3, *images.pixels.shape[-2:]),
        batch_size=batch,
        is_training=True,
        scale=(0.8, 1.0),
        hflip=0.5,
        color_jitter=0.0,
        mean=images.mean,
        std=images.std,
        num_workers=loaders,
        persistent_workers=loaders > 0,
        device=torch.device(device),
    )
    return _timed(model, lambda: loader, device, epochs, autocast=True)


def airbench_loop(model: nn.Module, images: Images, device: str, *, batch: int, epochs: int) -> float:
    """The manner of airbench (K. Jordan, 2024): bf16 images and weights on the device, augmented by epoch."""
    images = images.to(device)
    shift, scale = (torch.tensor(numbers, device=device)[:, None, None] for numbers in (images.mean, images.std))
    model = model.to(device, torch.bfloat16)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()

    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        n, size = len(images), images.pixels.shape[-1]
        tops, lefts = torch.randint(2 * (size // 8) + 1, (2, n), device=device)
        augmented = crop(images.pixels, tops, lefts, torch.rand(n, device=device) < 0.5)
        ready = augmented.float().div_(255).sub_(shift).div_(scale).to(torch.bfloat16)
        for index in torch.randperm(n, device=device).split(batch)[: n // batch]:
            yield ready[index].contiguous(memory_format=torch.channels_last), images.targets[index]

    return _timed(model, epoch, device, epochs, autocast=False)


class _Pictures(Dataset[tuple[Any, int]]):
    """PIL images for a loader that sets their transform."""

    def __init__(self, images: Images) -> None:
        from PIL import Image

        self.pictures = [Image.fromarray(image) for image in images.pixels.permute(0, 2, 3, 1).numpy()]
        self.targets = images.targets.tolist()
        self.transform: Callable[[Any], Any] = lambda picture: picture

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        return self.transform(self.pictures[number]), self.targets[number]


def _moved(batches: Batches, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    for inputs, targets in batches:
        yield inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def _timed(model: nn.Module, batches: Callable[[], Batches], device: str, epochs: int, *, autocast: bool) -> float:
    """Return the median seconds of the epochs after the first one."""
    model = model.to(device).to(memory_format=torch.channels_last).train()
    fused = device == "cuda" or None
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LR, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY, fused=fused
    )
    criterion = nn.CrossEntropyLoss()
    seconds = []
    for _ in range(epochs):
        start = time.perf_counter()
        loss = torch.zeros(())
        for inputs, targets in batches():
            with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast and device == "cuda"):
                logits = model(inputs.contiguous(memory_format=torch.channels_last))
                loss = criterion(logits.float(), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        float(loss.detach())  # waits for the device
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:] or seconds)
