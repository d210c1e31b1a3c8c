"""The settings of a run: each is written here once, with its type, bounds, default, help, group and table.

The options of the command line, the tables of a space file, the identity of a run and the reference page are made
from these records.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field as Rule
from pydantic import create_model

from nas_attn.config.durations import Duration, seconds_of
from nas_attn.config.engine import Engine as Engine  # records of this package
from nas_attn.config.engine import MaxMacs as MaxMacs
from nas_attn.config.engine import MaxParams as MaxParams
from nas_attn.config.engine import Resources as Resources
from nas_attn.config.groups import BUDGET, GROUPS, OWN, RUN, SPACE
from nas_attn.config.images import DataConfig as DataConfig
from nas_attn.config.training import ADAM_LR as ADAM_LR
from nas_attn.config.training import Recipe as Recipe
from nas_attn.errors import ConfigError
from nas_attn.validation import Field, Setting, Strict, fields_of

Table = Literal["recipe", "data"]
"""A table of a space file that states settings."""

N_CONTROLS = 5
"""Number of random placements that a new run compares with."""

N_TOP = 3
"""Number of best placements of a short search that are confirmed."""


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
    storage: Annotated[
        str | None,
        Rule(
            min_length=1,
            description="PostgreSQL database of the ledger, which many runs may share; its password is better put into "
            "~/.pgpass or PGPASSWORD, and is never stored.",
        ),
        Setting(RUN, metavar="postgresql+psycopg://USER@HOST/DATABASE", unset="study.db in the run folder"),
    ] = None


class Budget(Strict):
    """The numbers of placements and of repetitions; a larger budget extends a run."""

    trials: Annotated[
        int,
        Rule(ge=1, le=1_000_000, description="Number of distinct placements to try; a larger number extends a run."),
        Setting(BUDGET),
    ] = 24
    top: Annotated[
        int | None,
        Rule(ge=1, le=100, description="Number of best placements to confirm with two new seeds each."),
        Setting(BUDGET, unset="3; in a search of 32 trials and more one per 8, which are halved seed by seed"),
    ] = None
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

    time_budget: Annotated[
        Duration | None,
        Rule(
            description="Time of this command until its result is there, such as 30s, 90m, 2h or 1h30m: the search "
            "ends early enough for the retraining."
        ),
        Setting(BUDGET, metavar="DURATION", unset="none"),
    ] = None

    @property
    def time_seconds(self) -> float | None:
        """The time budget in seconds; None has no limit."""
        return None if self.time_budget is None else seconds_of(self.time_budget)

    @property
    def n_top(self) -> int:
        """Number of best placements of a short search to confirm, and of a front to retrain."""
        return N_TOP if self.top is None else self.top

    @property
    def n_controls(self) -> int:
        """Number of random placements; that of a new run if it is not stated."""
        return N_CONTROLS if self.controls is None else self.controls


class Call(Strict):
    """What belongs to one call alone; not part of a run."""

    same_training: Annotated[
        bool,
        Rule(
            description="Continue the run though its training or network differs from the one that it was begun with: "
            "your word that both train alike."
        ),
        Setting(RUN),
    ] = False
    callback: Annotated[
        tuple[str, ...],
        Rule(
            strict=False,
            description="Factory of a callback that is called at the end of each trial, such as "
            "nas_attn.callbacks:TensorBoard, MLflow or WandB; repeatable.",
        ),
        Setting(RUN, metavar="MODULE:FACTORY", unset="none"),
    ] = ()


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
    models = (Target, DataConfig, Budget, Recipe, Engine, Resources, Call, Terminal)
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
