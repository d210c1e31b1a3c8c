"""The settings of the training of one network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field as Rule
from pydantic import model_validator

from nas_attn.config.groups import BUDGET, TRAINING
from nas_attn.validation import Setting, Strict

ADAM_LR = 0.003


class Recipe(Strict):
    """The training of one network."""

    epochs: Annotated[
        int,
        Rule(ge=1, le=100_000, description="Number of epochs per search or confirm trial."),
        Setting(BUDGET, table="recipe"),
    ] = 30
    retrain_epochs: Annotated[
        int | None,
        Rule(ge=1, le=100_000, description="Number of epochs per retraining."),
        Setting(BUDGET, table="recipe", unset="--epochs"),
    ] = None
    batch_size: Annotated[
        int, Rule(ge=2, le=65_536, description="Images per step."), Setting(TRAINING, table="recipe")
    ] = 32
    optimizer: Annotated[
        Literal["sgd", "adamw", "adam"],
        Rule(description="Optimiser; SGD has Nesterov momentum 0.9."),
        Setting(TRAINING, table="recipe"),
    ] = "sgd"
    lr: Annotated[
        float,
        Rule(
            gt=0.0,
            le=100.0,
            description="Peak learning rate: linear warm-up over the first tenth of the steps, then half a cosine to "
            "0. Default for Adam and AdamW: 0.003.",
        ),
        Setting(TRAINING, table="recipe"),
    ] = 0.1
    weight_decay: Annotated[
        float,
        Rule(ge=0.0, le=10.0, description="Weight decay of weights with two or more dimensions."),
        Setting(TRAINING, table="recipe"),
    ] = 5e-4
    augment: Annotated[
        Literal["none", "crop", "crop-flip"],
        Rule(
            description="Augmentation of the training images: crop pads by an eighth and crops at random; crop-flip "
            "also mirrors left to right."
        ),
        Setting(TRAINING, table="data"),
    ] = "none"
    class_weights: Annotated[
        bool,
        Rule(
            description="Give rare classes more weight in the loss: the inverse frequency, with mean 1; for positives "
            "of a label, negatives divided by positives, at most 100."
        ),
        Setting(TRAINING, table="recipe"),
    ] = False
    label_smoothing: Annotated[
        float,
        Rule(
            ge=0.0,
            lt=1.0,
            description="Share of the target that is spread over the other classes, or over both values of a label.",
        ),
        Setting(TRAINING, table="recipe"),
    ] = 0.0
    one_logit: Annotated[
        bool,
        Rule(
            description="For two classes, one logit trained by binary cross-entropy instead of two (above 0: the "
            "second class)."
        ),
        Setting(TRAINING, table="recipe"),
    ] = False
    backbone_lr: Annotated[
        float,
        Rule(
            gt=0.0,
            le=1.0,
            description="Factor on --lr for the backbone's own weights; classifier and attention keep the full rate.",
        ),
        Setting(TRAINING, table="recipe"),
    ] = 1.0
    freeze_epochs: Annotated[
        int,
        Rule(
            ge=0,
            le=100_000,
            description="Number of initial epochs with the backbone frozen: its weights and its batch-norm statistics.",
        ),
        Setting(TRAINING, table="recipe"),
    ] = 0
    compile: Annotated[
        Literal["no", "default", "cudagraphs"],
        Rule(
            description="Compile the training step's forward pass with torch.compile; cudagraphs also replays it from "
            "CUDA graphs. Each placement is compiled once per training, for half a minute or more, so it pays where a "
            "training is much longer."
        ),
        Setting(TRAINING, table="recipe"),
    ] = "no"

    @model_validator(mode="before")
    @classmethod
    def _suit_lr_to_optimizer(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("optimizer") in ("adam", "adamw") and "lr" not in values:
            return {**values, "lr": ADAM_LR}
        return values
