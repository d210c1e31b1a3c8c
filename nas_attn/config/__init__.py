"""The settings of a run: each is written here once, with its type, bounds, default, help, group and table.

The options of the command line, the tables of a space file, the identity of a run and the reference page are made
from these records.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field as Rule
from pydantic import create_model, model_validator

from nas_attn.config.images import DATA
from nas_attn.config.images import DataConfig as DataConfig  # one of the records of this module
from nas_attn.errors import ConfigError
from nas_attn.validation import Field, Setting, Strict, fields_of

SPACE = "Search space"
BUDGET = "Budget"
TRAINING = "Training"
OWN = "Custom training (reads its own images unless --data is stated)"
ENGINE = "Search engine"
RESOURCES = "Resources"
RUN = "Run"
GROUPS = (SPACE, DATA, BUDGET, TRAINING, OWN, ENGINE, RESOURCES, RUN)

Table = Literal["recipe", "data"]
"""A table of a space file that states settings."""

ADAM_LR = 0.003

N_CONTROLS = 5
"""Number of random placements that a new run compares with."""

MaxParams = Annotated[
    int | None,
    Rule(ge=1, le=10**15, description="Maximum number of trainable parameters of the network."),
    Setting(SPACE, unset="the space's"),
]
MaxMacs = Annotated[
    int | None,
    Rule(ge=1, le=10**18, description="Maximum number of multiply-adds of the network for one image."),
    Setting(SPACE, unset="the space's"),
]


class Target(Strict):
    """The searched space, the training and the run folder."""

    space: Annotated[
        str | None,
        Rule(min_length=1, description="A shipped space (see `nas-attn spaces`) or a space file."),
        Setting(
            SPACE,
            metavar="NAME|FILE",
            unset="made from --backbone; without it densenet_attn for digits, MNIST and Fashion-MNIST, otherwise "
            "resnet18_attn",
        ),
    ] = None
    backbone: Annotated[
        str | None,
        Rule(
            min_length=1,
            description="Network to search without a space file, or in one that names none: a backbone's name with its "
            "options, as in 'resnet18 stem=small', timm:NAME, or a function of yours that returns it.",
        ),
        Setting(SPACE, metavar="NETWORK|MODULE:FUNCTION", unset="the space's"),
    ] = None
    arm: Annotated[
        tuple[str, ...],
        Rule(
            strict=False,
            description="A further arm of the comparison: a published network in the same backbone (see `nas-attn "
            "published`), each attention in the last stage only, or the placement of a JSON file; repeatable.",
        ),
        Setting(SPACE, metavar="published:NAME|last-stage|FILE", unset="none"),
    ] = ()
    train: Annotated[
        str | None,
        Rule(min_length=1, description="Custom training function."),
        Setting(OWN, metavar="MODULE:FUNCTION", unset="the built-in loop"),
    ] = None
    num_classes: Annotated[
        int | None,
        Rule(ge=1, le=1_000_000, description="Number of classes of your images."),
        Setting(OWN, unset="that of --data"),
    ] = None
    in_channels: Annotated[
        int | None,
        Rule(ge=1, le=10_000, description="Number of channels of your images."),
        Setting(OWN, unset="that of --data"),
    ] = None
    out: Annotated[
        str | None,
        Rule(min_length=1, description="Folder of the run; the same command on it resumes it."),
        Setting(RUN, metavar="FOLDER", unset="runs/SPACE, or runs/SPACE-DATA"),
    ] = None


class Budget(Strict):
    """The numbers of placements and of repetitions; a larger budget extends a run."""

    trials: Annotated[
        int,
        Rule(ge=1, le=1_000_000, description="Number of distinct placements to try; a larger number extends a run."),
        Setting(BUDGET),
    ] = 24
    top: Annotated[int, Rule(ge=1, le=100, description="Number of best placements to confirm."), Setting(BUDGET)] = 3
    seeds: Annotated[
        Annotated[int, Rule(ge=1, le=1_000)] | Literal["auto"],
        Rule(
            description="Number of seeds per arm in the retraining; a larger number extends a run. auto: 5, and then "
            "more for undecided arms until attention is judged better, worse or equal, or --max-seeds is reached."
        ),
        Setting(BUDGET, metavar="N|auto"),
    ] = 5
    max_seeds: Annotated[
        int, Rule(ge=3, le=1_000, description="Largest number of seeds per arm with --seeds auto."), Setting(BUDGET)
    ] = 20
    margin: Annotated[
        float,
        Rule(
            gt=0.0,
            le=1000.0,
            description="Difference that does not matter, in points (hundredths) of accuracy or ROC AUC, or in the "
            "unit of a custom training's values: arms are called equal only within it.",
        ),
        Setting(BUDGET),
    ] = 0.5
    controls: Annotated[
        int | None,
        Rule(
            ge=0,
            le=100,
            description="Number of random placements with as many sites as found #1, retrained together as one arm.",
        ),
        Setting(BUDGET, unset="5 in a new run, otherwise as the run began"),
    ] = None
    control_search: Annotated[
        Literal["random"] | None,
        Rule(
            description="Also run a random search of the same cost, and retrain the best placement that it finds as an "
            "arm: what the sampler is worth."
        ),
        Setting(BUDGET, unset="none"),
    ] = None
    ablate: Annotated[
        bool,
        Rule(description="Also retrain found #1 without each of its attentions, and with each of them alone."),
        Setting(BUDGET),
    ] = False

    @property
    def n_controls(self) -> int:
        """Number of random placements; that of a new run if it is not stated."""
        return N_CONTROLS if self.controls is None else self.controls


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

    @model_validator(mode="before")
    @classmethod
    def _suit_lr_to_optimizer(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("optimizer") in ("adam", "adamw") and "lr" not in values:
            return {**values, "lr": ADAM_LR}
        return values


class Engine(Strict):
    """The proposal and the early stopping of placements."""

    max_params: MaxParams = None
    max_macs: MaxMacs = None
    sampler: Annotated[str, Rule(description="Sampler that proposes placements."), Setting(ENGINE)] = "tpe"
    scheduler: Annotated[str, Rule(description="Early-stopping rule for search trials."), Setting(ENGINE)] = "none"
    seed: Annotated[int, Rule(ge=0, le=2**31 - 1, description="Seed of all random numbers."), Setting(ENGINE)] = 0


class Resources(Strict):
    """The resources of the trials; they change the time of a run and never its results."""

    executor: Annotated[str, Rule(description="Executor of the trials."), Setting(RESOURCES)] = "tune"
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        Rule(description="auto: CUDA if there is a GPU, otherwise the CPU."),
        Setting(RESOURCES),
    ] = "auto"
    workers: Annotated[
        int | None,
        Rule(ge=1, le=10_000, description="Number of trials that run at the same time."),
        Setting(RESOURCES, unset="one per GPU, otherwise one per core"),
    ] = None
    cpus_per_trial: Annotated[
        int | None,
        Rule(ge=1, le=1_024, description="Number of cores, and of torch threads, per trial."),
        Setting(RESOURCES, unset="an even share"),
    ] = None
    gpus_per_trial: Annotated[
        float | None,
        Rule(ge=0.0, le=64.0, description="Number of GPUs per trial; 0.5 shares one between two trials."),
        Setting(RESOURCES, unset="1 on CUDA, otherwise 0"),
    ] = None
    address: Annotated[
        str | None,
        Rule(min_length=1, description="Address of a running Ray cluster."),
        Setting(RESOURCES, metavar="HOST:PORT", unset="starts Ray on this machine"),
    ] = None


class Terminal(Strict):
    """The output of the command line; not part of a run."""

    dry_run: Annotated[
        bool, Rule(description="Print a preview with estimated time and memory, and start nothing."), Setting(RUN)
    ] = False
    dashboard: Annotated[
        bool,
        Rule(description="Serve Optuna's dashboard of the run while it lasts; the address is printed."),
        Setting(RUN),
    ] = False
    quiet: Annotated[bool, Rule(description="Print only the result."), Setting(RUN)] = False
    debug: Annotated[bool, Rule(description="Print the traceback of an error."), Setting(RUN)] = False


def settings() -> tuple[Field, ...]:
    """Return all settings, in the order of their groups."""
    models = (Target, DataConfig, Budget, Recipe, Engine, Resources, Terminal)
    found = [field for model in models for field in fields_of(model) if field.setting is not None]
    return tuple(sorted(found, key=lambda field: GROUPS.index(field.setting.group) if field.setting else 0))


def table_model(table: Table) -> type[Strict]:
    """Return the model of a table of a space file: its settings, each optional."""
    stated = [field for field in settings() if field.setting is not None and field.setting.table == table]
    fields: dict[str, Any] = {field.key: (_optional(field), None) for field in stated}
    return create_model(f"{table.capitalize()}Table", __base__=Strict, **fields)


def before_settings(model: type[Strict], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored values of an older run, completed by the values that describe its behaviour."""
    formerly = {
        field.key: field.setting.formerly if field.setting and field.setting.formerly is not None else field.default
        for field in fields_of(model)
    }
    return {**formerly, **stated}


def read_shares(text: str, where: str) -> tuple[float, float, float]:
    """Return shares of train, validation and test in percent as fractions; they may add up to less than 100.

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


def n_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _optional(field: Field) -> Any:
    """Return the annotation of a field that also allows None, with the same rules and description."""
    rules = [rule for rule in field.info.metadata if not isinstance(rule, Setting)]
    return Annotated[field.annotation | None, *rules, Rule(description=field.help)]
