"""The begin and the end of each trial, read from a run's `log.txt`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_LINE = re.compile(r"(\S+ \S+?),(\d{3}) INFO (begin|end) (search|confirm|retrain) (\d+): (\S+)")


@dataclass(frozen=True)
class Event:
    """The begin or the end of one run.

    Args:
        moment: Seconds since 1970.
        kind: `begin` or `end`.
        state: State at the end; without meaning for a begin.
    """

    moment: float
    kind: str
    stage: str
    number: int
    state: str


def events(log: Path) -> list[Event]:
    """Return the events of a log; a missing log has none."""
    lines = log.read_text().splitlines() if log.exists() else []
    found = (_LINE.match(line) for line in lines)
    return [
        Event(
            datetime.fromisoformat(match[1]).timestamp() + int(match[2]) / 1000,
            *match.group(3, 4),
            int(match[5]),
            match[6],
        )
        for match in found
        if match
    ]


def ends(log: Path, stage: str) -> list[float]:
    """Return the moments at which the runs of a stage ended, in their order."""
    return [event.moment for event in events(log) if event.kind == "end" and event.stage == stage]
