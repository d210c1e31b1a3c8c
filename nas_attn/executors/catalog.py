"""The executors, as a literal table; creating one imports it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas_attn.executors.modules import pickled

if TYPE_CHECKING:
    from nas_attn.config import Resources
    from nas_attn.executors.base import Executor


@dataclass(frozen=True)
class ExecutorEntry:
    """An executor: a way to run trials.

    Args:
        about: One sentence for the help text.
        make: Returns the executor for the run's resources.
        send: Prepares an object for the workers; it raises whatever makes that impossible.
        is_here: Whether trainings run in the process of the command, which a crash in native code then ends.
    """

    name: str
    about: str
    make: Callable[[Resources], Executor]
    send: Callable[[object], object]
    is_here: bool = False


def _tune(resources: Resources) -> Executor:
    from nas_attn.executors.tune import TuneExecutor

    return TuneExecutor(resources)


def _as_it_is(content: object) -> object:
    return content


def _local(resources: Resources) -> Executor:
    from nas_attn.executors.local import LocalExecutor

    return LocalExecutor(resources)


EXECUTORS: Mapping[str, ExecutorEntry] = {
    entry.name: entry
    for entry in (
        ExecutorEntry("tune", "Ray Tune, several trials at the same time.", _tune, pickled),
        ExecutorEntry("local", "this process, one trial after the other.", _local, _as_it_is, is_here=True),
    )
}
