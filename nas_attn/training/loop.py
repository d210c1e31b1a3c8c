"""The built-in training of one network: a plain loop over images on the device."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas_attn.backbones.weights import classifier_path
from nas_attn.config import Recipe
from nas_attn.data.dataset import Images
from nas_attn.errors import TrialFailed
from nas_attn.model.tasks import LABEL_KINDS, OneLabel
from nas_attn.training.auxiliary import auxiliary_loss
from nas_attn.training.batches import epoch_batches, n_batches, ordered_batches
from nas_attn.training.compiling import Forward, forward_of
from nas_attn.training.keeper import Keeper
from nas_attn.training.loop_state import LoopState
from nas_attn.training.onednn import matrix_products
from nas_attn.training.state import other_generators_kept
from nas_attn.training.values import value_of

Report = Callable[[int, float], None]

NOT_MEASURED = math.nan
"""Value that is reported after an epoch without a validation: it is no point of the curve."""

WARM_UP = 0.1
MOMENTUM = 0.9
_EVALUATED_PIXELS = 2**20  # pixels per batch in evaluation: memory stays small at any image size


def train(
    model: nn.Module,
    images: Images,
    validation: Images | None,
    recipe: Recipe,
    *,
    seed: int,
    epochs: int,
    device: str | torch.device,
    report: Report,
    num_classes: int,
    metric: str | None = None,
    keeper: Keeper | None = None,
    validated: Container[int] | None = None,
) -> dict[str, float]:
    """Train `model` in place, and return measured values of the training by name.

    On one thread of one machine, the same model and seed result in bit-equal weights, also if the training is continued
    from a checkpoint. The state of the global random generators has no influence, and is restored.

    Args:
        images: Their task determines the loss and the value; see `LABEL_KINDS`.
        validation: Images to evaluate after each epoch; None (a retraining) evaluates the training batches instead.
        recipe: Optimiser, learning rates, batch size, augmentation and loss.
        seed: Seed of the order, the augmentation and the network's own random numbers (dropout).
        epochs: Length of the schedule; each stage of a run chooses it from the recipe.
        report: Called after each epoch with (epoch counted from 1, value); may raise to stop. The value is NaN after
            an epoch that is not validated.
        num_classes: Number of logits of the network: one per class, or one for two classes.
        metric: Name of the value after each epoch, see `nas_attn.training.values`; None is the usual one.
        keeper: Saves checkpoints, and holds the one to continue from, whose curve is reported again; None does neither.
        validated: Epochs after which the validation images are evaluated, the last one among them; None for all.

    Returns: `train_loss`; `seconds_per_epoch` and `images_per_second`, medians over the epochs, without evaluation;
    `seconds_per_validation`, the median time of an evaluation.
    Raises: TrialFailed("nan") if the loss or the logits are not finite; TrialFailed("oom") if memory runs out.
    """
    device = torch.device(device)
    try:
        with _seeded(seed, device), matrix_products(model) if device.type == "cpu" else nullcontext():
            return _train(
                *(model, images, validation, recipe, seed, epochs, device, report, num_classes, metric),
                *(keeper or Keeper(), range(1, epochs + 1) if validated is None else validated),
            )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        reason = f"Out of memory on {device} at batch size {recipe.batch_size}: {cause}"
    raise TrialFailed("oom", reason)  # outside of `except`, so that the tensors of the failed step are freed


def accuracy(model: nn.Module, images: Images, *, batch_size: int | None = None) -> float:
    """Return the share of `images` that `model` classifies correctly. Units: 0 to 1."""
    return OneLabel().value(predict(model, images, batch_size=batch_size), images.targets)


def predict(model: nn.Module, images: Images, *, batch_size: int | None = None) -> Tensor:
    """Return the logits of `model` in evaluation mode; its mode is restored.

    Args:
        batch_size: Number of images per batch; None chooses it by the size of the images.

    Shape: (N, K) float32, on the images' device.
    """
    height, width = images.pixels.shape[2:]
    batch_size = batch_size or max(8, min(512, _EVALUATED_PIXELS // (height * width)))
    was_training = model.training
    batches = ordered_batches(images, batch_size=batch_size)
    model.eval()
    try:
        with torch.inference_mode(), precision(images.device):
            return torch.cat([model(batch) for batch in batches]).float()
    finally:
        model.train(was_training)


def learning_rate(step: int, n_steps: int, peak: float) -> float:
    """Return the rate of a step, counted from 0: linear warm-up over the first tenth, then half a cosine to 0.

    >>> [round(learning_rate(step, 10, 1.0), 2) for step in (0, 1, 5, 9)]
    [1.0, 1.0, 0.59, 0.03]
    """
    warm_up = max(1, round(WARM_UP * n_steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, n_steps - warm_up)))


def make_optimizer(model: nn.Module, recipe: Recipe, *, num_classes: int = 0) -> torch.optim.Optimizer:
    """Return the recipe's optimiser; only weights with two or more dimensions decay, so no norm and no bias does.

    Each parameter group has a `share`: the factor on the learning rate for its weights.

    Args:
        num_classes: Number of classes, by which the classifier is found; needed only if the recipe treats the backbone
            differently (`backbone_lr`, `freeze_epochs`).

    Cost: the fused step, where torch has one, takes a third of the plain step's time and changes no result.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    apart = (
        recipe.backbone_lr != 1 or recipe.freeze_epochs > 0
    )  # a fused step needs momentum for all weights of a group, or none
    backbone = {id(weight) for weight in backbone_weights(model, num_classes)} if apart else set()
    groups: list[dict[str, Any]] = []
    for share, of_share in (
        (1.0, [weight for weight in trained if id(weight) not in backbone]),
        (recipe.backbone_lr, [weight for weight in trained if id(weight) in backbone]),
    ):
        decaying = [weight for weight in of_share if weight.ndim >= 2]
        rest = [weight for weight in of_share if weight.ndim < 2]
        groups.append({"params": decaying, "weight_decay": recipe.weight_decay, "share": share})
        groups.append({"params": rest, "weight_decay": 0.0, "share": share})
    groups = [group for group in groups if group["params"]]
    fused = all(weight.device.type in ("cpu", "cuda") and weight.is_floating_point() for weight in trained) or None
    if recipe.optimizer == "sgd":
        sgd = torch.optim.SGD(groups, lr=recipe.lr, momentum=MOMENTUM, nesterov=True, fused=fused)
        for weight in trained:  # a fused step needs momentum for all, also where some get their first gradient later
            sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        return sgd
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)
    return torch.optim.Adam(groups, lr=recipe.lr, fused=fused)


def backbone_weights(model: nn.Module, num_classes: int) -> list[nn.Parameter]:
    """Return the trainable weights of a model's backbone, without its classifier; a plain network is all backbone."""
    backbone = getattr(model, "backbone", model)
    path = classifier_path(backbone, num_classes)
    own = {id(weight) for weight in backbone.get_submodule(path).parameters()} if path is not None else set()
    return [weight for weight in backbone.parameters() if weight.requires_grad and id(weight) not in own]


@contextmanager
def frozen(model: nn.Module, num_classes: int) -> Iterator[None]:
    """Context manager: freeze the backbone's weights, and keep its batch norms in evaluation mode."""
    weights = backbone_weights(model, num_classes)
    norms = [module for module in getattr(model, "backbone", model).modules() if isinstance(module, _BatchNorm)]
    handles = [norm.register_forward_pre_hook(_in_evaluation) for norm in norms]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
        for handle in handles:
            handle.remove()


def _in_evaluation(norm: nn.Module, args: tuple[Any, ...]) -> None:
    norm.training = False  # each epoch sets the mode of the whole model again


def take_step(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    run: Forward | None = None,
) -> tuple[Tensor, Tensor]:
    """Train on one batch; return its logits and its loss before the step, both detached.

    The gradients are freed first: otherwise they would add to the activations at the peak of memory.

    Args:
        run: Runs the model, as `nas_attn.training.compiling.forward_of` returns it; None calls the model.
    """
    optimizer.zero_grad(set_to_none=True)
    logits, loss = forward(model, inputs, targets, criterion, run)
    torch.autograd.backward(loss)
    optimizer.step()
    return logits.detach(), loss.detach()


def forward(
    model: nn.Module, inputs: Tensor, targets: Tensor, criterion: nn.Module, run: Forward | None = None
) -> tuple[Tensor, Tensor]:
    """Return the logits of one training batch and its loss, with that of auxiliary logits."""
    with precision(inputs.device):
        logits = (run or model)(inputs)
        return logits, criterion(logits, targets) + auxiliary_loss(model, targets, criterion)


def precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return bf16 autocast on CUDA, and a context manager without effect elsewhere."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on any device; torch has no common class for it.

    >>> is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    True
    """
    if isinstance(error, MemoryError):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and any(
        phrase in message
        for phrase in (
            "out of memory",  # CUDA, HIP, MPS
            "DefaultCPUAllocator: can't allocate memory",
            "DefaultCPUAllocator: not enough memory",  # Windows
            "CUBLAS_STATUS_ALLOC_FAILED",
            "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",  # cuDNN found no memory for its workspace
        )
    )


def _train(
    model: nn.Module,
    images: Images,
    validation: Images | None,
    recipe: Recipe,
    seed: int,
    epochs: int,
    device: torch.device,
    report: Report,
    num_classes: int,
    metric: str | None,
    keeper: Keeper,
    validated: Container[int],
) -> dict[str, float]:
    model.to(device).to(memory_format=torch.channels_last)
    images = images.to(device)
    validation = validation.to(device) if validation is not None else None
    optimizer = make_optimizer(model, recipe, num_classes=num_classes)
    labels = LABEL_KINDS[images.task]
    criterion = labels.criterion(images.targets, recipe, num_classes)
    generator = torch.Generator().manual_seed(seed)
    state = LoopState(model, optimizer, generator, device)
    _continue(state, keeper, report)
    steps = n_batches(len(images), recipe.batch_size)
    rates = (learning_rate(step, epochs * steps, recipe.lr) for step in range(state.epoch * steps, epochs * steps))
    step = partial(take_step, criterion=criterion, optimizer=optimizer, run=forward_of(model, recipe.compile))
    for epoch in range(state.epoch + 1, epochs + 1):
        start = time.perf_counter()
        batches = epoch_batches(images, batch_size=recipe.batch_size, augment=recipe.augment, generator=generator)
        with frozen(model, num_classes) if epoch <= recipe.freeze_epochs else nullcontext():
            state.loss, seen = _train_epoch(model, batches, step, optimizer, rates, keep=validation is None)
        require_finite("loss", state.loss, epoch, epochs)
        state.seconds.append(time.perf_counter() - start)
        value = NOT_MEASURED
        if validation is None:
            value = value_of(metric, *seen)
        elif epoch in validated:
            value = value_of(metric, *_evaluated(model, validation, epoch, epochs))
            state.seconds_evaluating.append(time.perf_counter() - start - state.seconds[-1])
        state.epoch = epoch
        report(epoch, value)
        keeper.offer(state.take)
    return _facts(state, len(images), is_evaluated=validation is not None)


def _continue(state: LoopState, keeper: Keeper, report: Report) -> None:
    """Continue from the keeper's checkpoint, if it has one, and report its curve again."""
    if keeper.restored is not None:
        state.restore(keeper.restored["state"])
        for epoch, value in keeper.restored["curve"].items():
            report(epoch, value)


def _facts(state: LoopState, n_images: int, *, is_evaluated: bool) -> dict[str, float]:
    facts = {
        "train_loss": state.loss,
        "seconds_per_epoch": median(state.seconds),
        "images_per_second": n_images / median(state.seconds),
    }
    return facts | ({"seconds_per_validation": median(state.seconds_evaluating)} if is_evaluated else {})


def _train_epoch(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    step: Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    rates: Iterator[float],
    *,
    keep: bool,
) -> tuple[float, tuple[Tensor, Tensor]]:
    """Train on the batches; return the mean loss, and logits and targets of all batches or (`keep=False`) the last."""
    model.train()
    loss_sum: Tensor | float = 0.0
    seen: list[tuple[Tensor, Tensor]] = []
    n = 0
    for inputs, targets in batches:
        rate = next(rates)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        logits, loss = step(model, inputs, targets)
        n += len(targets)
        loss_sum = loss_sum + loss * len(targets)
        if not keep:
            seen.clear()
        seen.append((logits, targets))
    logits, targets = (torch.cat(part) for part in zip(*seen, strict=True))
    return float(loss_sum) / n, (logits, targets)


def _evaluated(model: nn.Module, validation: Images, epoch: int, epochs: int) -> tuple[Tensor, Tensor]:
    """Return logits and targets of the validation images. Raises: TrialFailed if the logits are not finite."""
    logits = predict(model, validation)
    require_finite("sum of the validation logits", float(logits.sum()), epoch, epochs)
    return logits, validation.targets


def require_finite(quantity: str, value: float, epoch: int, epochs: int) -> None:
    """Raise TrialFailed if a quantity of a training is not finite."""
    if not math.isfinite(value):
        raise TrialFailed(
            "nan", f"Training diverged: the {quantity} is {value} in epoch {epoch} of {epochs}. Try a smaller --lr."
        )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Context manager: seed the global random generators that a network may use, and restore their state."""
    gpus = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), other_generators_kept():
        random.seed(seed)
        np.random.seed(seed)  # the global one, which a network of a user's may use
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield
