"""What only shows a run, kept from ending it: its display, its report and its log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nas_attn.errors import NasAttnError, in_plain_words, of_system
from nas_attn.run.progress import Display

if TYPE_CHECKING:
    from nas_attn.executors.resources import Allocation
    from nas_attn.records import RunRecord
    from nas_attn.run.request import Request
    from nas_attn.study.stages import Stages

log = logging.getLogger(__name__)


class GuardedDisplay:
    """A display whose errors end the display and not the run; the log has the first of them.

    Args:
        display: The display itself.
    """

    def __init__(self, display: Display) -> None:
        self._display = display
        self._has_failed = False
        self.notes: list[str] = []
        """Sentences on what could not be written, for the end of the command."""

    def __enter__(self) -> GuardedDisplay:
        self._try(self._display.__enter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._display.__exit__(kind, error, trace)
        except Exception as failure:
            self._fail(failure)

    def reading(self, done: int, total: int) -> None:
        """Show the number of decoded files of an image folder."""
        self._try(self._display.reading, done, total)

    def begin(self, request: Request) -> None:
        """Show the checked request."""
        self._try(self._display.begin, request)

    def resources(self, allocation: Allocation) -> None:
        """Show the resources of the open executor."""
        self._try(self._display.resources, allocation)

    def stage(self, name: str) -> None:
        """Show a stage."""
        self._try(self._display.stage, name)

    def update(self, stages: Stages) -> None:
        """Show a change of the stages."""
        self._try(self._display.update, stages)

    def say(self, sentence: str) -> None:
        """Show a sentence at once."""
        self._try(self._display.say, sentence)

    def result(self, record: RunRecord) -> None:
        """Show the result; this is tried also where the progress could not be shown."""
        self._has_failed = False
        self._try(self._display.result, record)

    def _try(self, show: Callable[..., Any], *values: Any) -> None:
        if self._has_failed:
            return
        try:
            show(*values)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._has_failed:
            log.warning("the display failed; the run is not affected", exc_info=error)
        self._has_failed = True


def reason_of(error: Exception) -> str:
    """Return why something failed, as the end of a sentence without its full stop."""
    if isinstance(error, OSError) and error.strerror:
        return of_system(error).removesuffix(".")
    name = "" if isinstance(error, NasAttnError) else f"{type(error).__name__}: "
    return f"{name}{in_plain_words(error)}".removesuffix(".")
