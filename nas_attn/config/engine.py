"""The settings of the search engine and of the resources of its trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from pydantic import Field as Rule

from nas_attn.config.durations import Duration, seconds_of
from nas_attn.config.groups import ENGINE, RESOURCES, RUN, SPACE
from nas_attn.validation import Setting, Strict

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


def split_names(stated: Any) -> Any:
    """Return names that are stated with commas, once or repeatedly, one by one; anything else as it is.

    >>> split_names(["accuracy,latency", "params"])
    ('accuracy', 'latency', 'params')
    """
    parts = (stated,) if isinstance(stated, str) else stated
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        return stated
    return tuple(name.strip() for part in parts for name in part.split(","))


class Engine(Strict):
    """The proposal and the early stopping of placements."""

    max_params: MaxParams = None
    max_macs: MaxMacs = None
    max_latency: Annotated[
        float | None,
        Rule(gt=0.0, le=1e9, description="Greatest latency of the network for one image, in milliseconds."),
        Setting(SPACE, unset="none"),
    ] = None
    objective: Annotated[
        tuple[str, ...],
        BeforeValidator(split_names),
        Rule(
            strict=False,
            description="What the search improves, by names with commas: accuracy, auc or f1 first, which the arms are "
            "compared by, then any of loss, latency, params, macs, memory, or a value of a training of your own with "
            "its direction, such as energy:min. With several, their front is searched.",
        ),
        Setting(ENGINE, metavar="NAME[,NAME...]", unset="accuracy; the mean ROC AUC of several labels"),
    ] = ()
    sampler: Annotated[
        str,
        Rule(
            min_length=1,
            description="Sampler that proposes placements: one of these, your own class of an Optuna sampler as "
            "MODULE:CLASS, or hub:PACKAGE of OptunaHub.",
        ),
        Setting(ENGINE),
    ] = "placement"
    scheduler: Annotated[str, Rule(description="Early-stopping rule for search trials."), Setting(ENGINE)] = "none"
    sampler_option: Annotated[
        tuple[str, ...],
        Rule(strict=False, description="Option of the sampler, such as n_startup=20; repeatable."),
        Setting(ENGINE, metavar="KEY=VALUE", unset="the sampler's defaults"),
    ] = ()
    scheduler_option: Annotated[
        tuple[str, ...],
        Rule(strict=False, description="Option of the scheduler, such as reduction_factor=3; repeatable."),
        Setting(ENGINE, metavar="KEY=VALUE", unset="the scheduler's defaults"),
    ] = ()
    priors: Annotated[
        tuple[str, ...],
        Rule(
            strict=False,
            description="Placements of earlier runs to try first: a best.json, a file of arms/, or a run folder with "
            "all its arms; repeatable.",
        ),
        Setting(ENGINE, metavar="FILE|RUN", unset="none"),
    ] = ()
    screen: Annotated[
        int | None,
        Rule(
            ge=1,
            le=1_000,
            description="Before the search, train one network that has every choice at every site, for the price of so "
            "many trainings, which count as trials: its ranking of placements says what is tried first and what not.",
        ),
        Setting(ENGINE, metavar="TRAININGS", unset="none"),
    ] = None
    seed: Annotated[int, Rule(ge=0, le=2**31 - 1, description="Seed of all random numbers."), Setting(ENGINE)] = 0
    trial_timeout: Annotated[
        Duration | None,
        Rule(description="Longest time of one training, such as 90s, 10m or 2h; one that takes longer is ended."),
        Setting(ENGINE, metavar="DURATION", unset="none"),
    ] = None
    checkpoint_every: Annotated[
        float,
        Rule(
            ge=0.0,
            le=100_000.0,
            description="Minutes between two checkpoints of a running training, where the same command continues it; "
            "0 saves none.",
        ),
        Setting(ENGINE),
    ] = 1.0

    @property
    def timeout_seconds(self) -> float | None:
        """Longest time of one training in seconds."""
        return None if self.trial_timeout is None else seconds_of(self.trial_timeout)

    @property
    def checkpoint_seconds(self) -> float | None:
        """Time between two checkpoints in seconds; None saves none."""
        return 60 * self.checkpoint_every or None


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
    seeds_at_once: Annotated[
        int,
        Rule(
            ge=1,
            le=100,
            description="Number of seeds of an arm that are retrained as one training where its network allows it: "
            "for small networks on a GPU. It takes so many times the memory, and saves no checkpoints.",
        ),
        Setting(RESOURCES),
    ] = 1
    address: Annotated[
        str | None,
        Rule(min_length=1, description="Address of a running Ray cluster."),
        Setting(RESOURCES, metavar="HOST:PORT", unset="starts Ray on this machine"),
    ] = None
    data_on_nodes: Annotated[
        bool,
        Rule(
            description="Read the images on every node of the cluster, where they lie under the same path; otherwise "
            "this machine reads them once and sends them."
        ),
        Setting(RESOURCES),
    ] = False
    show_output: Annotated[
        bool,
        Rule(description="Also print what the trainings print; each trial's log in the run folder has it in any case."),
        Setting(RUN),
    ] = False
