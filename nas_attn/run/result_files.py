"""The files of a run's result: the exported arms, and the report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nas_attn.records import Attempt
from nas_attn.run.folder import RunFolder
from nas_attn.run.guarded import GuardedDisplay, reason_of
from nas_attn.run.opened import OpenLedger
from nas_attn.run.request import Request

if TYPE_CHECKING:
    from nas_attn.report.chart import Chart

log = logging.getLogger(__name__)

_NO_REPORT = "The report of "


class ResultFiles:
    """Exports the arms and writes the report: once before their costs are measured, and again with them.

    Every file is written as a whole, so that an interrupt may come at any moment. The figures are drawn once, since
    none of them shows the costs.
    """

    def __init__(self, request: Request, ledger: OpenLedger, folder: RunFolder, display: GuardedDisplay) -> None:
        self._request, self._ledger, self._folder, self._display = request, ledger, folder, display
        self._charts: Sequence[Chart] = ()

    def write(self, measured: Mapping[str, Attempt], *, figures: bool = True) -> None:
        """Export the arms, and write the report, also where the export fails.

        Args:
            measured: Time and memory of the arms, by placement key.
            figures: Whether the files of the figures are written too, which take as long as the page.
        """
        from nas_attn.run.export import export

        self._display.stage("export")
        try:
            export(self._request, self._ledger.stages, self._folder, measured)
        except Exception:
            self.write_report()
            raise
        self.write_report(figures=figures)

    def write_report(self, *, figures: bool = True) -> None:
        """Write the report with its figures and tables; where that fails, the result stands without it."""
        self._display.stage("report")
        try:
            from nas_attn.report.figures import draw_charts
            from nas_attn.report.page import write_report

            record = self._ledger.record()
            self._charts = self._charts or draw_charts(record)
            write_report(record, self._folder.path, charts=self._charts, figures=figures)
            self._display.notes[:] = [note for note in self._display.notes if not note.startswith(_NO_REPORT)]
        except Exception as error:
            log.warning("the report could not be written", exc_info=error)
            self._display.notes.append(
                f"{_NO_REPORT}{self._folder.path} could not be written ({reason_of(error)}); the result stands, and "
                f"`nas-attn report {self._folder.path}` writes it once that is mended."
            )
