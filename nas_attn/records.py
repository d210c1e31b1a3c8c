"""What passes between the ledger, the workers and the report: plain frozen records, no framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nas_attn.placement import Placement, SiteTable

Stage = Literal["search", "confirm", "retrain"]
State = Literal["running", "complete", "pruned", "fail"]
Labelling = Literal["single-label", "multi-label"]

LogitsOf = Literal["classes", "second_class", "labels"]
"""What each of a network's logits stands for: a class, the second of two classes, or a label of its own."""

LABEL_AUC = "test_roc_auc:"
"""Begins the name of a retraining's fact that is one label's ROC AUC on test; the label's name follows."""


def labelling(n_dims: int) -> Labelling:
    """Return the task of labels with so many dimensions: (N,) has one for each image, (N, K) any of K."""
    return "multi-label" if n_dims == 2 else "single-label"


@dataclass(frozen=True)
class Task:
    """One training that a worker is asked to do.

    Args:
        number: The trial's number in its study of the ledger.
        seed: Seeds the weights, the order of the images and the augmentation.
        epochs: Length of the schedule.
        arm: The arm that a retraining belongs to; None in the search.
        weights: File that the trained weights are written to; None keeps none.
    """

    number: int
    stage: Stage
    placement: Placement
    seed: int
    epochs: int
    arm: str | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Args:
        value: Accuracy or mean ROC AUC between 0 and 1, or what the user's own training returned; None unless complete.
        cause: One word for counting failures: "oom", "nan", "error", "crashed", "interrupted".
        reason: One sentence for people.
        facts: Further measured values by name, e.g. `{"train_loss": 0.1, "seconds_per_epoch": 0.4}`.
    """

    state: State
    value: float | None = None
    cause: str | None = None
    reason: str | None = None
    seconds: float = 0.0
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialRecord:
    """One row of the ledger, as the report reads it.

    Args:
        value: Accuracy, or mean ROC AUC for multi-label data, between 0 and 1: on validation images (search, confirm)
            or on test images (retrain).
        curve: The same on validation images by epoch, counted from 1.
        answered_from: Number of the trial whose value this one repeats; such a row was not trained.
        label: What a prior or an arm is called, e.g. `none`, `se everywhere`, `found #1`.
        seconds: Wall time of the training.
    """

    number: int
    stage: Stage
    state: State
    placement: Placement
    key: str
    seed: int
    epochs: int
    value: float | None = None
    curve: Mapping[int, float] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    n_parameters: int | None = None
    n_macs: int | None = None
    label: str | None = None
    cause: str | None = None
    reason: str | None = None
    answered_from: int | None = None
    seconds: float = 0.0
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """Everything that a run folder knows, read once.

    Args:
        config: `config.json`: the space, the data with its fingerprint, the task, the recipe, the engine, versions,
            command.
        best: `best.json`, or None while there is none.
        table: The sites of the backbone, for the drawing.
        measured: Time and memory of the arms, by placement key, all on one bench; empty where none was measured.
    """

    folder: Path
    config: Mapping[str, Any]
    table: SiteTable | None
    search: tuple[TrialRecord, ...]
    confirm: tuple[TrialRecord, ...]
    retrain: tuple[TrialRecord, ...]
    best: Mapping[str, Any] | None = None
    measured: Mapping[str, Attempt] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """Where and how was measured: figures of two networks are compared only where all of this is the same.

    Args:
        device: The name of the device, e.g. `NVIDIA H200`.
        threads: That torch used on the CPU.
        precision: Of the computation: `float32`, `bfloat16 autocast`.
        shape: Of the batch, (N, C, H, W).
        optimizer: Of the training step; None where none was taken.
        torch: Its version.
    """

    device: str
    threads: int
    precision: str
    shape: tuple[int, int, int, int]
    optimizer: str | None
    torch: str


@dataclass(frozen=True)
class Measured:
    """Time and memory of one network.

    Args:
        latency_ms, latency_spread_ms: A forward pass of the batch in evaluation mode, without gradients: the median,
            and the distance between the quartiles.
        latency_ratio: That time over the one of the network that it was measured in turns with: the median over the
            turns; None where it was measured alone.
        n_turns: Medians that these are of; before each turn the network was warmed up.
        image_ms, image_spread_ms: The same for a batch of one image.
        forward_bytes: What that pass of the batch holds at its peak: weights, images and maps.
        training_bytes: What a training step on the batch holds at its peak: the same with all that is kept for the
            backward pass, the gradients and the optimiser's state; None where no step was taken.
    """

    bench: Bench
    latency_ms: float
    latency_spread_ms: float
    latency_ratio: float | None
    n_turns: int
    image_ms: float
    image_spread_ms: float
    forward_bytes: int
    training_bytes: int | None

    def figures(self) -> dict[str, Any]:
        """Return all but the bench, as JSON holds it."""
        return {name: value for name, value in asdict(self).items() if name != "bench"}


@dataclass(frozen=True)
class Attempt:
    """One placement on one bench: what was measured, or why nothing could be."""

    key: str
    bench: Bench
    measured: Measured | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Measurements:
    """All that a run measured, the oldest first; nothing is measured twice on one bench."""

    attempts: tuple[Attempt, ...] = ()

    def on(self, bench: Bench) -> dict[str, Attempt]:
        """Return what is known on a bench, by placement key."""
        return {attempt.key: attempt for attempt in self.attempts if attempt.bench == bench}

    def newest(self) -> dict[str, Attempt]:
        """Return what is known on the bench that was used last, by placement key."""
        return self.on(self.attempts[-1].bench) if self.attempts else {}

    def to_dict(self) -> dict[str, Any]:
        """Return this as JSON holds it."""
        return {"measured": [_to_dict(attempt) for attempt in self.attempts]}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Measurements:
        """Read what `to_dict` gave. Raises: KeyError or TypeError if it is something else."""
        return cls(tuple(_from_dict(**row) for row in record["measured"]))

    def with_one(self, attempt: Attempt) -> Measurements:
        """Return these and one more."""
        return Measurements((*self.attempts, attempt))


def _to_dict(attempt: Attempt) -> dict[str, Any]:
    figures = {"reason": attempt.reason} if attempt.measured is None else attempt.measured.figures()
    return {"key": attempt.key, "bench": asdict(attempt.bench), **figures}


def _from_dict(key: str, bench: Mapping[str, Any], reason: str | None = None, **figures: Any) -> Attempt:
    found = Bench(**{**bench, "shape": tuple(bench["shape"])})
    return Attempt(key, found, Measured(found, **figures) if figures else None, reason)
