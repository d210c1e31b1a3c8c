"""What a worker sends to the driver while a training runs; the outcome comes last."""

from __future__ import annotations

from dataclasses import dataclass, field

from nas_attn.records import Outcome


@dataclass(frozen=True)
class Reported:
    """The value of one epoch."""

    epoch: int
    value: float


@dataclass(frozen=True)
class Saved:
    """The checkpoint of the training."""

    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Printed:
    """What the training printed since the last message of this kind."""

    text: str = field(repr=False)


Message = Reported | Saved | Printed | Outcome
