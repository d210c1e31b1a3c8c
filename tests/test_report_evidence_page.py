"""The section of the page on classes, calibration and curves."""

from __future__ import annotations

import re

import numpy as np
import pytest
from evidence_runs import (
    FOUND_HERE,
    charts_of,
    evidence,
    many_labels,
    one_class_each,
    page_of,
    section_html,
    section_of,
    shown,
    with_data,
)
from matplotlib.colors import to_hex, to_rgb
from synthetic_run import make_run

from nas_attn.records import RunRecord
from nas_attn.report.evidence import drawn_of, evidence_of
from nas_attn.report.palette import DARK, LIGHT


@pytest.mark.parametrize("make", [one_class_each, many_labels])
def test_the_section_shows_every_number_and_no_verdict(make):
    run = make()
    text, found = section_of(page_of(make)), evidence(run)
    for row in found.metrics:
        assert f"{row.scale.number(row.summaries['none'].mean)} ±" in text
        assert row.scale.signed(row.differences["found #1"].summary.mean).replace("-", "\N{MINUS SIGN}") in text
    assert all(row.name in text for row in found.classes)
    assert "95 % interval by itself, not corrected" in text
    assert not re.search(r"\b(better|worse|significant\w*|nan|None)\b", text)


def test_there_is_no_section_without_predictions_and_curves():
    run = make_run(n_trials=8, found=FOUND_HERE)
    assert evidence_of(run) is None
    text = section_of(shown(run))
    assert "Learning curves" in text
    assert "Class by class" not in text
    searched = RunRecord(run.folder, run.config, None, run.search[:1], (), ())
    assert "Classes and curves" not in shown(searched)


def test_figures_have_a_title_for_each_cell_and_bin():
    run = one_class_each()
    charts = {chart.name: chart for chart in charts_of(run)}
    drawn, names = drawn_of(run)
    confusion = charts["confusion"]
    assert [view.label for view in confusion.views] == ["Confusion matrix of none", "Confusion matrix of found #1"]
    for number, one in enumerate(drawn):
        titles = confusion.titles[f"cells-{number}"]
        assert len(titles) == np.count_nonzero(one.matrix)
        assert f"{names[0]} predicted as {names[0]}: {100 * one.matrix[0, 0]:.2f} %" in titles
        assert len(charts["calibration"].titles[f"bins-{number}"]) == len(one.reliability.right)
    matrices = confusion.inline()
    assert len(matrices) == 2
    assert all("elk" in matrix for matrix in matrices)


def luminance(colour: np.ndarray) -> float:
    """Return the relative luminance of an sRGB colour (WCAG 2.2). Shape: (3,)."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_numbers_are_legible_on_every_cell(palette: dict[str, str]):
    confusion = next(chart for chart in charts_of(one_class_each()) if chart.name == "confusion")
    names, ink = {colour: name for name, colour in LIGHT.items()}, np.array(to_rgb(palette["ink"]))
    shades = np.concatenate([axes.collections[0].get_facecolors() for axes in confusion.figure.axes])
    assert len(shades) > 20
    for *colour, alpha in shades:
        over = np.array(to_rgb(palette[names[to_hex(colour)]]))
        cell = alpha * over + (1 - alpha) * np.array(to_rgb(palette["paper"]))
        light, dark = sorted((luminance(cell), luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (names[to_hex(colour)], alpha)


def test_names_of_classes_are_shown_as_text():
    names = ["<b>ant</b>", "a & b", "c|d", "e", "$x_1$"]
    html = section_html(shown(with_data(one_class_each(), names)))
    assert "<b>ant" not in html
    assert "&lt;b&gt;ant" in html
    assert "a &amp; b" in html
