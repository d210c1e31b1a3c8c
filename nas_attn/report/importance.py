"""Marginal means over the trials of a search, by site and attention, and by option."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from nas_attn.placement import Placement, Value, matches
from nas_attn.records import RunRecord, TrialRecord
from nas_attn.report.tables import BARE, in_flow_order, section, trials_of, values_by_placement
from nas_attn.statistics import Summary, difference_of_means, summarize

Row = tuple[Placement, float]


@dataclass(frozen=True)
class Marginal:
    """The placements with one attention at one site; the other sites vary freely.

    Args:
        sites: One site, or several whose attentions were equal in every trial, so that their effects are confounded.
        attention: A family, or `none`.
        summary: Summary of the values of these placements.
        effect: Their mean minus that of the placements with `none` at the same site, unpaired, with Welch's interval;
            None for `none` itself, and if no placement has `none` there.
    """

    sites: tuple[str, ...]
    attention: str
    summary: Summary
    effect: Summary | None

    @property
    def is_clear(self) -> bool:
        """Whether the interval of the effect excludes zero."""
        return self.effect is not None and self.effect.excludes_zero


@dataclass(frozen=True)
class OptionMarginal:
    """The placements that use an attention with this value of an option at any site."""

    attention: str
    option: str
    value: str
    summary: Summary


def rows_of(trials: Iterable[TrialRecord]) -> list[Row]:
    """Return each placement with a complete training once, with the mean value over its seeds."""
    return [(placement, fmean(values)) for placement, values in values_by_placement(trials).items()]


def searched_sites(run: RunRecord) -> tuple[str, ...]:
    """Return the searched sites in flow order, with those that any trial uses.

    A run of an older version does not list them: they are those that the patterns of its space match by name.
    """
    names = [site.name for site in run.table.sites] if run.table else []
    listed = _words(run.config.get("searched_sites")) or [
        name for name in names if any(matches(pattern, name) for pattern in _patterns(run))
    ]
    filled = {site for trial in trials_of(run) for site in trial.placement}
    return in_flow_order(sorted({*filled, *listed}), run.table)


def _patterns(run: RunRecord) -> list[str]:
    tables = section(run.config, "space").get("sites")
    return [pattern for table in _mappings(tables) for pattern in _words(table.get("match"))]


def _mappings(value: object) -> list[Mapping[str, object]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


def _words(value: object) -> list[str]:
    words = [value] if isinstance(value, str) else value
    return [word for word in words if isinstance(word, str)] if isinstance(words, list | tuple) else []


def marginals(rows: Sequence[Row], sites: Sequence[str]) -> tuple[Marginal, ...]:
    """Return one record per site and attention that occur together, in the order of `sites`.

    Within a site `none` comes first, then the attentions by name.
    """
    found: list[Marginal] = []
    for names, together in _decided_together(rows, sites).items():
        values: dict[str, list[float]] = {}
        for name, (_, value) in zip(names, rows, strict=True):
            values.setdefault(name, []).append(value)
        for name in sorted(values, key=lambda name: (name != BARE, name)):
            summary = summarize(values[name])
            assert summary is not None, "a group of trials is never empty"
            effect = None if name == BARE else difference_of_means(values[name], values.get(BARE, []))
            found.append(Marginal(tuple(together), name, summary, effect))
    return tuple(found)


def _decided_together(rows: Sequence[Row], sites: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    """Group the sites whose attentions are equal in every placement."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for site in sites if rows else ():
        names = tuple(placement[site].name if site in placement.attentions else BARE for placement, _ in rows)
        groups.setdefault(names, []).append(site)
    return groups


def option_marginals(rows: Sequence[Row]) -> tuple[OptionMarginal, ...]:
    """Return one record per value of each option that has at least two values."""
    values: dict[tuple[str, str], dict[Value, list[float]]] = {}
    for placement, result in rows:
        used = {(a.name, option, value) for a in placement.attentions.values() for option, value in a.options.items()}
        for name, option, value in used:
            values.setdefault((name, option), {}).setdefault(value, []).append(result)
    found: list[OptionMarginal] = []
    for (name, option), groups in sorted(values.items()):
        for value in sorted(groups, key=_by_size) if len(groups) > 1 else ():
            summary = summarize(groups[value])
            assert summary is not None, "a group of trials is never empty"
            found.append(OptionMarginal(name, option, "auto" if value is None else str(value), summary))
    return tuple(found)


def _by_size(value: Value) -> tuple[int, float, str]:
    """Sort key: numbers by size, then words by the alphabet."""
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))


@dataclass(frozen=True)
class HeatCell:
    """The mean of one site and attention; `strength` (0 to 1) and `sign` ("up", "down", "") give its colour."""

    marginal: Marginal | None
    strength: float = 0.0
    sign: str = ""


@dataclass(frozen=True)
class HeatRow:
    """The cells of one site, or of sites whose attentions were always equal."""

    sites: tuple[str, ...]
    cells: tuple[HeatCell, ...]


@dataclass(frozen=True)
class Heat:
    """Sites by attentions; `none` is the first column."""

    attentions: tuple[str, ...]
    rows: tuple[HeatRow, ...]


def heat_map(found: Sequence[Marginal]) -> Heat | None:
    """Return marginal means as a table, or None if no attention was measured at any site."""
    names = sorted({marginal.attention for marginal in found} - {BARE})
    if not names:
        return None
    largest = max((abs(marginal.effect.mean) for marginal in found if marginal.effect), default=0.0) or 1.0
    by_place = {(marginal.sites, marginal.attention): marginal for marginal in found}
    columns = (BARE, *names)
    rows = [
        HeatRow(sites, tuple(_heat_cell(by_place.get((sites, name)), largest) for name in columns))
        for sites in dict.fromkeys(marginal.sites for marginal in found)
    ]
    return Heat(columns, tuple(rows))


def _heat_cell(marginal: Marginal | None, largest: float) -> HeatCell:
    if marginal is None or marginal.effect is None:
        return HeatCell(marginal)
    mean = marginal.effect.mean
    return HeatCell(marginal, round(abs(mean) / largest, 3), "up" if mean > 0 else "down" if mean < 0 else "")
