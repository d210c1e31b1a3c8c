"""The training of one arm with several seeds at once: their weights are stacked, and each step runs once for all.

A small network leaves a GPU idle between its kernels. With K seeds stacked by `torch.func`, each kernel computes K
networks. Each seed keeps its own weights, statistics, order of the images and augmentation, so that it trains as it
would alone, up to the rounding of other kernels.

Cost: K times the memory of one training. On one core of a CPU it takes 1.1 to 1.5 times as long as one after the other.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from nas_attn.config import Recipe
from nas_attn.data.dataset import Images
from nas_attn.errors import TrialFailed, in_plain_words
from nas_attn.model.tasks import LABEL_KINDS
from nas_attn.training.auxiliary import auxiliary_loss
from nas_attn.training.batches import Scale, epoch_batches, n_batches
from nas_attn.training.loop import (
    is_out_of_memory,
    learning_rate,
    make_optimizer,
    precision,
    require_finite,
    take_step,
)
from nas_attn.training.onednn import matrix_products
from nas_attn.training.state import other_generators_kept
from nas_attn.training.values import value_of

SeedReport = Callable[[int, int, float], None]
"""Takes the seed, the epoch and the value."""

_PROBED_IMAGES = 4
_PROBED_STEPS = 2
_TOLERANCE = 1e-6
_RANDOM = "random operation"  # in the message of torch.vmap


class CannotStack(Exception):
    """The seeds of an arm cannot be trained as one; the message is the reason."""


def train_seeds(
    models: Sequence[nn.Module],
    images: Images,
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    epochs: int,
    device: str | torch.device,
    num_classes: int,
    metric: str | None = None,
    report: SeedReport = lambda seed, epoch, value: None,
) -> list[dict[str, float] | TrialFailed]:
    """Train the networks of one arm in place as one; return what was measured of each seed, or why it failed.

    Args:
        models: One network per seed, equal but for their weights.
        images, recipe, epochs, device, num_classes, metric: As for `nas_attn.training.loop.train`, without validation
            images.
        seeds: Seed of the order of the images and of the augmentation, per network.
        report: Called with seed, epoch and value, after each epoch.
    Raises: CannotStack with the reason; the networks have their weights still.
    """
    device = torch.device(device)
    images = images.to(device)
    try:
        refuse(models, images, recipe, num_classes)
        with matrix_products(models[0]) if device.type == "cpu" else nullcontext():
            return Stack(models, images, recipe, num_classes).train(seeds, epochs, report, metric)
    except CannotStack:
        raise
    except Exception as error:  # of vmap, for an operation that only whole batches reach, or bf16
        if is_out_of_memory(error):
            reason = f"The memory of {device} does not hold {len(models)} trainings at once."
            raise CannotStack(reason) from error
        raise CannotStack(f"The network cannot be stacked: {in_plain_words(error)}") from error


class Stack:
    """The stacked weights, statistics and optimiser of several networks.

    Args:
        models: They are moved to the device of the images; their weights change only by `unstack`.
    """

    def __init__(self, models: Sequence[nn.Module], images: Images, recipe: Recipe, num_classes: int) -> None:
        self._models, self._images, self._recipe = models, images, recipe
        for model in models:
            model.to(images.device).train()
        self.parameters, self.buffers = stack_module_state(list(models))  # copies
        self.criterion = LABEL_KINDS[images.task].criterion(images.targets, recipe, num_classes)
        self._optimizer = self._made_optimizer(num_classes)
        self._forward: Callable[..., tuple[Tensor, Tensor]] = torch.vmap(self._one, randomness="error")

    def train(
        self, seeds: Sequence[int], epochs: int, report: SeedReport, metric: str | None = None
    ) -> list[dict[str, float] | TrialFailed]:
        """Train all networks, and write their weights back; one that diverges fails alone."""
        n_images, steps = len(self._images), n_batches(len(self._images), self._recipe.batch_size)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        failures: dict[int, TrialFailed] = {}
        losses, seconds = [0.0] * len(seeds), []
        for epoch in range(1, epochs + 1):
            start = time.perf_counter()
            rates = (
                learning_rate((epoch - 1) * steps + step, epochs * steps, self._recipe.lr) for step in range(steps)
            )
            losses, logits, targets = self._epoch(generators, rates)
            seconds.append(time.perf_counter() - start)
            for index, seed in enumerate(seeds):
                try:
                    if index not in failures:
                        require_finite("loss", losses[index], epoch, epochs)
                        report(seed, epoch, value_of(metric, logits[index], targets[index]))
                except TrialFailed as error:
                    failures[index] = error
            if len(failures) == len(seeds):
                break
        self.unstack()
        share = median(seconds) / len(seeds)
        facts = {"seconds_per_epoch": share, "images_per_second": n_images / share}
        return [failures.get(index) or {"train_loss": loss, **facts} for index, loss in enumerate(losses)]

    def step(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Train each network on its batch; return logits and losses before the step.

        Shape: (K, B, C, H, W), (K, B) or (K, B, labels) -> (K, B, logits), (K,).
        """
        self._optimizer.zero_grad(set_to_none=True)
        with precision(inputs.device):
            logits, losses = self._forward(self.parameters, self.buffers, inputs, targets)
        torch.autograd.backward(losses.sum())  # a network's loss has no part in the gradients of another
        self._optimizer.step()
        return logits.detach(), losses.detach()

    def unstack(self) -> None:
        """Write weights and statistics into the networks."""
        state = self.state
        with torch.no_grad():
            for index, model in enumerate(self._models):
                for name, value in (*model.named_parameters(), *model.named_buffers()):
                    value.copy_(state[name][index])

    @property
    def state(self) -> dict[str, Tensor]:
        """Weights and statistics by name, each with the networks as its first dimension."""
        return self.parameters | self.buffers

    def _one(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return logits and loss of one network."""
        model = self._models[0]
        logits = functional_call(model, (parameters, buffers), (inputs,))
        return logits, self.criterion(logits, targets) + auxiliary_loss(model, targets, self.criterion)

    def _epoch(
        self, generators: Sequence[torch.Generator], rates: Iterator[float]
    ) -> tuple[list[float], Tensor, Tensor]:
        """Train one epoch; return the mean loss of each network, and logits and targets of all its batches."""
        recipe = self._recipe
        loss_sum: Tensor | float = 0.0
        seen: list[tuple[Tensor, Tensor]] = []
        streams = [
            epoch_batches(self._images, batch_size=recipe.batch_size, augment=recipe.augment, generator=generator)
            for generator in generators
        ]
        for batches, rate in zip(zip(*streams, strict=True), rates, strict=True):
            for group in self._optimizer.param_groups:
                group["lr"] = rate * group["share"]
            targets = torch.stack([batch[1] for batch in batches])
            logits, losses = self.step(torch.stack([batch[0] for batch in batches]), targets)
            loss_sum = loss_sum + losses * targets.shape[1]
            seen.append((logits, targets))
        assert isinstance(loss_sum, Tensor), "an epoch has at least one batch"
        logits, targets = (torch.cat(part, dim=1) for part in zip(*seen, strict=True))
        return (loss_sum / len(self._images)).tolist(), logits, targets

    def _made_optimizer(self, num_classes: int) -> torch.optim.Optimizer:
        """Return the optimiser of the first network with the stacked weights in the place of its own."""
        first = self._models[0]
        optimizer = make_optimizer(first, self._recipe, num_classes=num_classes)
        names = {id(parameter): name for name, parameter in first.named_parameters()}
        for group in optimizer.param_groups:
            group["params"] = [self.parameters[names[id(parameter)]] for parameter in group["params"]]
        return optimizer


def refuse(models: Sequence[nn.Module], images: Images, recipe: Recipe, num_classes: int) -> None:
    """Refuse networks that would not train as one as they do alone.

    Two steps of two copies in float64, stacked and alone, must end with equal losses, weights and statistics.

    Args:
        images: On the device of the training.
    Raises: CannotStack with the reason.
    """
    if len(models) < 2:
        raise CannotStack("There is only one seed.")
    if recipe.freeze_epochs:
        raise CannotStack("The backbone is frozen at the beginning, so that the weights that are trained change.")
    if recipe.compile != "no":
        raise CannotStack("The network is compiled.")
    try:
        with other_generators_kept():
            different = _difference(models[:2], images, recipe, num_classes)
    except Exception as error:  # of vmap, for code of others: random numbers, a branch on a value
        if is_out_of_memory(error):
            raise
        words = in_plain_words(error)
        if _RANDOM in words:
            raise CannotStack("The network draws random numbers in training, such as for dropout.") from error
        raise CannotStack(f"The network cannot be stacked: {words}") from error
    if different:
        raise CannotStack(f"The seeds would not train as they do alone: {different} differs.")


def _difference(models: Sequence[nn.Module], images: Images, recipe: Recipe, num_classes: int) -> str:
    """Return what differs after some steps, stacked and alone; empty if nothing does."""
    few = images.first(_PROBED_IMAGES)
    batch = Scale.of(few)(few.take(slice(None))).double()
    inputs, targets = torch.stack([batch, batch.flip(0)]), torch.stack([few.targets, few.targets.flip(0)])
    alone = [copy.deepcopy(model).to(images.device).double().train() for model in models]
    stacked = copy.deepcopy(alone)
    stack = Stack(stacked, images, recipe, num_classes)
    stack.criterion.double()
    together = torch.stack([stack.step(inputs, targets)[1] for _ in range(_PROBED_STEPS)], dim=1)
    for index, model in enumerate(alone):
        optimizer = make_optimizer(model, recipe, num_classes=num_classes)
        step = partial(take_step, model, inputs[index], targets[index], stack.criterion, optimizer)
        if not _are_close(together[index], torch.stack([step()[1] for _ in range(_PROBED_STEPS)])):
            return "the loss"
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if not _are_close(stack.state[name][index], value):
                return f"'{name}'"
    stack.unstack()
    with torch.inference_mode():  # what a network keeps outside of its parameters and buffers shows here
        logits = [[model.eval()(batch) for model in models] for models in (stacked, alone)]
    return "" if all(map(_are_close, *logits)) else "what the trained network predicts"


def _are_close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
