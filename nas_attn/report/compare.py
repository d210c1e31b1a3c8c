"""Several runs side by side: their arms in one table and one figure, and whether their values can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from nas_attn.errors import showable
from nas_attn.records import RunRecord
from nas_attn.report.chart import COLUMN, Chart, style
from nas_attn.report.palette import LIGHT, family_colour
from nas_attn.report.tables import Arm, arms_of, section
from nas_attn.report.words import Scale, listed, scale_of

DATA_FACTS = ("name", "image_size", "in_channels", "n_train", "n_val", "n_test", "class_names")
"""Facts about the data that a message names if they differ."""

ROW, MARGIN = 0.2, 0.75
"""Inches: the height of a row of the figure, and of all that is not a row."""


@dataclass(frozen=True)
class Row:
    """One arm of one run.

    Args:
        run: Shortest name that tells the runs apart.
        is_recommended: Whether its run recommends it.
    """

    run: str
    arm: Arm
    is_recommended: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the row in plain JSON."""
        summary = self.arm.summary
        return {
            "run": self.run,
            "arm": self.arm.label,
            "recommended": self.is_recommended,
            "mean": summary.mean if summary else None,
            "sd": summary.sd if summary else None,
            "interval": list(summary.interval) if summary and summary.interval else None,
            "n": summary.n if summary else 0,
            "epochs": self.arm.epochs,
            "n_parameters": self.arm.n_parameters,
            "n_macs": self.arm.n_macs,
        }


@dataclass(frozen=True)
class Comparison:
    """The arms of several runs.

    Args:
        notes: Why values of different runs cannot be compared, or only with care; one sentence each.
        is_same_data: Whether all runs were tested on the same images, at the same size and split.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    is_same_data: bool
    scale: Scale

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison in plain JSON."""
        return {
            "same_data": self.is_same_data,
            "notes": list(self.notes),
            "metric": self.scale.noun,
            "arms": [row.to_dict() for row in self.rows],
        }


def compare_runs(runs: Sequence[RunRecord]) -> Comparison:
    """Return the arms of the runs that have a test value, run by run, and what keeps the runs from being compared."""
    names = run_names(runs)
    rows = [
        Row(name, arm, bool(run.best) and (run.best or {}).get("recommended") in (arm.label, *arm.names))
        for name, run in zip(names, runs, strict=True)
        for arm in arms_of(run)
        if arm.summary is not None
    ]
    prints = {section(run.config, "data", "facts").get("fingerprint") for run in runs}
    same = len(prints) == 1 and None not in prints
    notes = [*([] if same else [_other_data(names, runs)]), *_other_settings(names, runs), *_other_metrics(names, runs)]
    silent = [name for name in names if name not in {row.run for row in rows}]
    if silent:
        notes.append(f"No arm of {listed(silent)} has a test value yet.")
    return Comparison(tuple(rows), tuple(notes), same, scale_of(runs[0]))


def comparison_chart(found: Comparison) -> Chart:
    """Draw the test values of every arm, run by run: each seed, the mean and its interval."""
    scale = found.scale
    with style():
        figure = Figure(figsize=(2 * COLUMN, MARGIN + ROW * (len(found.rows) + 1)), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(found.rows):
            _draw_row(axes, place, row, scale)
            if place and row.run != found.rows[place - 1].run:
                axes.axhline(place - 0.5, color=LIGHT["faint"], lw=0.8)
        axes.set_yticks(range(len(found.rows)), [_label(row) for row in found.rows])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(found.rows) - 0.4, -0.6)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"Test {scale.noun}{f' ({scale.unit.strip()})' if scale.unit.strip() else ''}")
        if not found.is_same_data:
            axes.set_title("Tested on different images: compare within a run only", fontsize=8, color=LIGHT["worse"])
    return Chart("compare", f"Test {scale.noun} of every arm of the runs, with mean and interval", figure)


def _draw_row(axes: Any, place: int, row: Row, scale: Scale) -> None:
    summary = row.arm.summary
    assert summary is not None, "an arm without values is no row"
    families = [attention.name for attention in row.arm.placement.attentions.values()]
    colour = LIGHT[family_colour(max(sorted(families), key=families.count)) if families else "plain"]
    if summary.interval is not None:
        axes.plot([end * scale.factor for end in summary.interval], [place, place], color=colour, lw=1.6, alpha=0.55)
    values = [value * scale.factor for value in row.arm.by_seed.values()]
    axes.plot(values, [place] * len(values), "o", ms=3, color=colour, alpha=0.45, mew=0)
    axes.plot([summary.mean * scale.factor], [place], "|", ms=9, mew=1.6, color=colour)


def _label(row: Row) -> str:
    return f"{showable(row.run)}: {showable(row.arm.label)}{' (recommended)' if row.is_recommended else ''}"


def run_names(runs: Sequence[RunRecord]) -> list[str]:
    """Return the name of each run's folder, or its whole path if two have one name."""
    names = [run.folder.resolve().name for run in runs]
    return [name if names.count(name) == 1 else str(run.folder) for name, run in zip(names, runs, strict=True)]


def _other_data(names: Sequence[str], runs: Sequence[RunRecord]) -> str:
    """Return in one sentence how the data of the runs differ."""
    facts = [section(run.config, "data", "facts") for run in runs]
    unknown = [name for name, found in zip(names, facts, strict=True) if "fingerprint" not in found]
    if unknown:
        return f"The images of {listed(unknown)} are unknown, so values can be compared within a run only."
    data = [section(run.config, "data") for run in runs]
    values = [{key: found.get(key) for key in DATA_FACTS} for found in facts]
    values = [
        value | {"split": one.get("split"), "split seed": one.get("seed")}
        for value, one in zip(values, data, strict=True)
    ]
    found = differing(names, values)
    shown = f" ({'; '.join(found)})" if found else ""
    return f"The runs have other data or another split{shown}: values can be compared within a run only."


def _other_settings(names: Sequence[str], runs: Sequence[RunRecord]) -> list[str]:
    """Return a sentence about differing training recipes, if any."""
    found = differing(names, [section(run.config, "recipe") for run in runs])
    return [f"The runs train differently ({'; '.join(found)}): a difference may come from that."] if found else []


def _other_metrics(names: Sequence[str], runs: Sequence[RunRecord]) -> list[str]:
    metrics = {name: scale_of(run).noun for name, run in zip(names, runs, strict=True)}
    if len(set(metrics.values())) == 1:
        return []
    return [f"The runs have other metrics ({', '.join(f'{name}: {noun}' for name, noun in metrics.items())})."]


def differing(names: Sequence[str], values: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return `key: value in run, value in run` for every key whose values differ."""
    keys: Iterable[str] = dict.fromkeys(key for value in values for key in value)
    found = []
    for key in keys:
        stated = [str(value.get(key)) for value in values]
        if len(set(stated)) > 1:
            shown = [one if len(one) <= 40 else f"{one[:37]}..." for one in stated]
            pairs = ", ".join(f"{one} in {name}" for one, name in zip(shown, names, strict=True))
            found.append(f"{key}: {pairs}")
    return found
