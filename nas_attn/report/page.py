"""Writes the report: one self-contained page, and its figures and tables as files."""

from __future__ import annotations

import base64
import gc
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from nas_attn.comparison.answer import RULE
from nas_attn.comparison.contrasts import Contrast
from nas_attn.errors import showable
from nas_attn.files import write_text
from nas_attn.placement import NONE, Attention, Placement
from nas_attn.records import BARE, RunRecord
from nas_attn.report import words
from nas_attn.report.architecture import read_architecture
from nas_attn.report.chart import Chart
from nas_attn.report.csv_files import arms_csv, screen_csv, trials_csv
from nas_attn.report.documents import documents
from nas_attn.report.evidence import evidence_of, learning_curves
from nas_attn.report.figures import draw_charts
from nas_attn.report.front import front_of
from nas_attn.report.guards import guards, is_retrained
from nas_attn.report.importance import effects_of, heat_map, option_marginals, rows_of, searched_sites
from nas_attn.report.legend import families_of, symbols_of
from nas_attn.report.marks import Colours
from nas_attn.report.palette import DARK, LIGHT
from nas_attn.report.screen import screen_of
from nas_attn.report.tables import (
    Arm,
    answer_of,
    arm_called,
    arms_of,
    best_probabilities,
    found_placement,
    in_flow_order,
    latency_of,
    measured,
    section,
    trials_of,
)
from nas_attn.report.templates import environment
from nas_attn.report.trials import counts_of, failures_of
from nas_attn.report.verdict import differences_of, verdict_of
from nas_attn.statistics import SEEDS_AND_IMAGES

STEADY = 0.2  # on an idle machine the interquartile range of times is at most this share of their median
ENDED = ("complete", "pruned", "fail")  # states of a trial that was trained
MOST_ROWS = 5  # of the list of attentions and their sites


def write_report(run: RunRecord, folder: Path, *, charts: Sequence[Chart] = (), figures: bool = True) -> Path:
    """Write the page, its figures, tables and documents into `folder`; return the page's path.

    These are `report.html`, `figures/`, `trials.csv`, `arms.csv`, `report.md`, and where there is something to say
    `screen.csv`, `arms.tex` and `MODEL.md`. Each file is replaced as a whole: a reader never sees a part of one.

    Args:
        charts: The figures, if they are drawn already: those of this run before its costs were measured, for example.
        figures: Whether `figures/` is written too; the page has its figures in itself.
    """
    page = folder / "report.html"
    with _uncollected():
        _write(folder / "trials.csv", trials_csv(run))
        _write(folder / "arms.csv", arms_csv(run))
        if run.ranking is not None:
            _write(folder / "screen.csv", screen_csv(run.ranking))
        charts = charts or draw_charts(run)
        for chart in charts if figures else ():
            chart.write(folder / "figures")
        values = content(run, charts)
        for name, text in documents(run, values).items():
            _write(folder / name, text)
        _write(page, _page(values))
    return page


def _write(path: Path, text: str) -> None:
    """Write text whose names may hold what cannot be written or turns the text beside it."""
    write_text(path, showable(text))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Context manager: no garbage collection, a tenth of the time, as it visits all that torch and others hold."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def render(run: RunRecord) -> str:
    """Return the page."""
    return _page(content(run, draw_charts(run)))


def _page(values: Mapping[str, Any]) -> str:
    return _environment().get_template("page.html.j2").render(**values)


@cache
def _environment() -> Environment:
    """Return the environment of the page's templates."""
    return environment({"unbroken": unbroken}, autoescape=True)


def unbroken(text: str) -> Markup:
    """Return text in which a number is not separated from its sign and unit by a line break."""
    pattern = r"(n = \d+(?: seeds?)?|\d[\d.,]*(?: %| points?| trials?| sites?)|[+\N{MINUS SIGN}]\d[\d.,]*)"
    return Markup(re.sub(pattern, r'<span class="unbroken">\1</span>', str(escape(words.minus(text)))))


def content(run: RunRecord, charts: Sequence[Chart]) -> dict[str, Any]:
    """Return all values that the page shows."""
    arms, colours, verdict = arms_of(run), Colours.of(run), verdict_of(run)
    placement = found_placement(run)
    return {
        "verdict": verdict,
        "guards": [text for text in guards(run, arms) if text not in verdict.more],
        "rule": RULE,
        "covers_images": any(arm.summary and arm.summary.covers == SEEDS_AND_IMAGES for arm in arms),
        "facts": _facts(run, arms),
        "scale": words.scale_of(run),
        "colours": colours,
        "palettes": {"light": LIGHT, "dark": DARK},
        "charts": {chart.name: chart for chart in charts},
        "placement": _placement_rows(run, placement),
        "network": _network(run, placement),
        "arms": _arm_rows(arms, run),
        "unsteady": _unsteady(arms),
        "bench": next((arm.attempt.bench for arm in arms if arm.attempt), None),
        "unmeasured": [(arm.label, arm.attempt.reason) for arm in arms if arm.attempt and not arm.measured],
        "differences": differences_of(run),
        "best_probability": best_probabilities(arms),
        "counts": counts_of(run.search),
        "n_control": counts_of(run.control).ended,
        "screen": screen_of(run),
        "confirmed": _confirmed(run),
        "front": front_of(run),
        "evidence": evidence_of(run),
        "curves": learning_curves(run),
        **_importance(run),
        "failures": _failures(run),
        "reproduce": _reproduce(run, arms),
        "maps": _maps(run),
        "words": words,
    }


def _facts(run: RunRecord, arms: Sequence[Arm]) -> dict[str, Any]:
    """Return the facts in the line below the verdict: the space, the data, the budgets."""
    space, facts = section(run.config, "space"), section(run.config, "data", "facts")
    trials = trials_of(run)
    return {
        "title": space.get("title") or space.get("name") or run.folder.name,
        "backbone": run.table.backbone if run.table else section(space, "backbone").get("name"),
        "data": facts.get("name") or section(run.config, "data").get("name"),
        "n_images": [facts.get(name) for name in ("n_train", "n_val", "n_test")] if "n_test" in facts else None,
        "num_classes": facts.get("num_classes"),
        "several_labels": run.config.get("task") == "multi-label",
        "image_size": facts.get("image_size"),
        "n_seeds": max((len(arm.by_seed) for arm in arms), default=0),
        "epochs": {stage: sorted({t.epochs for t in trials if t.stage == stage}) for stage in _stages(run)},
        "n_searched": len(searched_sites(run)),
        "n_sites": len(run.table.sites) if run.table else None,
        "own_training": bool(run.config.get("train")),
        "retrained": is_retrained(run),
        "n_placements": len({t.key for t in run.search if t.answered_from is None and t.state in ENDED}),
        "seconds": sum(trial.seconds for trial in (*run.screen, *trials)),
        "created": str(run.config.get("created") or "")[:10],
    }


def _stages(run: RunRecord) -> list[str]:
    return [stage for stage in ("search", "control", "confirm", "retrain") if getattr(run, stage)]


@dataclass(frozen=True)
class PlacementRow:
    """The sites with the same attention and options."""

    family: str
    options: tuple[str, ...]
    sites: tuple[str, ...]


def _placement_rows(run: RunRecord, placement: Placement | None) -> list[PlacementRow]:
    """Return the attentions with their sites; without options if the drawing has them, or the list is too long."""
    if placement is None:
        return []
    for is_detailed in (False,) if run.table is not None else (True, False):
        groups: dict[Any, list[str]] = {}
        for site in in_flow_order(placement, run.table):
            attention = placement[site]
            groups.setdefault(attention if is_detailed else Attention(attention.name), []).append(site)
        if len(groups) <= MOST_ROWS:
            break
    return [PlacementRow(found.name, words.options_of(found), tuple(sites)) for found, sites in groups.items()]


def _network(run: RunRecord, placement: Placement | None) -> dict[str, Any] | None:
    """Return the legend of the network's drawing."""
    if run.table is None:
        return None
    shown = placement or NONE
    network = read_architecture(run.table, shown, searched_sites(run))
    return {"families": families_of(shown, run.table), "symbols": symbols_of(network)}


@dataclass(frozen=True)
class ArmRow:
    """One row of the tables of arms; costs above those of the bare network are in per cent."""

    arm: Arm
    comparison: Contrast | None
    more_parameters: float | None
    more_macs: float | None
    latency_ms: float | None
    more_time: float | None
    more_memory: float | None


def _arm_rows(arms: Sequence[Arm], run: RunRecord) -> list[ArmRow]:
    none, answer = arm_called(arms, BARE), answer_of(run)
    base = run.table
    return [
        ArmRow(
            arm,
            answer.between(arm.label, BARE),
            _more(arm.n_parameters, base.n_parameters if base else None),
            _more(arm.n_macs, base.n_macs if base else None),
            latency_of(arm, none),
            _more(arm.measured.latency_ratio, 1) if arm.measured and not _unsteady([arm]) else None,
            _more(_training_bytes(arm), _training_bytes(none)),
        )
        for arm in arms
    ]


def _training_bytes(arm: Arm | None) -> int | None:
    return arm.measured.training_bytes if arm and arm.measured else None


def _unsteady(arms: Sequence[Arm]) -> float | None:
    """Return the largest interquartile range of an arm's times in per cent of their median, or None if it is small."""
    found = [arm.measured.latency_spread_ms / arm.measured.latency_ms for arm in arms if arm.measured]
    most = max(found, default=0.0)
    return 100 * most if most > STEADY else None


def _more(cost: float | None, base: float | None) -> float | None:
    """Return by how many per cent a cost exceeds that of the bare network."""
    return 100.0 * (cost - base) / base if cost is not None and base else None


def _importance(run: RunRecord) -> dict[str, Any]:
    found = effects_of(run)
    return {
        "heat": heat_map(found),
        "sites": found,
        "options": rows_by_option(option_marginals(rows_of(run.search))),
    }


def _confirmed(run: RunRecord) -> dict[str, int | bool]:
    """Return the number of the best placements that were run again, and of their finished runs."""
    runs = Counter(trial.placement for trial in measured(run.confirm) if len(trial.placement))
    return {"placements": len(runs), "runs": sum(runs.values()), "is_in_rounds": max(runs.values(), default=0) > 2}


def _failures(run: RunRecord) -> list[dict[str, Any]]:
    """Return the failures by stage and cause, each with its reasons, the most frequent first."""
    return [
        {
            "stage": group.stage,
            "cause": words.CAUSES.get(group.cause, group.cause),
            "numbers": [trial.number for trial in group.trials],
            "reasons": Counter(trial.reason or "no reason was recorded" for trial in group.trials).most_common(3),
        }
        for group in failures_of(run)
    ]


def _reproduce(run: RunRecord, arms: Iterable[Arm]) -> dict[str, Any]:
    """Return what is needed to reproduce the run."""
    config = run.config
    return {
        "command": config.get("command"),
        "versions": section(config, "versions"),
        "commit": config.get("commit"),
        "fingerprint": section(config, "data", "facts").get("fingerprint"),
        "seeds": {
            "search": None if is_retrained(run) else section(config, "engine").get("seed"),
            "confirm": sorted({trial.seed for trial in run.confirm}),
            "retrain": sorted({seed for arm in arms for seed in arm.by_seed}),
        },
        "recipe": _flat(section(config, "recipe")),
        "engine": _flat(section(config, "engine")),
        "budget": _flat(section(config, "budget")),
        "model": run.folder.as_posix() if run.best else None,
    }


def _maps(run: RunRecord) -> str | None:
    """Return the figure that `nas-attn explain` drew as the address of an image, or None if there is none."""
    path = run.folder / "figures" / "maps.png"
    if not path.is_file():
        return None
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return settings as text, without those that are None."""
    return [(name, str(value)) for name, value in values.items() if value is not None]


def rows_by_option(options: Iterable[Any]) -> list[tuple[tuple[str, str], list[Any]]]:
    """Return option marginals grouped by attention and option."""
    return [(key, list(group)) for key, group in groupby(options, key=lambda row: (row.attention, row.option))]
