"""The report as one self-contained page, with its figures and tables beside it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from nas_attn.placement import Attention, Placement
from nas_attn.records import RunRecord
from nas_attn.report import charts, words
from nas_attn.report.csv_files import arms_csv, trials_csv
from nas_attn.report.drawing import PANEL_WIDTH, SPINE, draw_network
from nas_attn.report.figures import write_figures
from nas_attn.report.importance import marginals, option_marginals, rows_of, searched_sites
from nas_attn.report.tables import (
    FOUND,
    NONE,
    Arm,
    against,
    arm_called,
    arms_of,
    counts_of,
    failures_of,
    found_placement,
    history_of,
    in_flow_order,
    section,
)
from nas_attn.report.verdict import judge
from nas_attn.statistics import Comparison

HERE = Path(__file__).resolve().parent
STEADY = 0.2  # the quartiles of times lie no further apart than this share of the median on a quiet machine
MOST_ROWS = 5  # of the list of what goes where


def write_report(run: RunRecord, folder: Path) -> Path:
    """Write `report.html`, `figures/`, `trials.csv` and `arms.csv` into `folder`; return the page's path.

    Each file is replaced as a whole, so that a reader never sees half of one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "trials.csv", trials_csv(run))
    write_text(folder / "arms.csv", arms_csv(run))
    figures = write_figures(run, folder / "figures")
    page = folder / "report.html"
    write_text(page, render(run, [path.stem for path in figures if path.suffix == ".svg"]))
    return page


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole: under another name first, then renamed."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    os.replace(part, path)


def render(run: RunRecord, figures: Sequence[str] = ()) -> str:
    """Return the page; `figures` are the names of the figures that lie beside it."""
    return _environment().get_template("page.html.j2").render(**content(run, figures))


@cache
def _environment() -> Environment:
    """Return what reads and fills the templates."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "minus": minus,
        "kept": kept,
        "short": words.short,
        "duration": words.duration,
        "milliseconds": words.milliseconds,
        "listed": words.listed,
        "runs": words.runs_of,
    }
    return environment


def minus(text: object) -> str:
    """Return text with true minus signs before its numbers."""
    return re.sub(r"(?<![\w.)-])-(?=[\d.])", "\N{MINUS SIGN}", str(text))


def kept(text: str) -> Markup:
    """Return text whose numbers stay on one line with their signs and units."""
    pattern = r"(n = \d+(?: seeds?)?|\d[\d.,]*(?: %| points?| trials?| sites?)|[+\N{MINUS SIGN}]\d[\d.,]*)"
    return Markup(re.sub(pattern, r'<span class="kept">\1</span>', str(escape(minus(text)))))


def content(run: RunRecord, figures: Sequence[str]) -> dict[str, Any]:
    """Return everything that the page shows, computed."""
    arms, colours, scale = arms_of(run), charts.Colours.of(run), words.scale_of(run)
    judged = judge(run)
    placement = found_placement(run)
    return {
        "verdict": judged,
        "facts": _facts(run, arms),
        "scale": scale,
        "colours": colours,
        "figures": figures,
        "placement": _placement_rows(run, placement),
        "exported": run.best.get("recommended") if run.best else None,
        "network": _network(run, placement),
        "arms": _arm_rows(arms, colours, run),
        "unsteady": _unsteady(arms),
        "bench": next((arm.attempt.bench for arm in arms if arm.attempt), None),
        "unmeasured": [(arm.label, arm.attempt.reason) for arm in arms if arm.attempt and not arm.measured],
        "arms_strip": charts.arms_strip(arms, run.table, colours, scale),
        "differences": _differences(run, arms, scale),
        "costs": _cost_charts(run, arms, colours, scale),
        "history": charts.history_chart(history_of(run.search), run.table, colours, scale),
        "counts": counts_of(run.search),
        "confirmed": _confirmed(run),
        **_importance(run),
        "failures": _failures(run),
        "reproduce": _reproduce(run, arms),
        "words": words,
    }


def _facts(run: RunRecord, arms: Sequence[Arm]) -> dict[str, Any]:
    """Return what the line under the verdict tells: the space, the data, the budgets."""
    space, facts = section(run.config, "space"), section(run.config, "data", "facts")
    trials = (*run.search, *run.confirm, *run.retrain)
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
        "seconds": sum(trial.seconds for trial in trials),
    }


def _stages(run: RunRecord) -> list[str]:
    return [stage for stage in ("search", "confirm", "retrain") if getattr(run, stage)]


@dataclass(frozen=True)
class PlacementRow:
    """Sites that hold the same attention with the same options."""

    family: str
    options: tuple[str, ...]
    sites: tuple[str, ...]


def _placement_rows(run: RunRecord, placement: Placement | None) -> list[PlacementRow]:
    """Return what goes where; when that is too much, without the options, which the drawing tells site by site."""
    if placement is None:
        return []
    for is_detailed in (True, False):
        kept: dict[Any, list[str]] = {}
        for site in in_flow_order(placement, run.table):
            held = placement[site]
            kept.setdefault(held if is_detailed else Attention(held.name), []).append(site)
        if len(kept) <= MOST_ROWS:
            break
    return [PlacementRow(held.name, words.options_of(held), tuple(sites)) for held, sites in kept.items()]


def _network(run: RunRecord, placement: Placement | None) -> dict[str, Any] | None:
    if run.table is None:
        return None
    panels = draw_network(run.table, placement or Placement(), searched_sites(run))
    shape = (run.table.in_channels, run.table.image_size, run.table.image_size)
    return {
        "panels": panels,
        "width": PANEL_WIDTH,
        "spine": SPINE,
        "shape": shape,
        "output": run.table.output,
        "families": sorted({a.name for a in placement.attentions.values()}) if placement else [],
    }


@dataclass(frozen=True)
class ArmRow:
    """One row of the tables of arms; what it costs more than the bare network is in per cent."""

    arm: Arm
    colour: str
    comparison: Comparison | None
    more_parameters: float | None
    more_macs: float | None
    more_time: float | None
    more_memory: float | None


def _arm_rows(arms: Sequence[Arm], colours: charts.Colours, run: RunRecord) -> list[ArmRow]:
    none = arm_called(arms, NONE)
    base = run.table
    return [
        ArmRow(
            arm,
            colours.placement(arm.placement, run.table),
            against(arm, none) if none and none is not arm else None,
            _more(arm.n_parameters, base.n_parameters if base else None),
            _more(arm.n_macs, base.n_macs if base else None),
            _more(arm.measured.latency_ratio, 1) if arm.measured else None,
            _more(_training_bytes(arm), _training_bytes(none)),
        )
        for arm in arms
    ]


def _training_bytes(arm: Arm | None) -> int | None:
    return arm.measured.training_bytes if arm and arm.measured else None


def _unsteady(arms: Sequence[Arm]) -> float | None:
    """Return how far the times of an arm spread at most, in per cent of their median, if that is much."""
    found = [arm.measured.latency_spread_ms / arm.measured.latency_ms for arm in arms if arm.measured]
    most = max(found, default=0.0)
    return 100 * most if most > STEADY else None


def _more(cost: float | None, base: float | None) -> float | None:
    """Return how much more a cost is than the bare network's, in per cent."""
    return 100.0 * (cost - base) / base if cost is not None and base else None


def _differences(run: RunRecord, arms: Sequence[Arm], scale: words.Scale) -> dict[str, Any] | None:
    """Return `found #1` against every other arm, the two of the verdict first."""
    judged = judge(run)
    found = arm_called(arms, FOUND)
    if found is None:
        return None
    main = [arm.label for arm in (judged.none, judged.everywhere) if arm and arm.label != found.label]
    others = sorted((arm for arm in arms if arm is not found), key=lambda arm: arm.label not in main)
    comparisons = [against(found, arm) for arm in others]
    strip = charts.differences_strip(comparisons, main, scale)
    shown = [comparison for comparison in comparisons if comparison.summary is not None]
    return {"strip": strip, "comparisons": shown, "label": found.label} if strip else None


def _cost_charts(
    run: RunRecord, arms: Sequence[Arm], colours: charts.Colours, scale: words.Scale
) -> list[dict[str, Any]]:
    """Return four charts: the arms on test, the trials on validation, each over parameters and MACs."""
    drawn = []
    for cost, name in (("n_parameters", "parameters"), ("n_macs", "MACs")):
        sources = {"arms": charts.arm_points(arms, cost), "trials": charts.trial_points(run.search, cost)}
        for source, points in sources.items():
            chart = charts.cost_chart(points, run.table, colours, scale)
            if chart is not None:
                drawn.append({"source": source, "cost": name, "chart": chart})
    return sorted(drawn, key=lambda item: item["source"])


def _importance(run: RunRecord) -> dict[str, Any]:
    rows = rows_of(run.search)
    found = marginals(rows, searched_sites(run))
    return {
        "heat": charts.heat_map(found),
        "n_clear": sum(marginal.is_clear for marginal in found),
        "n_effects": sum(marginal.effect is not None for marginal in found),
        "n_placements": len(rows),
        "options": rows_by_option(option_marginals(rows)),
    }


def _confirmed(run: RunRecord) -> dict[str, int]:
    placements = {trial.placement for trial in run.confirm}
    return {"placements": len(placements), "runs": len(run.confirm)}


def _failures(run: RunRecord) -> list[dict[str, Any]]:
    """Return the failures by stage and cause, each with its reasons from the most frequent on."""
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
    """Return what is needed to do it again."""
    config = run.config
    return {
        "command": config.get("command"),
        "versions": section(config, "versions"),
        "commit": config.get("commit"),
        "fingerprint": section(config, "data", "facts").get("fingerprint"),
        "seeds": {
            "search": section(config, "engine").get("seed"),
            "confirm": sorted({trial.seed for trial in run.confirm}),
            "retrain": sorted({seed for arm in arms for seed in arm.by_seed}),
        },
        "recipe": _flat(section(config, "recipe")),
        "engine": _flat(section(config, "engine")),
        "budget": _flat(section(config, "budget")),
        "model": (run.folder / "best.json").as_posix() if run.best else None,
    }


def _flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return settings as words; what is not set is left out."""
    return [(name, str(value)) for name, value in values.items() if value is not None]


def rows_by_option(options: Iterable[Any]) -> list[tuple[tuple[str, str], list[Any]]]:
    """Return option marginals grouped by attention and option."""
    return [(key, list(group)) for key, group in groupby(options, key=lambda row: (row.attention, row.option))]
