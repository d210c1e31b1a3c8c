"""The training of a network with shared weights, and the ranking of placements by it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas_attn.comparison.ranking import JUDGED_IMAGES, REFIT_IMAGES
from nas_attn.config import Recipe
from nas_attn.data.dataset import Data, Images
from nas_attn.model.shared_network import SharedNetwork, build_shared
from nas_attn.placement import Placement
from nas_attn.records import Paths, Task
from nas_attn.training.batches import epoch_batches
from nas_attn.training.context import TrialContext
from nas_attn.training.keeper import Keeper
from nas_attn.training.loop import Report, precision, predict, train
from nas_attn.training.values import value_of


@dataclass(frozen=True)
class Ranked:
    """A trained network with the values of the placements that it ranked, in their order."""

    model: nn.Module
    values: tuple[float, ...]
    facts: dict[str, float]

    def to_bytes(self) -> bytes:
        """Return the values as JSON."""
        return json.dumps(self.values).encode()


def train_shared(task: Task, context: TrialContext, data: Data, report: Report, keeper: Keeper) -> Ranked:
    """Train the network that a screen's task describes, and rank its placements on validation images.

    The values that are reported after each epoch are those of the training batches, each by the path that it drew.

    Raises: as `nas_attn.training.loop.train`.
    """
    assert task.paths is not None, "the task of a screen must have paths"
    model = build_shared(
        context.backbone, task.paths.decisions, context.shape, seed=task.seed, class_names=context.class_names
    )
    facts = train(
        model,
        data.train,
        None,
        context.recipe,
        seed=task.seed,
        epochs=task.epochs,
        device=context.device,
        report=report,
        num_classes=context.shape.num_classes,
        metric=next(iter(context.objectives), None),
        keeper=keeper,
    )
    values = rank(model, task.paths, data, context.recipe, metric=next(iter(context.objectives), None))
    return Ranked(model, values, facts | {"n_ranked": float(len(values))})


def rank(
    model: SharedNetwork, paths: Paths, data: Data, recipe: Recipe, *, metric: str | None = None
) -> tuple[float, ...]:
    """Return the validation value of each placement under the shared weights; its batch statistics are fitted first.

    Args:
        metric: Name of the value, see `nas_attn.training.values`; None is the usual one.
    """
    validation = _some(data.val, JUDGED_IMAGES)
    fitted = _some(data.train, REFIT_IMAGES)
    batches = [
        inputs
        for inputs, _ in epoch_batches(
            fitted, batch_size=recipe.batch_size, augment="none", generator=torch.Generator().manual_seed(0)
        )
    ]
    model.eval()

    def judged(placement: Placement) -> float:
        model.select(placement)
        refit(model, batches)
        logits = predict(model, validation)
        return value_of(metric, logits, validation.targets) if bool(logits.isfinite().all()) else 0.0

    return tuple(judged(paths.placement(numbers)) for numbers in paths.ranked)


def refit(model: nn.Module, batches: Sequence[Tensor]) -> None:
    """Set the running statistics of the batch norms that the selected path has to the means over these batches.

    During the training they mixed those of all paths, with which no path predicts well.
    """
    with _counting(model) as norms, torch.inference_mode(), precision(batches[0].device):
        for inputs in batches if norms else ():
            model(inputs)


@contextmanager
def _counting(model: nn.Module) -> Iterator[list[_BatchNorm]]:
    """Context manager: batch norms forget their statistics and take the plain mean over the batches to come."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    before = [(norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield norms
    finally:
        for norm, (momentum, was_training) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.train(was_training)


def _some(images: Images, number: int) -> Images:
    """Return as many images, drawn at random, always the same ones, or all of them if there are fewer."""
    if len(images) <= number:
        return images
    index = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:number].sort().values
    pixels = images.take(index.to(images.pixels.device))
    return replace(images, pixels=pixels, targets=images.targets[index.to(images.device)], rows=None, announce=None)
