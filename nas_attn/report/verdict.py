"""The verdict in one sentence: which attention where, by how much it is better, and whether that exceeds the noise."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import fmean

from nas_attn.placement import NONE
from nas_attn.records import RunRecord
from nas_attn.report.importance import searched_sites
from nas_attn.report.tables import (
    BARE,
    CUT_OFF,
    FOUND,
    Arm,
    against,
    arm_called,
    arms_of,
    counts_of,
    leader,
    measured,
    rival,
    section,
    trials_of,
    values_by_placement,
)
from nas_attn.report.words import Scale, causes, count, placement_words, scale_of
from nas_attn.statistics import Comparison

NO_ATTENTION = "no attention"

OPENINGS: dict[str, str] = {  # by the verdict against no attention
    "better": "Place {where}: it gives ",
    "within noise": "No gain beyond noise was found: the best placement, {where}, gives ",
    "worse": "Use no attention: the best placement found, {where}, gives ",
    "not known": "Whether attention helps is not known yet: the best placement found, {where}, gives ",
}
SINGLE_SITES_LOSE = "Better than no attention, but worse than {rival}: {where} gives "
NONE_RECOMMENDED = "Use no attention: the best placement found, {where}, gives "
SPLIT_OPINION = (
    "Undecided, since validation recommends no attention but test does not: the best placement found, {where}, gives "
)


@dataclass(frozen=True)
class Part:
    """A part of the sentence; `mark` is its role: a verdict, "where" (the placement), or empty."""

    text: str
    mark: str = ""


Parts = tuple[Part, ...]


@dataclass(frozen=True)
class Verdict:
    """The first sentence of the report, and the arms that it compares.

    Args:
        word: The verdict against no attention; "not known" also before any retraining has finished.
        preliminary: Whether the run has not finished.
        found, none, everywhere: The arms; `everywhere` has the attention that `found #1` uses most at every site.
    """

    parts: Parts
    word: str = "not known"
    preliminary: bool = False
    found: Arm | None = None
    none: Arm | None = None
    everywhere: Arm | None = None

    def __str__(self) -> str:
        return "".join(part.text for part in self.parts)


@dataclass(frozen=True)
class Differences:
    """`found #1` minus the other arms.

    Args:
        label: The whole label of `found #1`.
        comparisons: Those with a seed in common; the ones of the verdict first.
        main: Labels of the arms that the verdict names.
    """

    label: str
    comparisons: tuple[Comparison, ...]
    main: frozenset[str]


def verdict(run: RunRecord) -> str:
    """Return the verdict as plain text, in one sentence."""
    return str(judge(run))


def judge(run: RunRecord) -> Verdict:
    """Return the verdict: on test values if arms were retrained, otherwise a preliminary one on validation values."""
    arms = arms_of(run)
    found = arm_called(arms, FOUND)
    if found is None or found.summary is None:
        return _before_test(run, found)
    name, everywhere = rival(found, arms, run.table)
    none = arm_called(arms, BARE)
    comparison = against(found, none) if none and none.summary else None
    word = comparison.word if comparison else "not known"
    scale = scale_of(run)
    loses = everywhere is not None and against(found, everywhere).word == "worse"
    opening = _opening(run, comparison, loses).format(where="\n", rival=name).split("\n")
    parts = (
        *((Part("Preliminary, since retraining is not finished. "),) if run.best is None else ()),
        Part(opening[0]),
        Part(_where(run, found, everywhere), "where"),
        Part(opening[1]),
        *_against_none(comparison, found, none, scale, " yet" if run.best is None else ""),
        *_against_everywhere(found, everywhere, name, scale, " yet" if run.best is None else ""),
        Part("."),
    )
    return Verdict(_one_sentence(parts), word, run.best is None, found, none, everywhere)


def differences_of(run: RunRecord) -> Differences | None:
    """Return `found #1` against every other arm, or None if no seed is shared."""
    judged, arms = judge(run), arms_of(run)
    found = arm_called(arms, FOUND)
    if found is None:
        return None
    main = {arm.label for arm in (judged.none, judged.everywhere) if arm and arm.label != found.label}
    others = sorted((arm for arm in arms if arm is not found), key=lambda arm: arm.label not in main)
    known = [comparison for arm in others if (comparison := against(found, arm)).summary is not None]
    return Differences(found.label, tuple(known), frozenset(main)) if known else None


def _one_sentence(parts: Parts) -> Parts:
    """Join "Preliminary, ..." and the sentence that follows by a colon."""
    if parts[0].text.startswith("Preliminary"):
        start = parts[1].text
        parts = (Part(parts[0].text.replace(". ", ": ")), Part(start[0].lower() + start[1:]), *parts[2:])
    return parts


def _opening(run: RunRecord, comparison: Comparison | None, loses: bool) -> str:
    """Return the beginning of the sentence; `loses`: whether the same attention everywhere is better."""
    recommended = run.best.get("recommended") if run.best else None
    word = comparison.word if comparison else None
    if recommended == BARE:
        return SPLIT_OPINION if word == "better" else NONE_RECOMMENDED
    if word is None:
        return "The best placement found is {where}: it gives "
    return SINGLE_SITES_LOSE if word == "better" and loses else OPENINGS[word]


def _where(run: RunRecord, found: Arm, everywhere: Arm | None) -> str:
    if everywhere is not None and everywhere.label == found.label:
        name = next(name for name in found.names if name.endswith(" everywhere"))
        return f"{name} ({count(len(found.placement), 'site')})"
    return placement_words(found.placement, run.table, len(searched_sites(run)))


def _against_none(comparison: Comparison | None, found: Arm, none: Arm | None, scale: Scale, yet: str) -> Parts:
    if comparison is not None:
        return _difference(comparison, f"{scale.points} of test {scale.noun} against {NO_ATTENTION}", scale)
    assert found.summary is not None, "an arm without values has no verdict"
    value = f"{scale.value(found.summary.mean)} test {scale.noun} (n = {count(found.summary.n, 'seed')})"
    why = "has no finished retraining" if none else "was not retrained"
    return (Part(f"{value}, but the arm '{BARE}' {why}{yet}, so nothing can be compared"),)


def _difference(comparison: Comparison, unit: str, scale: Scale) -> Parts:
    """Return the mean difference with its unit, and in brackets its interval, n and verdict."""
    summary = comparison.summary
    if summary is None:
        return (Part(f"no seed in common{unit.replace(scale.points, '', 1).replace('against', 'with')}"),)
    head = f"{scale.signed(summary.mean)}{unit} ("
    n = f"n = {count(summary.n, 'seed')}"
    if summary.n == 1:
        return Part(f"{head}{n}, so no interval: "), Part("not known", "not known"), Part(")")
    if comparison.word == "not known":
        return Part(f"{head}{n}; {comparison.why}: "), Part("not known", "not known"), Part(")")
    interval = f"{head}95 % interval {scale.signed_interval(summary)}, {n}: "
    return Part(interval), Part(comparison.word, comparison.word), Part(")")


def _against_everywhere(found: Arm, everywhere: Arm | None, name: str, scale: Scale, yet: str) -> Parts:
    if everywhere is None:
        return (Part(f"; '{name}' was not retrained{yet}"),)
    if everywhere.label == found.label:
        return (Part("; it is itself the best placement found, so choosing single sites gained nothing"),)
    if everywhere.summary is None:
        return (Part(f"; '{name}' has no finished retraining{yet}"),)
    limit = ", which is over the limit" if everywhere.over else ""
    return Part(" and "), *_difference(against(found, everywhere), f"{scale.points} against {name}{limit}", scale)


def _before_test(run: RunRecord, found: Arm | None) -> Verdict:
    """Return the verdict before a retraining of the found placement has a value."""
    lead = leader(run)
    if lead is None:
        return Verdict(_without_attention(run), preliminary=run.best is None)
    summary, scale = lead.summary, scale_of(run)
    planned = section(run.config, "budget").get("trials")
    ended = counts_of(run.search).ended
    done = f"{ended} of {max(ended, planned)} trials" if isinstance(planned, int) else count(ended, "trial")
    start = f"Preliminary after {done}, no test value yet: so far "
    if found is not None and found.failures:
        start = f"No test value, since all {count(len(found.failures), 'retraining')} of '{FOUND}' failed: "
    value = f" leads with {scale.value(summary.mean)} {scale.noun} on validation ("
    value += "one seed" if summary.n == 1 else f"mean of n = {summary.n} seeds"
    parts = (
        Part(start),
        Part(placement_words(lead.placement, run.table, len(searched_sites(run))), "where"),
        Part(value + _beside_plain(run, lead.stage, summary.mean, scale) + ")."),
    )
    return Verdict(parts, preliminary=True)


def _beside_plain(run: RunRecord, stage: str, mean: float, scale: Scale) -> str:
    """Return the difference to no attention in the same stage, with no verdict."""
    rows = run.confirm if stage == "confirm" else run.search
    values = values_by_placement(rows).get(NONE)
    if not values:
        return f"; {NO_ATTENTION} has no value yet"
    difference = scale.difference(mean - fmean(values))
    return f"; {difference} against {NO_ATTENTION}, not yet separated from noise"


def _without_attention(run: RunRecord) -> Parts:
    """Return the sentence for a run without a value of a trial with attention."""
    trials = trials_of(run)
    failed = Counter(trial.cause or "error" for trial in trials if trial.state == "fail" and trial.cause != CUT_OFF)
    reasons = causes(failed)
    ended = counts_of(run.search).ended
    plain = [trial for trial in measured(run.search) if not len(trial.placement)]
    if plain:
        scale, value = scale_of(run), plain[0].value or 0.0
        start = f"No trial with attention has a value yet: no attention reaches {scale.value(value)} {scale.noun}"
        return (Part(f"{start} on validation (one seed){f'; failed: {reasons}' if failed else ''}."),)
    if not failed:
        return (Part("Nothing has been measured yet: no trial has finished."),)
    if ended == sum(failed.values()):
        return (Part(f"Nothing was measured: all {count(ended, 'trial')} failed ({reasons})."),)
    return (
        Part(f"Nothing has been measured yet: no trial has finished, and {sum(failed.values())} failed ({reasons})."),
    )
