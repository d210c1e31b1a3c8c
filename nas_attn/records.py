"""Frozen records that the ledger, the workers and the report exchange; they need no framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nas_attn.placement import Attention, Placement, SiteTable

if TYPE_CHECKING:
    from nas_attn.comparison.looks import Look
    from nas_attn.comparison.predictions import Predictions
    from nas_attn.comparison.ranking import Ranking

Stage = Literal["screen", "search", "control", "confirm", "retrain"]
"""What a trial belongs to; `screen` is the network with shared weights before the search, `control` the random search
that `--control-search` runs beside the search."""

State = Literal["running", "complete", "pruned", "fail"]
Labelling = Literal["single-label", "multi-label"]

Artifact = Literal["weights", "predictions", "short predictions", "ranking"]
"""What a trial may return beside its value.

`weights`: the state dict in safetensors format. `predictions`: those of the validation images, in a retraining of the
test images; `short predictions`: the same without the probability of every class (`nas_attn.comparison.predictions`).
`ranking`: the values of a screen, in the order of its placements, as JSON.
"""

Part = tuple[tuple[str, Attention], ...]
"""One choice of a decision: the attentions that it places, by site; empty for no attention."""

LogitsOf = Literal["classes", "second_class", "labels"]
"""What each logit of a network stands for: a class, the second of two classes, or a label of its own."""

NOT_EXPORTED = "The training changes the network so that its weights cannot be exported"
"""Beginning of the remark of such a training."""

BARE = "none"
"""Label of the arm without attention."""

FOUND = "found #1"
"""Label of the arm with the best placement that has attention."""

FRONT = "front"
"""Label, with a number from 2 on, of a further arm of the front of several objectives."""

RANDOM = "random"
"""Label of the arm of random placements with as many sites as `found #1`."""

RANDOM_SEARCH = "random search #1"
"""Label of the arm with the best placement that a random search of the same cost found."""

OF_CONTROL = "of the random search"
"""Label of the confirm runs of the random search's best placements."""

OF_SCREEN = "screen"
"""Label, with a number from 1 on, of a placement that a network with shared weights ranked among the best."""

LABEL_AUC = "test_roc_auc:"
"""Prefix of the keys that hold the test ROC AUC of one label."""

CONTINUED = "continued_from_epoch"
"""Key of the fact: the epoch of the checkpoint from which a training was continued."""

AGAIN = "epochs_again"
"""Key of the fact: the number of epochs that an interrupted attempt had trained and this one trained again."""

CRASHED_HERE = "The training crashed with the process of the run"
"""How the reason of a trial begins whose training ended its driver."""

SETTLED = ("oom", "nan", "timeout")
"""Causes of a failure that would come again: such a placement is not proposed again, and counts in the budget."""


def labelling(n_dims: int) -> Labelling:
    """Return the kind of labels with `n_dims` dimensions: (N,) is one class per image, (N, K) is K labels per image."""
    return "multi-label" if n_dims == 2 else "single-label"


@dataclass(frozen=True)
class Paths:
    """What a network with shared weights holds and ranks.

    Args:
        decisions: The choices of every decision of the space.
        ranked: The placements to rank, each as the number of its choice in every decision.
    """

    decisions: tuple[tuple[Part, ...], ...]
    ranked: tuple[tuple[int, ...], ...]

    def placement(self, numbers: tuple[int, ...]) -> Placement:
        """Return the placement of these choices."""
        return Placement(dict(place for parts, n in zip(self.decisions, numbers, strict=True) for place in parts[n]))

    def numbers(self, placement: Placement) -> tuple[int, ...] | None:
        """Return the choices of a placement; None for one outside the space."""
        numbers: list[int] = []
        for sites, places in self._places:
            placed = frozenset(place for place in placement.attentions.items() if place[0] in sites)
            if placed not in places:
                return None
            numbers.append(places[placed])
        known = frozenset[str]().union(*(sites for sites, _ in self._places))
        return tuple(numbers) if known.issuperset(placement) else None

    @cached_property
    def _places(self) -> tuple[tuple[frozenset[str], dict[frozenset[tuple[str, Attention]], int]], ...]:
        """The sites of every decision, and the number of each choice by the attentions that it places."""
        return tuple(
            (
                frozenset(site for part in parts for site, _ in part),
                {frozenset(part): n for n, part in enumerate(parts)},
            )
            for parts in self.decisions
        )


@dataclass(frozen=True)
class Task:
    """One training for a worker.

    Args:
        number: The trial's number in its study of the ledger.
        seed: Seeds the weights, the order of the images and the augmentation.
        epochs: Length of the schedule.
        arm: The arm that a retraining belongs to; None in the search.
        artifacts: Files that its outcome must contain.
        checkpoint: The state from which an interrupted training continues; None begins it.
        paths: What a screen trains in place of the placement; None in the other stages.
        further_seeds: Seeds of the same arm to train as one with this one. Where that cannot be, they are left out.
    """

    number: int
    stage: Stage
    placement: Placement
    seed: int
    epochs: int
    arm: str | None = None
    artifacts: tuple[Artifact, ...] = ()
    checkpoint: bytes | None = field(default=None, repr=False)
    paths: Paths | None = field(default=None, repr=False)
    further_seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Args:
        value: Accuracy or mean ROC AUC between 0 and 1, or the value that a custom training returned; None
            unless complete.
        cause: Kind of failure: "oom", "nan", "timeout", "error", "crashed" or "interrupted".
        reason: The failure in one sentence.
        facts: Further measured values by name, e.g. `{"train_loss": 0.1, "seconds_per_epoch": 0.4}`.
        values: The objectives after the first one, by name, in their order; empty with a single objective.
        artifacts: Content of the files that the task requested.
        trace: The whole traceback of an error, for the log.
        remark: What the user should know about the trained network, in a sentence.
        further: The trainings with the task's further seeds; empty where they were left out.
        alone: Why the further seeds were left out, in a sentence.
    """

    state: State
    value: float | None = None
    cause: str | None = None
    reason: str | None = None
    seconds: float = 0.0
    facts: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    artifacts: Mapping[Artifact, bytes] = field(default_factory=dict, repr=False)
    trace: str | None = field(default=None, repr=False)
    remark: str | None = None
    further: tuple[Further, ...] = ()
    alone: str | None = None


@dataclass(frozen=True)
class Further:
    """A training with another seed that was trained as one with a task.

    Args:
        curve: The value by epoch, counted from 1.
    """

    seed: int
    curve: Mapping[int, float]
    outcome: Outcome


@dataclass(frozen=True)
class TrialRecord:
    """One row of the ledger.

    Args:
        value: Accuracy, or mean ROC AUC for multi-label data, between 0 and 1: on validation images (search, confirm)
            or on test images (retrain).
        curve: The validation value by epoch, counted from 1.
        answered_from: Number of the trial whose value this one repeats; such a trial was not trained.
        label: Name of a prior or an arm, e.g. `none`, `se everywhere`, `found #1`.
        seconds: Wall time of the training.
        values: The objectives after the first one, by name, in their order; those of the network itself are known from
            the beginning, the others of a complete trial. Empty with a single objective.
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
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[Stage, str, int, int]:
        """Stage, placement key, seed and epochs: two rows that agree in them are the same training."""
        return (self.stage, self.key, self.seed, self.epochs)

    @property
    def has_crashed_here(self) -> bool:
        """Whether this training ended the process of the run itself."""
        return self.cause == "crashed" and (self.reason or "").startswith(CRASHED_HERE)

    def with_epoch(self, epoch: int, value: float) -> TrialRecord:
        """Return the row with one more point of its curve."""
        return replace(self, curve={**self.curve, epoch: value})

    def ended(self, outcome: Outcome) -> TrialRecord:
        """Return the row with its outcome; the value of a pruned trial is the last one of its curve."""
        last = self.curve[max(self.curve)] if self.curve else None
        return replace(
            self,
            state=outcome.state,
            value=last if outcome.state == "pruned" else outcome.value,
            cause=outcome.cause,
            reason=outcome.reason,
            seconds=outcome.seconds,
            facts=dict(outcome.facts),
            values=dict(outcome.values or self.values),
        )


@dataclass(frozen=True)
class RunRecord:
    """The content of a run folder.

    Args:
        config: `config.json`: the space, the data with its fingerprint, the task, the recipe, the engine, versions,
            command.
        best: `best.json`, or None if it does not exist yet.
        table: The sites of the backbone, for the figures.
        measured: Time and memory of the arms by placement key, all under the same conditions; empty if none was
            measured.
        predictions: What the retrained networks predict for the test images, by placement key, seed and epochs; empty
            in runs of an older version, and where a custom training records none.
        looks: The looks at the test values, the oldest first, by the key of the placement that was `found #1`.
        remarks: What happened while it ran that a reader should know, such as a node that was left out.
        control: The trials of the random search beside the search; empty without one.
        screen: The trainings of a network with shared weights before the search; empty without one.
        ranking: What it ranked; None without one, or before its end.
        screens: Returns the run in one screen, as text and as HTML; None shows its folder alone.
    """

    folder: Path
    config: Mapping[str, Any]
    table: SiteTable | None
    search: tuple[TrialRecord, ...]
    confirm: tuple[TrialRecord, ...]
    retrain: tuple[TrialRecord, ...]
    best: Mapping[str, Any] | None = None
    measured: Mapping[str, Attempt] = field(default_factory=dict)
    predictions: Mapping[tuple[str, int, int], Predictions] = field(default_factory=dict, repr=False)
    looks: Mapping[str, tuple[Look, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    control: tuple[TrialRecord, ...] = ()
    screen: tuple[TrialRecord, ...] = ()
    ranking: Ranking | None = None
    screens: Callable[[RunRecord], tuple[str, str]] | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        return self._screens()[0]

    def _repr_html_(self) -> str:
        """Show the run in a notebook."""
        return self._screens()[1]

    def _screens(self) -> tuple[str, str]:
        """Return the run as text and as HTML; one that cannot be shown is named by its folder."""
        plain = f"RunRecord(folder={str(self.folder)!r})"
        try:
            return (plain, escape(plain)) if self.screens is None else self.screens(self)
        except Exception as error:  # to show a run must never fail
            plain = f"{plain} that cannot be shown ({type(error).__name__})"
            return plain, escape(plain)


@dataclass(frozen=True)
class Bench:
    """Measurement conditions; two measurements are comparable only if all fields are equal.

    Args:
        device: The name of the device, e.g. `NVIDIA H200`.
        threads: Number of torch threads on the CPU.
        precision: `float32` or `bfloat16 autocast`.
        shape: Shape of the batch, (N, C, H, W).
        optimizer: Optimiser of the training step; None if no step was measured.
        torch: The version of torch.
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
        latency_ms, latency_spread_ms: Time of a forward pass of the batch in evaluation mode, without gradients: the
            median, and the distance between the quartiles.
        latency_ratio: Latency divided by that of the reference network, measured alternately: the median over the
            rounds; None without a reference.
        n_turns: Number of rounds; the network is warmed up before each.
        image_ms, image_spread_ms: The same for a batch of one image.
        forward_bytes: Peak memory of that pass of the batch: weights, images and maps.
        training_bytes: Peak memory of a training step on the batch: the above with everything stored for the backward
            pass, the gradients and the optimiser's state; None if no step was measured.
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
        """Return all fields but the conditions, in plain JSON."""
        return {name: value for name, value in asdict(self).items() if name != "bench"}


@dataclass(frozen=True)
class Attempt:
    """One placement under one set of conditions: the measurement, or the reason why there is none."""

    key: str
    bench: Bench
    measured: Measured | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Measurements:
    """All measurements of a run, the oldest first; nothing is measured twice under the same conditions."""

    attempts: tuple[Attempt, ...] = ()

    def on(self, bench: Bench) -> dict[str, Attempt]:
        """Return the attempts under these conditions, by placement key."""
        return {attempt.key: attempt for attempt in self.attempts if attempt.bench == bench}

    def newest(self) -> dict[str, Attempt]:
        """Return the attempts under the most recent conditions, by placement key."""
        return self.on(self.attempts[-1].bench) if self.attempts else {}

    def to_dict(self) -> dict[str, Any]:
        """Return the measurements in plain JSON."""
        return {"measured": [_to_dict(attempt) for attempt in self.attempts]}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Measurements:
        """Read the output of `to_dict`. Raises: KeyError or TypeError for anything else."""
        return cls(tuple(_from_dict(**row) for row in record["measured"]))

    def with_one(self, attempt: Attempt) -> Measurements:
        """Return the measurements with one more."""
        return Measurements((*self.attempts, attempt))


def _to_dict(attempt: Attempt) -> dict[str, Any]:
    figures = {"reason": attempt.reason} if attempt.measured is None else attempt.measured.figures()
    return {"key": attempt.key, "bench": asdict(attempt.bench), **figures}


def _from_dict(key: str, bench: Mapping[str, Any], reason: str | None = None, **figures: Any) -> Attempt:
    found = Bench(**{**bench, "shape": tuple(bench["shape"])})
    return Attempt(key, found, Measured(found, **figures) if figures else None, reason)
