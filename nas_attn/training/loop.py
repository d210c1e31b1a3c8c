"""One network trained and read: a straight loop over images that lie on the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas_attn.backbones.weights import classifier_path
from nas_attn.config import Recipe
from nas_attn.data.dataset import Images
from nas_attn.errors import TrialFailed
from nas_attn.model.tasks import READINGS, OneLabel
from nas_attn.training.auxiliary import auxiliary_loss
from nas_attn.training.batches import epoch_batches, n_batches, normalisation, normalised
from nas_attn.training.onednn import thinned

Report = Callable[[int, float], None]

WARM_UP = 0.1
MOMENTUM = 0.9
_EVALUATED_PIXELS = 2**20  # map positions a batch when only reading: memory stays small at any image size


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
) -> dict[str, float]:
    """Train `model` in place for `epochs` epochs, and return what was measured on the way.

    The same model and seed give bit-equal weights on one thread of one machine, whatever the global generators hold;
    those are left as they were found.

    Args:
        images: Their task decides on loss and value: see `READINGS`.
        validation: Read after each epoch; None (a retraining) reports the value on the training batches instead.
        recipe: Its `epochs` and `retrain_epochs` are not read: `epochs` is the length of the schedule.
        seed: Of the order, the augmentation, and whatever the network draws (dropout).
        report: Called after each epoch with (epoch counted from 1, value); may raise to stop.
        num_classes: How many logits the network gives: one for each class, or one for two classes.

    Units: of the result: `train_loss`; `seconds_per_epoch` and `images_per_second`, medians over the epochs, of
    training alone; `seconds_per_validation`, the median of reading the validation images.
    Raises: TrialFailed("nan") when the loss or the logits are no longer finite, TrialFailed("oom") when memory is out.
    """
    device = torch.device(device)
    try:
        with _seeded(seed, device), thinned(model) if device.type == "cpu" else nullcontext():
            return _train(model, images, validation, recipe, seed, epochs, device, report, num_classes)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = next(iter(str(error).splitlines()), type(error).__name__)
        reason = f"Out of memory on {device} at batch size {recipe.batch_size}: {said}"
    raise TrialFailed("oom", reason)  # raised here, where the failed step's tensors are let go


def accuracy(model: nn.Module, images: Images, *, batch_size: int | None = None) -> float:
    """Return the share of `images` that `model` names right. Units: 0 to 1."""
    return OneLabel().value(predict(model, images, batch_size=batch_size), images.targets)


def predict(model: nn.Module, images: Images, *, batch_size: int | None = None) -> Tensor:
    """Return the logits of `model` in evaluation mode; its own mode is restored.

    Args:
        batch_size: None takes what suits the size of the images.

    Shape: (N, K) float32, on the images' device.
    """
    device = images.pixels.device
    height, width = images.pixels.shape[2:]
    batch_size = batch_size or max(8, min(512, _EVALUATED_PIXELS // (height * width)))
    mean, std = normalisation(images)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), precision(device):
            logits = [
                model(normalised(images.pixels, slice(start, start + batch_size), mean, std))
                for start in range(0, len(images), batch_size)
            ]
            return torch.cat(logits).float()
    finally:
        model.train(was_training)


def learning_rate(step: int, n_steps: int, peak: float) -> float:
    """Return the rate of a step, counted from 0: a linear warm-up over the first tenth, then half a cosine to 0.

    >>> [round(learning_rate(step, 10, 1.0), 2) for step in (0, 1, 5, 9)]
    [1.0, 1.0, 0.59, 0.03]
    """
    warm_up = max(1, round(WARM_UP * n_steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, n_steps - warm_up)))


def make_optimizer(model: nn.Module, recipe: Recipe, *, num_classes: int = 0) -> torch.optim.Optimizer:
    """Return the recipe's optimiser; only weights of two or more dimensions decay, so no norm and no bias does.

    The share of the rate that a group's weights have is its `share`.

    Args:
        num_classes: Tells which layer is the classifier; read only where the backbone is trained in another way.

    Cost: the fused step, where torch has one, takes a third of the plain one's time and changes no result.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    apart = recipe.backbone_lr != 1 or recipe.freeze_epochs > 0  # a fused step: momentum for all of a group or none
    slow = {id(weight) for weight in backbone_weights(model, num_classes)} if apart else set()
    groups: list[dict[str, Any]] = []
    for share, of_share in (
        (1.0, [weight for weight in trained if id(weight) not in slow]),
        (recipe.backbone_lr, [weight for weight in trained if id(weight) in slow]),
    ):
        decaying = [weight for weight in of_share if weight.ndim >= 2]
        rest = [weight for weight in of_share if weight.ndim < 2]
        groups.append({"params": decaying, "weight_decay": recipe.weight_decay, "share": share})
        groups.append({"params": rest, "weight_decay": 0.0, "share": share})
    groups = [group for group in groups if group["params"]]
    fused = all(weight.device.type in ("cpu", "cuda") and weight.is_floating_point() for weight in trained) or None
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=MOMENTUM, nesterov=True, fused=fused)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)
    return torch.optim.Adam(groups, lr=recipe.lr, fused=fused)


def backbone_weights(model: nn.Module, num_classes: int) -> list[nn.Parameter]:
    """Return the trainable weights of a model's backbone without its classifier; a plain network is all backbone."""
    backbone = getattr(model, "backbone", model)
    path = classifier_path(backbone, num_classes)
    own = {id(weight) for weight in backbone.get_submodule(path).parameters()} if path is not None else set()
    return [weight for weight in backbone.parameters() if weight.requires_grad and id(weight) not in own]


@contextmanager
def frozen(model: nn.Module, num_classes: int) -> Iterator[None]:
    """Keep the backbone's weights as they are, and its batch norms in evaluation mode, while this is entered."""
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
    norm.training = False  # the training loop sets the mode of the whole model anew in each epoch


def take_step(
    model: nn.Module, inputs: Tensor, targets: Tensor, criterion: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Tensor, Tensor]:
    """Train on one batch; return the logits and the loss that it had before, both detached.

    The old gradients go first: kept until the backward pass, they would lie beside all activations at the peak.
    """
    optimizer.zero_grad(set_to_none=True)
    with precision(inputs.device):
        logits = model(inputs)
        loss = criterion(logits, targets) + auxiliary_loss(model, targets, criterion)
    loss.backward()
    optimizer.step()
    return logits.detach(), loss.detach()


def precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return bf16 autocast on CUDA, and nothing elsewhere."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, on any device; torch has no one class for it.

    >>> is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    True
    """
    if isinstance(error, MemoryError):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and any(
        words in message
        for words in (
            "out of memory",  # CUDA, HIP, MPS
            "DefaultCPUAllocator: can't allocate memory",
            "DefaultCPUAllocator: not enough memory",  # Windows
            "CUBLAS_STATUS_ALLOC_FAILED",
            "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",  # what cuDNN says when it finds no room for its workspace
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
) -> dict[str, float]:
    model.to(device).to(memory_format=torch.channels_last)
    images = images.to(device)
    validation = validation.to(device) if validation is not None else None
    optimizer = make_optimizer(model, recipe, num_classes=num_classes)
    reading = READINGS[images.task]
    criterion = reading.criterion(images.targets, recipe, num_classes)
    generator = torch.Generator().manual_seed(seed)
    n_steps = epochs * n_batches(len(images), recipe.batch_size)
    rates = (learning_rate(step, n_steps, recipe.lr) for step in range(n_steps))
    seconds, judging = [], []
    loss = math.nan
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        batches = epoch_batches(images, batch_size=recipe.batch_size, augment=recipe.augment, generator=generator)
        with frozen(model, num_classes) if epoch <= recipe.freeze_epochs else nullcontext():
            loss, seen = _train_epoch(model, batches, criterion, optimizer, rates, keep=validation is None)
        _require_finite(loss, epoch, epochs)
        seconds.append(time.perf_counter() - start)
        if validation is not None:
            seen = _read(model, validation, epoch, epochs)
        value = reading.value(*seen)
        judging.append(time.perf_counter() - start - seconds[-1])
        report(epoch, value)
    facts = {
        "train_loss": loss,
        "seconds_per_epoch": median(seconds),
        "images_per_second": len(images) / median(seconds),
    }
    return facts | ({"seconds_per_validation": median(judging)} if validation is not None else {})


def _train_epoch(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    rates: Iterator[float],
    *,
    keep: bool,
) -> tuple[float, tuple[Tensor, Tensor]]:
    """Train over the batches; return the mean loss, and logits and targets: of all if `keep`, else of the last."""
    model.train()
    loss_sum: Tensor | float = 0.0
    seen: list[tuple[Tensor, Tensor]] = []
    n = 0
    for inputs, targets in batches:
        rate = next(rates)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        logits, loss = take_step(model, inputs, targets, criterion, optimizer)
        n += len(targets)
        loss_sum = loss_sum + loss * len(targets)
        if not keep:
            seen.clear()
        seen.append((logits, targets))
    logits, targets = (torch.cat(part) for part in zip(*seen, strict=True))
    return float(loss_sum) / n, (logits, targets)


def _read(model: nn.Module, validation: Images, epoch: int, epochs: int) -> tuple[Tensor, Tensor]:
    """Return logits and targets of the validation images; logits that are not finite end the trial."""
    logits = predict(model, validation)
    _require_finite(float(logits.sum()), epoch, epochs)
    return logits, validation.targets


def _require_finite(value: float, epoch: int, epochs: int) -> None:
    if not math.isfinite(value):
        raise TrialFailed(
            "nan", f"The training left the finite numbers ({value}) in epoch {epoch} of {epochs}: try a smaller --lr."
        )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators that a network may draw from, and put them back afterwards."""
    gpus = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield
