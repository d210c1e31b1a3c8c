"""The end of a run whose trials fail one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from nas_attn.errors import RunStopped
from nas_attn.records import TrialRecord

FAILURES_IN_A_ROW = 5
"""Number of failures in a row with the same cause after which the run stops, unless all are of one arm."""


class Failures:
    """Counts the failures in a row with the same cause."""

    def __init__(self) -> None:
        self._causes: list[tuple[str, str]] = []

    def count(self, records: Sequence[TrialRecord]) -> RunStopped | None:
        """Count a trial that ended, or several that trained as one; return the error that stops the run, or None."""
        record = next((record for record in records if record.state != "fail"), records[0])
        if record.cause == "objective":
            return RunStopped(f"{record.reason} The training gives no such value, so the run stops.")
        if record.state != "fail":
            self._causes.clear()
        elif record.cause != "interrupted":
            same = [failure for failure in self._causes if failure[0] == record.cause]
            self._causes = [*same, (str(record.cause), record.key)]
        if len(self._causes) < FAILURES_IN_A_ROW or len(set(self._causes)) == 1:
            return None
        reason = str(record.reason).rstrip(".")
        return RunStopped(
            f"{len(self._causes)} trials in a row failed with the same cause, so the run stops. The last error: "
            f"{reason}. Finished trials are stored; fix the cause, and the same command resumes the run."
        )
