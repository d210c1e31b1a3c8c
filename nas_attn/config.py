"""The configuration of a run: strict, frozen, and valid once it exists."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nas_attn.errors import ConfigError, Refused, nearest

ADAM_LR = 0.003

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A record that refuses unknown keys and wrong types, and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def read_shares(text: str, where: str) -> tuple[float, float, float]:
    """Return shares of train, validation and test in percent as fractions; what is missing to 100 is left out.

    >>> read_shares("10/20/70", "--split")
    (0.1, 0.2, 0.7)

    Raises: ConfigError that names `where`.
    """
    try:
        parts = [float(part) for part in text.split("/")]
    except ValueError:
        parts = []
    if len(parts) != 3 or not all(0 <= part <= 100 for part in parts) or not 0 < sum(parts) <= 100 + 1e-9:
        raise ConfigError(
            f"'{where}' must be the shares of train, validation and test in percent, together at most 100, such as "
            f"10/20/70, but got {text}."
        )
    return parts[0] / 100, parts[1] / 100, parts[2] / 100


class DataConfig(Strict):
    """Which images, at which size, split how.

    Args:
        name: `digits`, `mnist`, `fashion-mnist`, `cifar10`, `cifar100`, `folder:PATH` or `npz:PATH`.
        root: Where torchvision's data sets lie (or are downloaded to).
        download: Whether a missing torchvision data set may be fetched.
        image_size: Height and width in pixels after resizing; None keeps the data's own (for a folder: 64).
        channels: 1 for grey, 3 for colour; None keeps the data's own.
        split: Shares of train, validation and test; None takes the data set's default.
        seed: Seed of the split.
        strict: Whether a damaged image stops the run at once, instead of being named and skipped.
    """

    name: str = "digits"
    root: str = "data"
    download: bool = False
    image_size: Annotated[int, Field(ge=4, le=2048)] | None = None
    channels: Literal[1, 3] | None = None
    split: tuple[Fraction, Fraction, Fraction] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    strict: bool = False


class Recipe(Strict):
    """How one network is trained.

    Args:
        epochs: Length of the schedule of a search or confirm run.
        retrain_epochs: Length of a retraining; None means `epochs`.
        batch_size: Images a step.
        optimizer: SGD has Nesterov momentum 0.9.
        lr: Peak of the schedule: linear warm-up over the first tenth, then a half cosine to 0. Left out, it is 0.1
            for SGD and 0.003 for Adam and AdamW.
        weight_decay: Applied to weights of two or more dimensions only.
        augment: `crop` pads by an eighth and crops at random; `crop-flip` also mirrors left to right.
        class_weights: Whether rare classes weigh more in the loss: by inverse frequency, mean 1; in multi-label
            data the positives of each label by negatives to positives, at most 100.
        label_smoothing: Share of the target spread over the other classes, or over both values of each label.
        one_logit: Whether a network for two classes gives one logit, that of the second, trained by binary
            cross-entropy, in place of two.
        backbone_lr: Factor on the learning rate of the backbone's own weights; the classifier and inserted attention
            have the full rate.
        freeze_epochs: First epochs in which those weights, and the backbone's batch-norm statistics, stay as they are.
    """

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 30
    retrain_epochs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 32
    optimizer: Literal["sgd", "adamw", "adam"] = "sgd"
    lr: Annotated[float, Field(gt=0.0, le=100.0)] = 0.1
    weight_decay: Annotated[float, Field(ge=0.0, le=10.0)] = 5e-4
    augment: Literal["none", "crop", "crop-flip"] = "none"
    class_weights: bool = False
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    one_logit: bool = False
    backbone_lr: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    freeze_epochs: Annotated[int, Field(ge=0, le=100_000)] = 0

    @model_validator(mode="before")
    @classmethod
    def _suit_lr_to_optimizer(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("optimizer") in ("adam", "adamw") and "lr" not in values:
            return {**values, "lr": ADAM_LR}
        return values


class Budget(Strict):
    """How much is tried, and how often it is repeated; a larger budget extends a run."""

    trials: Annotated[int, Field(ge=1, le=1_000_000)] = 24
    top: Annotated[int, Field(ge=1, le=100)] = 3
    seeds: Annotated[int, Field(ge=1, le=1_000)] = 5


class Engine(Strict):
    """How placements are proposed and stopped."""

    sampler: Literal["tpe", "random", "nsga2"] = "tpe"
    scheduler: Literal["none", "asha"] = "none"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    max_params: Annotated[int, Field(ge=1)] | None = None
    max_macs: Annotated[int, Field(ge=1)] | None = None


class Resources(Strict):
    """Who computes; changes nothing but the time that it takes.

    Args:
        executor: `tune` runs trials in Ray Tune's workers, `local` in this process.
        device: `auto` takes CUDA where there is any, else the CPU.
        workers: Trials at a time; None finds it: one a GPU, without a GPU one a core.
        cpus_per_trial: Cores, and torch threads, of a trial; None shares the cores out evenly.
        gpus_per_trial: GPUs of a trial, fractions too; None means 1 on CUDA, else 0.
        address: A running Ray cluster; None starts one of its own.
    """

    executor: Literal["tune", "local"] = "tune"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    workers: Annotated[int, Field(ge=1, le=10_000)] | None = None
    cpus_per_trial: Annotated[int, Field(ge=1, le=1_024)] | None = None
    gpus_per_trial: Annotated[float, Field(ge=0.0, le=64.0)] | None = None
    address: str | None = None


def n_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def validate(model: type[Model], values: Mapping[str, Any], where: str, error: type[Refused] = ConfigError) -> Model:
    """Return `values` as a checked record.

    Raises: `error`, in one sentence: the place, the rule, the value, and the nearest valid word for an unknown key.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as failure:
        raise error(_sentence(model, failure, where)) from None


def _sentence(model: type[BaseModel], failure: ValidationError, where: str) -> str:
    """Put one of pydantic's findings into one sentence: an unknown key first, since it makes others missing."""
    findings = failure.errors(include_url=False)
    finding = next((found for found in findings if found["type"] == "extra_forbidden"), findings[0])
    path = ".".join(str(part) for part in finding["loc"])
    if finding["type"] == "extra_forbidden":
        known = sorted(_fields_at(model, finding["loc"][:-1]))
        word = str(finding["loc"][-1])
        close = nearest(word, known)
        hint = f"did you mean '{close}'? " if close else ""
        return f"Unknown key '{path}' in {where}: {hint}Known: {', '.join(known)}."
    if finding["type"] == "missing":
        return f"Key '{path}' is missing in {where}."
    rule = finding["msg"][0].lower() + finding["msg"][1:]
    return f"'{path}' in {where} is refused: {rule}, but got {finding['input']!r}."


def _fields_at(model: type[BaseModel], path: Iterable[int | str]) -> list[str]:
    """Return the keys that are known at `path` inside `model`."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the record type inside an annotation such as `tuple[Sites, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_in(argument) for argument in getattr(annotation, "__args__", ()))
    return next((found for found in inner if found), None)
