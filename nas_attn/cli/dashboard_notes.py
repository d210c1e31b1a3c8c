"""What the dashboard says in words: the verdict, each trial's placement, and what matters where."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from statistics import fmean

from nas_attn.records import RunRecord, Stage, TrialRecord
from nas_attn.report import words
from nas_attn.report.importance import effects_of, searched_sites
from nas_attn.report.tables import in_flow_order, section
from nas_attn.report.verdict import verdict_of

REPORT = "/report"
"""Where the dashboard's server shows the report."""

SPLITS: Mapping[Stage, str] = {
    "screen": "validation",
    "search": "validation",
    "control": "validation",
    "confirm": "validation",
    "retrain": "test",
}
TITLES: Mapping[Stage, str] = {
    "search": "search",
    "confirm": "confirm (validation)",
    "retrain": "retrain (test)",
    "control": "random search",
    "screen": "shared weights",
}
"""Name of the study of each stage."""

ABOUT: Mapping[Stage, str] = {
    "search": "Each trial trains one placement once, and is ranked on the validation images: the best single value is "
    "partly luck.",
    "control": "A random search of the same cost beside the search, for comparison: what the sampler is worth. Each "
    "trial trains one placement once, and is ranked on the validation images.",
    "screen": "The training of one network that has every choice at every site, before the search; its value is the "
    "mean over the placements that it ranked on the validation images.",
    "confirm": "The best placements of the search and no attention, trained again with new seeds and measured on the "
    "validation images. The mean over the seeds ranks them, so that no single training is the best one.",
    "retrain": "The arms of the comparison, each trained over the same new seeds and measured once on the test images. "
    "Test decides nothing but what is recommended, by the rule in the report: no single training is the best one.",
}

MOST_SITES = 30
"""A drawing with more sites shows only those that have an attention."""

MOST_LEADERS = 10


def metric_name(run: RunRecord, stage: Stage) -> str:
    """Return what a value of a stage is, e.g. `validation accuracy`."""
    return f"{SPLITS[stage]} {words.scale_of(run).noun}"


def study_facts(run: RunRecord, stage: Stage) -> dict[str, str]:
    """Return what stands in a study's table of attributes, by name."""
    verdict, config = verdict_of(run), run.config
    rows: Sequence[TrialRecord] = getattr(run, stage)
    facts = {
        "verdict": verdict.title,
        "numbers": verdict.numbers,
        "value": f"{metric_name(run, stage)} (higher is better)",
        "report": str(run.folder / "report.html") if (run.folder / "report.html").exists() else "not written yet",
        "rows": words.count(len(rows), "training"),
        "data": str(section(config, "data", "facts").get("name") or section(config, "data").get("name") or ""),
        "backbone": str(section(config, "space", "backbone").get("name") or ""),
        "begun": str(config.get("created") or ""),
        "command": str(config.get("command") or ""),
    }
    return {name: text for name, text in facts.items() if text}


def study_note(run: RunRecord, stage: Stage) -> str:
    """Return the note of a study in Markdown: the verdict, the way to the report, and what the study holds."""
    verdict = verdict_of(run)
    lines = [f"# {plain(verdict.title)}", *([f"{plain(verdict.numbers)}."] if verdict.numbers else [])]
    lines += [plain(line) for line in verdict.more]
    report = run.folder / "report.html"
    lines += (
        [f"**[Open the report]({REPORT})**, or the file {plain(str(report))}"]
        if report.exists()
        else [f"The report is written when the run ends: {plain(str(report))}"]
    )
    lines += [f"## {plain(TITLES[stage].capitalize())}", ABOUT[stage]]
    if stage == "search":
        lines += _what_matters(run)
    elif stage not in ("control", "screen"):
        lines += [
            "The bars of *Hyperparameter Importance* are shares of the variance of the values: what the choice of the "
            "network explains, and what the seed."
        ]
    return "\n\n".join(lines)


def _what_matters(run: RunRecord) -> list[str]:
    """Return the ranking of the sites in Markdown."""
    found, scale = effects_of(run), words.scale_of(run)
    if not found.effects:
        return []
    rows = [
        f"| {plain(words.listed(effect.sites))} | {plain(effect.attention)} | {scale.signed(effect.mean)} | "
        f"{scale.signed_interval(effect.summary)} | {effect.n_placements} |"
        for effect in found.leaders[:MOST_LEADERS]
    ]
    unit = "points" if scale.points else scale.noun
    table = [f"| site | attention | adds ({unit}) | 95 % interval | placements |", "|---|---|---|---|---|", *rows]
    return [
        "## What matters where",
        plain(found.verdict),
        "\n".join(table),
        "By a regression on what stood at every site. The bars of *Hyperparameter Importance* are the sizes of these "
        "effects; options of an attention that was not there count nowhere.",
    ]


def trial_note(run: RunRecord, row: TrialRecord, searched: Sequence[str]) -> str:
    """Return the note of a trial in Markdown: its placement in words, and a drawing along the data flow.

    Args:
        searched: The searched sites of the run.
    """
    lines = [f"## {plain(words.placement_words(row.placement, run.table, len(searched)))}"]
    lines += [_how_it_ended(run, row)]
    lines += [f"```\n{drawing(run, row, searched)}\n```"] if len(row.placement) else []
    return "\n\n".join(lines)


def _how_it_ended(run: RunRecord, row: TrialRecord) -> str:
    """Return what a trial is, and its value or the reason why it has none."""
    name = f"{plain(row.label)}: " if row.label else ""
    about = f"{name}seed {row.seed}, {words.count(row.epochs, 'epoch')}"
    if row.state == "fail":
        return f"{about}. Failed ({words.CAUSES.get(row.cause or '', row.cause)}): {plain(row.reason or '')}"
    if row.value is None:
        return f"{about}. Not finished."
    value = f"{words.value_words(row.value, words.scale_of(run))} on {SPLITS[row.stage]}"
    stopped = ", stopped early" if row.state == "pruned" else ""
    answered = "" if row.answered_from is None else f", answered from trial {row.answered_from} without training"
    return f"{about}. {value}{stopped}{answered}."


def drawing(run: RunRecord, row: TrialRecord, searched: Sequence[str]) -> str:
    """Return a placement drawn in lines: a site each, in the order of the data flow.

    A long list shows only the sites that have an attention.
    """
    sites = in_flow_order(dict.fromkeys([*searched, *row.placement]), run.table)
    if len(sites) > MOST_SITES:
        sites = in_flow_order(row.placement, run.table)
    width = max(map(len, sites))
    lines = []
    for site in sites:
        attention = row.placement.attentions.get(site)
        what = "." if attention is None else "  ".join([attention.name, ", ".join(words.options_of(attention))])
        lines.append(f"{site.ljust(width)}  {what}".rstrip())
    return "\n".join(lines)


def site_importance(run: RunRecord) -> dict[str, float]:
    """Return how much each site matters, the most first: the size of its effects, as shares that add up to 1.

    Every searched site has an entry, of zero where the trials allow no estimate.
    """
    sizes: dict[str, float] = {}
    for effect in effects_of(run).effects:
        name = effect.sites[0] if len(effect.sites) == 1 else f"{effect.sites[0]} and {len(effect.sites) - 1} more"
        sizes[name] = math.hypot(sizes.get(name, 0.0), effect.mean)
    total = sum(sizes.values())
    if not total:
        return dict.fromkeys(searched_sites(run), 0.0)
    return {name: size / total for name, size in sorted(sizes.items(), key=lambda pair: -pair[1])}


def variance_shares(rows: Sequence[Mapping[str, str]], values: Sequence[float]) -> dict[str, float]:
    """Return the share of the values' variance that each factor explains alone.

    Args:
        rows: The level of each factor, e.g. `{"arm": "none", "seed": "200"}`; one row per value.

    >>> variance_shares([{"arm": "a"}, {"arm": "a"}, {"arm": "b"}, {"arm": "b"}], [1.0, 1.0, 2.0, 2.0])
    {'arm': 1.0}
    """
    total = sum((value - fmean(values)) ** 2 for value in values)
    shares = {}
    for factor in rows[0] if rows else ():
        groups: dict[str, list[float]] = {}
        for row, value in zip(rows, values, strict=True):
            groups.setdefault(row[factor], []).append(value)
        between = sum(len(group) * (fmean(group) - fmean(values)) ** 2 for group in groups.values())
        shares[factor] = between / total if total else 0.0
    return shares


def plain(text: str) -> str:
    """Return text in which nothing is Markdown or HTML.

    >>> plain("<b>a_b</b>")
    '\\\\<b\\\\>a\\\\_b\\\\</b\\\\>'
    """
    return re.sub(r"([\\`*_{}\[\]<>()#|~$])", r"\\\1", " ".join(text.split()))
