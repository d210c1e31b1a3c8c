"""Images per second of the training loop beside a plain PyTorch loop with a DataLoader, and the cost of a report.

    python benchmarks/training.py [--repeats 7] [--threads 1 2] [--clock wall]

Both sides train the same network from the same weights on the same images with the same optimiser, alternately; each
row is the median over the rounds. The peers, from the plainest to the strongest:

- `DataLoader`: a shuffling DataLoader without worker processes, over normalised floats (without
  augmentation), or over PIL images and torchvision's transforms (with it). What most scripts do.
- `+ channels_last`: the same, with the network and its inputs in channels_last.
- `+ 1 worker`: in addition, one worker process that reads ahead (only with augmentation; otherwise there is nothing to
  read).

`--clock cpu` counts the processor's time of the whole call, set-up included, instead of the wall's per epoch: on one
thread, that is comparable also on a machine that others use. It leaves out the row with a worker process.

The cost of a report is the time of an epoch's validation minus its bare forward pass, as a share of the training epoch.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms

from nas_attn.config import DataConfig, Recipe
from nas_attn.data.dataset import Images, load_data
from nas_attn.model.build import build_model
from nas_attn.placement import Placement
from nas_attn.training.loop import MOMENTUM, train

BACKBONE = {"name": "densenet", "growth_rate": 8, "block_config": [4, 4, 4]}
EPOCHS = 2


@dataclass(frozen=True)
class Case:
    """One workload: training images, validation images and the settings of the training."""

    title: str
    images: Images
    validation: Images
    recipe: Recipe


class Pictures(Dataset[tuple[Tensor, int]]):
    """PIL images with torchvision's transforms, as in a training script."""

    def __init__(self, images: Images) -> None:
        size = images.pixels.shape[-1]
        self.pictures = [Image.fromarray(image) for image in images.pixels.permute(0, 2, 3, 1).numpy()]
        self.targets = images.targets.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(size, padding=size // 8),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(images.mean, images.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[number]), self.targets[number]


def cases() -> Iterator[Case]:
    """Yield the default job's training, and one on colour images with augmentation."""
    digits = load_data(DataConfig(split=(0.3, 0.2, 0.5)))
    yield Case("digits 8x8, 539 images, batch 32", digits.train, digits.val, Recipe())
    generator = np.random.default_rng(0)
    pixels = torch.from_numpy(generator.integers(0, 256, (192, 32, 32, 3), dtype=np.uint8)).permute(0, 3, 1, 2)
    noise = Images(pixels, torch.arange(192) % 10, (0.5,) * 3, (0.29,) * 3)
    yield Case("colour 32x32, 192 images, batch 32, crop-flip", noise, noise, Recipe(augment="crop-flip"))


def ours(model: nn.Module, case: Case) -> float:
    """Return the seconds per epoch of our loop."""
    facts = train(
        model, case.images, None, case.recipe,
        seed=0, epochs=EPOCHS, device="cpu", report=lambda *_: None, num_classes=10,
    )  # fmt: skip
    return facts["seconds_per_epoch"]


def plain(model: nn.Module, case: Case, *, channels_last: bool = False, workers: int = 0) -> float:
    """Return the seconds per epoch of the loop in PyTorch's tutorials."""
    images, recipe = case.images, case.recipe
    if recipe.augment == "none":
        floats = (images.pixels.float().div(255) - images.mean[0]) / images.std[0]
        dataset: Dataset = TensorDataset(floats.contiguous(), images.targets)
    else:
        dataset = Pictures(images)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    loader = DataLoader(
        dataset, batch_size=recipe.batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    model = model.to(memory_format=layout).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=MOMENTUM, nesterov=True, weight_decay=recipe.weight_decay
    )
    criterion = nn.CrossEntropyLoss()
    seconds = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        for inputs, targets in loader:
            loss = criterion(model(inputs.contiguous(memory_format=layout)), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def report_cost(model: nn.Module, case: Case) -> float:
    """Return the time of validation and report minus the bare forward pass, as a share of the training epoch."""
    reports: list[float] = []
    facts = train(
        model, case.images, case.validation, case.recipe,
        seed=0, epochs=EPOCHS + 1, device="cpu", report=lambda *_: reports.append(time.perf_counter()), num_classes=10,
    )  # fmt: skip
    validation = case.validation
    floats = (validation.pixels.float().div(255) - validation.mean[0]) / validation.std[0]
    batches = floats.contiguous(memory_format=torch.channels_last).split(512)
    model.eval()
    bare = []
    with torch.inference_mode():
        for _ in range(EPOCHS):
            start = time.perf_counter()
            for batch in batches:
                model(batch)
            bare.append(time.perf_counter() - start)
    return (facts["seconds_per_validation"] - median(bare)) / facts["seconds_per_epoch"]


def measure(case: Case, repeats: int, clock: str) -> None:
    """Print one table: every repeat measures every contender once.

    Args:
        clock: `wall` or `cpu`.
    """
    channels, size = case.images.pixels.shape[1], case.images.pixels.shape[-1]
    net = build_model(BACKBONE, Placement(), num_classes=10, in_channels=channels, image_size=size, seed=0)
    contenders: dict[str, Callable[[nn.Module, Case], float]] = {
        "ours": ours,
        "DataLoader": plain,
        "+ channels_last": lambda model, case: plain(model, case, channels_last=True),
    }
    if case.recipe.augment != "none" and clock == "wall":
        contenders["+ 1 worker"] = lambda model, case: plain(model, case, channels_last=True, workers=1)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    costs = []
    for _ in range(repeats):
        for name, contender in contenders.items():
            model, begun = copy.deepcopy(net), time.process_time()
            found = contender(model, case)
            seconds[name].append(found if clock == "wall" else (time.process_time() - begun) / EPOCHS)
        costs.append(report_cost(copy.deepcopy(net), case))
    print(f"\n{case.title}, threads: {torch.get_num_threads()}, {clock}, median (range) of {repeats} rounds")
    for name, measured in seconds.items():
        rates = sorted(len(case.images) / value for value in measured)
        ratio = median(theirs / own for theirs, own in zip(measured, seconds["ours"], strict=True))
        shown = f"{median(rates):8,.0f} images/s ({rates[0]:,.0f} to {rates[-1]:,.0f})"
        print(f"  {name:<16} {shown:<40} ours is {ratio:.2f} x as fast")
    print(f"  a report adds {median(costs):.1%} of an epoch ({min(costs):.1%} to {max(costs):.1%}), goal: at most 3 %")


def main() -> None:
    """Measure every case with each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    options = parser.parse_args()
    for threads in options.threads:
        torch.set_num_threads(threads)
        for case in cases():
            measure(case, options.repeats, options.clock)


if __name__ == "__main__":
    main()
