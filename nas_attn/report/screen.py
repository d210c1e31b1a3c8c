"""The screen in words: what a network with shared weights ranked, and whether the trials that followed agree."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median

from nas_attn.comparison.ranking import FEWEST_PAIRS, POOR_SHARE, Agreement, agreement
from nas_attn.records import RunRecord, TrialRecord
from nas_attn.report.tables import measured, values_by_placement
from nas_attn.report.words import CAUSES, count, duration, placement_words

MOST_SHOWN = 5
"""Number of the best placements of a ranking that are listed."""


@dataclass(frozen=True)
class RankedRow:
    """A placement of a ranking.

    Args:
        value: Under shared weights, on validation images.
        trained: Mean of its trials; None if it was not tried.
    """

    placement: str
    value: float
    trained: float | None


@dataclass(frozen=True)
class ScreenReport:
    """What the report says of a screen.

    Args:
        about: What it did and cost, in a sentence.
        verdict: Whether it was of use, in a sentence.
        agreement: With the trials that followed; None if there are too few.
        rows: The best of its ranking.
    """

    about: str
    verdict: str
    agreement: Agreement | None = None
    rows: tuple[RankedRow, ...] = ()

    @property
    def sentences(self) -> tuple[str, str]:
        """Both sentences."""
        return (self.about, self.verdict)


def screen_of(run: RunRecord) -> ScreenReport | None:
    """Return what there is to say of a run's screen; None without one."""
    if not run.screen:
        return None
    ranking = run.ranking
    if ranking is None:
        return _without_ranking(run.screen[-1])
    trained = {placement: fmean(values) for placement, values in values_by_placement(run.search).items()}
    known = ((ranking.score(placement), value) for placement, value in trained.items())
    found = agreement((score, value) for score, value in known if score is not None)
    rows = tuple(
        RankedRow(placement_words(placement, run.table), value, trained.get(placement))
        for placement, value in ranking.in_order(MOST_SHOWN)
    )
    about = (
        f"A network with shared weights ranked {count(len(ranking.values), 'placement')} before the search, for "
        f"{count(ranking.price, 'training')} of the budget{_time(run)}; the search tried its best {len(rows)} first, "
        f"and left out what it ranked in the last {POOR_SHARE:.0%}."
    )
    return ScreenReport(about, _verdict(found, len(trained)), found, rows)


def _without_ranking(row: TrialRecord) -> ScreenReport:
    """Return what there is to say of a screen that has no ranking."""
    about = "A network with shared weights was to rank placements before the search."
    if row.state != "fail" or row.cause == "interrupted":
        return ScreenReport(about, "Its training has not ended.")
    cause = CAUSES.get(row.cause or "", row.cause or "error")
    return ScreenReport(about, f"Its training failed ({cause}), and the search went on without it.")


def _time(run: RunRecord) -> str:
    """Return what the screen took in trainings of this run, in words; empty if that is not known."""
    seconds = sum(row.seconds for row in run.screen if row.state == "complete")
    trial = median([row.seconds for row in measured(run.search)] or [0.0])
    if not seconds or not trial:
        return ""
    return f" (it took {duration(seconds)}, as long as {seconds / trial:.1f} trials)"


def _verdict(found: Agreement | None, n_trained: int) -> str:
    if found is None:
        return (
            f"Whether the ranking was of use cannot be said: {count(n_trained, 'placement')} followed, and at least "
            f"{FEWEST_PAIRS} with different values are needed."
        )
    numbers = (
        f"Kendall's tau between its ranking and the {count(found.n, 'placement')} that were tried is {found.tau:.2f} "
        f"(95 % interval {found.low:.2f} to {found.high:.2f})"
    )
    if found.is_clear:
        return f"The ranking agrees with what followed: {numbers}."
    if found.high < 0:
        return f"The screen misled the search: {numbers}, the wrong way round."
    return f"The screen was useless as far as can be seen: {numbers}, which includes zero, as for a random order."
