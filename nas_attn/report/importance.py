"""What matters where: the effect of each attention at each site by regression over the trials of a search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from nas_attn.placement import Placement, Value
from nas_attn.records import BARE, RunRecord, TrialRecord
from nas_attn.report.mixed_model import Design, Posterior, fit
from nas_attn.report.tables import in_flow_order, measured, section, trials_of, values_by_placement
from nas_attn.space.site_names import matches
from nas_attn.statistics import Summary, summarize

Row = tuple[Placement, float]

KNOWN = 0.7
"""Share of the effects' variance that trials must explain to tell sites apart.

At this share, an effect twice as large as usual has a posterior mean of 2.6 posterior standard deviations.
"""

MOST_TRIALS = 5_000
"""A larger number of trials that would be needed is not stated."""


@dataclass(frozen=True)
class Observation:
    """The value of one complete training; `run` names its run where several are pooled."""

    placement: Placement
    value: float
    run: str = ""


@dataclass(frozen=True)
class Effect:
    """What an attention at a site adds to the value, everything else equal; without attention there it is zero.

    Args:
        sites: One site, or several whose attentions were equal in every trial, so that their effects are one.
        mean: Posterior mean, shrunk towards zero the less the trials say.
        low, high: Ends of the 95 % interval.
        is_clear: Whether the sign is known; it is right for all clear effects of a table with 95 % probability.
        n_placements: Number of placements that have the attention there.

    Units: those of the values.
    """

    sites: tuple[str, ...]
    attention: str
    mean: float
    low: float
    high: float
    is_clear: bool
    n_placements: int

    @property
    def summary(self) -> Summary:
        """The same as a summary."""
        return Summary(self.n_placements, self.mean, None, self.low, self.high)


@dataclass(frozen=True)
class SiteEffects:
    """The effects of all attentions at all sites where any was measured.

    Args:
        effects: In the order of the sites, then of the attentions' names; empty if the trials allow no estimate.
        n_trials, n_placements: Number of complete trainings, and of placements among them.
        noise_sd, effect_sd: Standard deviations of a training around the sum of its effects, and of the effects; None
            if the trials allow no estimate.
        enough: Whether the trials can tell sites apart: an effect is clear, or the share `KNOWN` of the effects'
            variance is explained.
        needed: About how many trials would; None if they are enough, or if not even `MOST_TRIALS` are.
    """

    effects: tuple[Effect, ...]
    n_trials: int
    n_placements: int
    noise_sd: float | None = None
    effect_sd: float | None = None
    enough: bool = False
    needed: int | None = None

    @property
    def n_clear(self) -> int:
        """Number of effects whose sign is known."""
        return sum(effect.is_clear for effect in self.effects)

    @property
    def verdict(self) -> str:
        """What the trials can tell, in one sentence."""
        if not self.enough:
            more = "no search of reasonable length would, so small are the effects"
            more = f"about {self.needed:,} would, if effects are as large as estimated" if self.needed else more
            return f"Too few trials to tell sites apart ({self.n_trials:,}): {more}."
        if not self.n_clear:
            return "No effect is clear, though one twice as large as usual would be."
        are, signs = ("is", "its sign is") if self.n_clear == 1 else ("are", "all their signs are")
        return f"{self.n_clear} of {len(self.effects)} effects {are} clear: {signs} right with 95 % probability."

    @property
    def leaders(self) -> tuple[Effect, ...]:
        """The largest effect, up or down, of each site; sites in the order of their effects' sum of squares."""
        by_site: dict[tuple[str, ...], list[Effect]] = {}
        for effect in self.effects:
            by_site.setdefault(effect.sites, []).append(effect)
        ranked = sorted(by_site.values(), key=lambda own: -math.hypot(*(effect.mean for effect in own)))
        return tuple(max(own, key=_size) for own in ranked)


def _size(effect: Effect) -> float:
    return abs(effect.mean)


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


def observations(trials: Iterable[TrialRecord], run: str = "") -> tuple[Observation, ...]:
    """Return one observation per complete training; trials that were stopped, failed or answered are left out."""
    return tuple(
        Observation(trial.placement, trial.value, run) for trial in measured(trials) if trial.value is not None
    )


def effects_of(*runs: RunRecord) -> SiteEffects:
    """Return the effects in the searches of all runs; sites are matched by name, and each run has its own mean."""
    sites = dict.fromkeys(site for run in runs for site in searched_sites(run))
    found = [row for number, run in enumerate(runs) for row in observations(run.search, str(number))]
    return site_effects(found, tuple(sites))


def site_effects(found: Sequence[Observation], sites: Sequence[str]) -> SiteEffects:
    """Return the effect of each attention at each site, by a Bayesian regression on all trainings.

    value = mean of the run + sum over the sites of effect[site, attention] + noise. The effects of a site, and those of
    an attention, are similar to an extent that is estimated; all are shrunk by their estimated variance: see
    `nas_attn.report.mixed_model.fit`. Options are not distinguished, and effects of several sites add up; what does not
    is part of the noise. A sampler that prefers what did well does not bias the effects, as it would bias means.

    Args:
        sites: In the order of the table; sites that never differ are one row.
    """
    placements = list(dict.fromkeys((row.run, row.placement) for row in found))
    index = {key: number for number, key in enumerate(placements)}
    cells = _cells([placement for _, placement in placements], sites)
    n_trials, n_placements = len(found), len(placements)
    posterior = fit(_design(found, index, cells)) if cells else None
    if posterior is None:
        return SiteEffects((), n_trials, n_placements)
    clear = posterior.clear()
    numbers = zip(posterior.mean, posterior.quantile(0.025), posterior.quantile(0.975), clear, strict=True)
    effects = tuple(
        Effect(cell.sites, cell.attention, float(mean), float(low), float(high), bool(is_clear), len(cell.used))
        for cell, (mean, low, high, is_clear) in zip(cells, numbers, strict=True)
    )
    needed = _needed(posterior, n_trials)
    enough = bool(clear.any()) or needed <= n_trials
    return SiteEffects(
        effects,
        n_trials,
        n_placements,
        posterior.noise_sd,
        posterior.effect_sd,
        enough,
        None if enough or needed > MOST_TRIALS else needed,
    )


@dataclass(frozen=True)
class _Cell:
    """One attention at one site; `used` are the numbers of the placements that have it."""

    sites: tuple[str, ...]
    attention: str
    used: tuple[int, ...]


def _cells(placements: Sequence[Placement], sites: Sequence[str]) -> list[_Cell]:
    """Return one cell per site and attention that occur together; sites that never differ are one."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for site in sites if placements else ():
        names = tuple(found[site].name if site in found.attentions else BARE for found in placements)
        groups.setdefault(names, []).append(site)
    return [
        _Cell(tuple(together), name, tuple(number for number, used in enumerate(names) if used == name))
        for names, together in groups.items()
        for name in sorted(set(names) - {BARE})
    ]


def _design(found: Sequence[Observation], index: Mapping[tuple[str, Placement], int], cells: Sequence[_Cell]) -> Design:
    active = np.zeros((len(index), len(cells)))
    for column, cell in enumerate(cells):
        active[list(cell.used), column] = 1.0
    runs = list(dict.fromkeys(run for run, _ in index))
    rows = list(dict.fromkeys(cell.sites for cell in cells))
    columns = list(dict.fromkeys(cell.attention for cell in cells))
    return Design(
        values=np.array([row.value for row in found]),
        points=np.array([index[row.run, row.placement] for row in found]),
        active=active,
        blocks=np.array([runs.index(run) for run, _ in index]),
        rows=np.array([rows.index(cell.sites) for cell in cells]),
        columns=np.array([columns.index(cell.attention) for cell in cells]),
    )


def _needed(posterior: Posterior, n_trials: int) -> int:
    """Return about how many trials explain the share `KNOWN`, in tens: what is unknown falls as 1 / n.

    They are more than the effects, since fewer say nothing about the noise.
    """
    exact = max(n_trials * posterior.odds_of_noise * KNOWN / (1.0 - KNOWN), len(posterior.mean) + 10)
    return int(float(f"{10 * math.ceil(exact / 10):.2g}"))


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
    """One site and attention, or nothing; `strength` (0 to 1) and `sign` ("up", "down", "") give its colour."""

    effect: Effect | None
    strength: float = 0.0
    sign: str = ""


@dataclass(frozen=True)
class HeatRow:
    """The cells of one site, or of sites whose attentions were always equal."""

    sites: tuple[str, ...]
    cells: tuple[HeatCell, ...]


@dataclass(frozen=True)
class Heat:
    """Sites by attentions."""

    attentions: tuple[str, ...]
    rows: tuple[HeatRow, ...]


def heat_map(found: SiteEffects) -> Heat | None:
    """Return the effects as a table, or None if there are none."""
    if not found.effects:
        return None
    columns = tuple(sorted({effect.attention for effect in found.effects}))
    largest = max(map(_size, found.effects)) or 1.0
    by_place = {(effect.sites, effect.attention): effect for effect in found.effects}
    rows = [
        HeatRow(sites, tuple(_heat_cell(by_place.get((sites, name)), largest) for name in columns))
        for sites in dict.fromkeys(effect.sites for effect in found.effects)
    ]
    return Heat(columns, tuple(rows))


def _heat_cell(effect: Effect | None, largest: float) -> HeatCell:
    if effect is None:
        return HeatCell(None)
    return HeatCell(effect, round(_size(effect) / largest, 3), "up" if effect.mean > 0 else "down")
