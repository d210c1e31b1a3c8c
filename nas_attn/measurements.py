"""What running a network takes, as it was measured: plain frozen records, and how a run's file holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


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
