"""The checkpoints of the running trials: stored while a trial runs, and given to the trial that continues it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from nas_attn.records import AGAIN, CONTINUED, Outcome, Stage, Task, TrialRecord

_CONTINUED_CAUSES = ("interrupted", "crashed")
"""Causes of a failure after which the same training is run again, and continued."""

log = logging.getLogger(__name__)

Identity = tuple[Stage, str, int, int]
"""Stage, placement key, seed and epochs of a training."""


class CheckpointStore(Protocol):
    """Stores one checkpoint per training."""

    def write(self, identity: Identity, epoch: int, content: bytes) -> None:
        """Store a checkpoint that was taken after this epoch. Raises: OSError if that fails."""
        ...

    def read(self, identity: Identity) -> tuple[int, bytes] | None:
        """Return epoch and content of a checkpoint, or None if there is none, or it is damaged."""
        ...

    def delete(self, identity: Identity) -> None:
        """Delete a checkpoint, if there is one."""
        ...

    def clear(self) -> None:
        """Delete all checkpoints."""
        ...


class TrialLogs(Protocol):
    """Stores what the trainings print."""

    def write(self, stage: Stage, number: int, text: str) -> None:
        """Add text to the log of a trial."""
        ...


class Checkpoints:
    """Stores the checkpoints of running trials, and counts the epochs that an interruption cost.

    Args:
        store: None stores nothing.
        rows: The trials of earlier sessions.
    """

    def __init__(self, store: CheckpointStore | None, rows: Iterable[TrialRecord]) -> None:
        self._store = store
        self._reached: dict[Identity, int] = {}
        self._epochs: dict[Identity, int] = {}
        self._begun_at: dict[Identity, int] = {}
        self._has_warned = False
        for row in rows:
            if row.cause in _CONTINUED_CAUSES and row.curve:
                self._reached[row.identity] = max(row.curve)

    def begin(self, task: Task) -> Task:
        """Return a task with the checkpoint of the same training, if there is one."""
        found = self._store.read(_identity(task)) if self._store is not None else None
        self._begun_at[_identity(task)] = found[0] if found else 0
        if found is None:
            return task
        log.info("%s %d continues after epoch %d of an interrupted training", task.stage, task.number, found[0])
        return replace(task, checkpoint=found[1])

    def report(self, task: Task, epoch: int) -> None:
        """Remember the last epoch of a running trial."""
        self._epochs[_identity(task)] = epoch

    def save(self, task: Task, content: bytes) -> None:
        """Store a checkpoint; a disk that refuses it costs epochs after an interruption, and never the search."""
        if self._store is None:
            return
        try:
            self._store.write(_identity(task), self._epochs.get(_identity(task), 0), content)
        except OSError as error:
            if not self._has_warned:
                log.warning("A checkpoint could not be stored, so that an interruption costs more epochs: %s", error)
            self._has_warned = True

    def end(self, task: Task, outcome: Outcome) -> Outcome:
        """Delete the checkpoint of a trial that is not run again; return its outcome with what an interruption cost."""
        identity = _identity(task)
        epoch, begun_at = self._epochs.pop(identity, 0), self._begun_at.pop(identity, 0)
        if outcome.state == "complete" and CONTINUED not in outcome.facts:
            begun_at = 0  # the checkpoint could not be used
        again = min(self._reached.pop(identity, 0), epoch) - begun_at
        facts = {CONTINUED: float(begun_at)} if begun_at else {}
        facts |= {AGAIN: float(again)} if again > 0 else {}
        if outcome.cause in _CONTINUED_CAUSES:
            self._reached[identity] = epoch
        elif self._store is not None:
            self._store.delete(identity)
        return replace(outcome, facts={**outcome.facts, **facts}) if facts else outcome

    def clear(self) -> None:
        """Delete what is left; called when no trial runs any more."""
        if self._store is not None:
            self._store.clear()


def _identity(task: Task) -> Identity:
    return (task.stage, task.placement.key, task.seed, task.epochs)
