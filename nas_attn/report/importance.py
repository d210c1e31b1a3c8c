"""What matters where: marginal means over the trials of a search, by site and attention, and by option."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from nas_attn.placement import Placement, Value
from nas_attn.records import RunRecord, TrialRecord
from nas_attn.report.tables import NONE, in_flow_order, measured, section
from nas_attn.statistics import Summary, difference_of_means, summarize

Row = tuple[Placement, float]


@dataclass(frozen=True)
class Marginal:
    """The trials that hold one attention at one site, all other sites left as they fell.

    Args:
        sites: One site, or several that held the same in every trial and so cannot be told apart.
        attention: A family, or `none`.
        summary: Of the values of these trials.
        effect: Their mean minus the mean of the trials with `none` at the same site (unpaired, Welch's interval);
            None for `none` itself, and where no trial left the site empty.
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
    """The trials that hold an attention with this value of an option at any site."""

    attention: str
    option: str
    value: str
    summary: Summary


def rows_of(trials: Iterable[TrialRecord]) -> list[Row]:
    """Return every placement that was trained to the end, once, with the mean value of its seeds."""
    values: dict[Placement, list[float]] = {}
    for trial in measured(trials):
        if trial.value is not None:
            values.setdefault(trial.placement, []).append(trial.value)
    return [(placement, fmean(seeds)) for placement, seeds in values.items()]


def searched_sites(run: RunRecord) -> tuple[str, ...]:
    """Return the sites that the search chose at, in flow order: matched by the space, or filled in any trial."""
    filled = {site for trial in (*run.search, *run.confirm, *run.retrain) for site in trial.placement}
    tables = section(run.config, "space").get("sites")
    patterns = [pattern for table in _mappings(tables) for pattern in _words(table.get("match"))]
    names = [site.name for site in run.table.sites] if run.table else []
    matched = {name for name in names if any(_matches(pattern, name) for pattern in patterns)}
    return in_flow_order(sorted(filled | matched), run.table)


def _mappings(value: object) -> list[Mapping[str, object]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


def _words(value: object) -> list[str]:
    words = [value] if isinstance(value, str) else value
    return [word for word in words if isinstance(word, str)] if isinstance(words, list | tuple) else []


def _matches(pattern: str, name: str) -> bool:
    """Whether a site pattern matches: `*` stays within a dot, `**` crosses."""
    wild = {"*": "[^.]*", "**": ".*"}
    parts = re.split(r"(\*\*|\*)", pattern)
    return re.fullmatch("".join(wild.get(part, re.escape(part)) for part in parts), name) is not None


def marginals(rows: Sequence[Row], sites: Sequence[str]) -> tuple[Marginal, ...]:
    """Return one record for every site and attention that occur together, in the order of `sites`.

    Within a site `none` comes first, then the attentions by name.
    """
    found: list[Marginal] = []
    for held, together in _decided_together(rows, sites).items():
        values: dict[str, list[float]] = {}
        for name, (_, value) in zip(held, rows, strict=True):
            values.setdefault(name, []).append(value)
        for name in sorted(values, key=lambda name: (name != NONE, name)):
            summary = summarize(values[name])
            assert summary is not None, "a group of trials is never empty"
            effect = None if name == NONE else difference_of_means(values[name], values.get(NONE, []))
            found.append(Marginal(tuple(together), name, summary, effect))
    return tuple(found)


def _decided_together(rows: Sequence[Row], sites: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    """Group the sites by what they held in every trial."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for site in sites if rows else ():
        held = tuple(placement[site].name if site in placement.attentions else NONE for placement, _ in rows)
        groups.setdefault(held, []).append(site)
    return groups


def option_marginals(rows: Sequence[Row]) -> tuple[OptionMarginal, ...]:
    """Return one record for every value of every option that took at least two values."""
    values: dict[tuple[str, str], dict[Value, list[float]]] = {}
    for placement, result in rows:
        held = {(a.name, option, value) for a in placement.attentions.values() for option, value in a.options.items()}
        for name, option, value in held:
            values.setdefault((name, option), {}).setdefault(value, []).append(result)
    found: list[OptionMarginal] = []
    for (name, option), groups in sorted(values.items()):
        for value in sorted(groups, key=_by_size) if len(groups) > 1 else ():
            summary = summarize(groups[value])
            assert summary is not None, "a group of trials is never empty"
            found.append(OptionMarginal(name, option, "auto" if value is None else str(value), summary))
    return tuple(found)


def _by_size(value: Value) -> tuple[int, float, str]:
    """Order numbers by size before words by the alphabet."""
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))


@dataclass(frozen=True)
class HeatCell:
    """A site's mean with one attention; `strength` from 0 to 1 is how deep it is coloured, `sign` which way."""

    marginal: Marginal | None
    strength: float = 0.0
    sign: str = ""


@dataclass(frozen=True)
class HeatRow:
    """The cells of one site, or of sites that the search decided together."""

    sites: tuple[str, ...]
    cells: tuple[HeatCell, ...]


@dataclass(frozen=True)
class Heat:
    """Sites by attentions; `none` is the first column."""

    attentions: tuple[str, ...]
    rows: tuple[HeatRow, ...]


def heat_map(found: Sequence[Marginal]) -> Heat | None:
    """Return marginal means as a table, or None when no attention was measured anywhere."""
    names = sorted({marginal.attention for marginal in found} - {NONE})
    if not names:
        return None
    largest = max((abs(marginal.effect.mean) for marginal in found if marginal.effect), default=0.0) or 1.0
    by_place = {(marginal.sites, marginal.attention): marginal for marginal in found}
    columns = (NONE, *names)
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
