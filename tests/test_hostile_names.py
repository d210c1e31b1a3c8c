"""Names of sites, classes, arms, spaces and folders are foreign text: shown as text, and never more than that."""

from __future__ import annotations

import csv
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from report_cases import Reader
from synthetic_run import make_run, with_predictions

from nas_attn.placement import Placement
from nas_attn.records import RunRecord, TrialRecord
from nas_attn.report.chart import Chart
from nas_attn.report.csv_files import cell
from nas_attn.report.page import write_report
from nas_attn.report.words import quoted

HOSTILE = (
    "=1+1\"><script>alert(1)</script><img src=x onerror=a()>'&{{7*7}}$x$\\input{x}%`|*_[x](javascript:y)```\n"
    "\N{RIGHT-TO-LEFT OVERRIDE}\N{LEFT-TO-RIGHT ISOLATE}\x1b[31m\0\x07\r\x85\ud800"
)


def hostile_run() -> RunRecord:
    """A run in which every name that a user, a data set or a network chooses is hostile."""
    run = with_predictions(make_run(n_trials=12, n_seeds=2), n_images=60)
    assert run.table is not None
    assert run.best is not None
    sites = tuple(replace(site, name=site.name + HOSTILE, stage=site.stage + HOSTILE) for site in run.table.sites)
    facts = {**run.config["data"]["facts"], "name": HOSTILE, "fingerprint": HOSTILE}
    facts["class_names"] = [f"{HOSTILE}{number}" for number in range(10)]
    space = {**run.config["space"], "title": HOSTILE, "name": HOSTILE}
    versions = {HOSTILE: HOSTILE}
    config = {**run.config, "space": space, "data": {"name": HOSTILE, "facts": facts}, "versions": versions}
    placed = {site + HOSTILE: attention for site, attention in run.best["placement"].items()}
    weights = {"name": HOSTILE, "sha256": HOSTILE}
    return replace(
        run,
        folder=Path(HOSTILE),
        config={**config, "command": HOSTILE, "commit": HOSTILE, "created": HOSTILE},
        table=replace(run.table, backbone=HOSTILE, sites=sites),
        search=tuple(map(hostile_row, run.search)),
        confirm=tuple(map(hostile_row, run.confirm)),
        retrain=tuple(map(hostile_row, run.retrain)),
        predictions={
            (hostile_place(row.placement).key, row.seed, row.epochs): run.predictions[row.key, row.seed, row.epochs]
            for row in run.retrain
        },
        best={**run.best, "arm": "found #1", "placement": placed, "weights": weights, "backbone": {"name": HOSTILE}},
    )


def hostile_row(row: TrialRecord) -> TrialRecord:
    label = row.label if row.label in (None, "none", "found #1") else f"{row.label} = {HOSTILE}"
    reason = None if row.reason is None else HOSTILE
    placed = hostile_place(row.placement)
    return replace(row, placement=placed, key=placed.key, label=label, reason=reason)


def hostile_place(placement: Placement) -> Placement:
    return Placement({site + HOSTILE: attention for site, attention in placement.attentions.items()})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the text files of the report by name, and the drawings as SVG."""
    folder = tmp_path_factory.mktemp("report")
    drawn: dict[str, str] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Chart, "write", lambda chart, folder: drawn.update({f"{chart.name}.svg": chart.svg.decode()}))
        write_report(hostile_run(), folder)
    return {**{path.name: path.read_bytes().decode("utf-8") for path in folder.iterdir()}, **drawn}


def test_no_file_holds_what_cannot_be_shown_or_turns_text(written: dict[str, str]) -> None:
    assert {"report.html", "report.md", "MODEL.md", "arms.tex", "trials.csv", "network.svg"} <= written.keys()
    for name, text in written.items():
        unshown = {one for one in text if one != "\n" and unicodedata.category(one) in ("Cc", "Cs", "Cf")}
        assert not unshown, name


def test_the_page_and_the_drawings_show_names_as_text(written: dict[str, str]) -> None:
    reader = Reader(written["report.html"])
    assert "script" not in reader.texts
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in reader.texts["body"][0]
    for name in (name for name in written if name.endswith(".svg")):
        assert "<script" not in written[name], name


def test_markdown_holds_tags_within_blocks_of_code_alone(written: dict[str, str]) -> None:
    for name in ("report.md", "MODEL.md"):
        prose = re.sub(r"^```\w*\n.*?^```$", "", written[name], flags=re.DOTALL | re.MULTILINE)
        prose = re.sub(r"(?<!\\)`[^`\n]*`", "", prose)
        assert "alert" in prose
        assert not re.search(r"(?<!\\)<(script|img)", prose), name


def test_latex_has_no_command_of_a_name(written: dict[str, str]) -> None:
    assert r"\textbackslash{}input\{x\}\%" in written["arms.tex"]
    assert r"\input" not in written["arms.tex"]


def test_a_spreadsheet_computes_no_name(written: dict[str, str]) -> None:
    for name in ("trials.csv", "arms.csv"):
        cells = [one for row in csv.reader(written[name].splitlines(keepends=True)) for one in row]
        assert name == "arms.csv" or any(one.startswith("'=1+1") for one in cells)
        assert not [one for one in cells if re.match(r"[=@]|[+-][^\d.]", one)], name
    assert [cell(one) for one in ("-0.5", "+1e-3", -1, None, "-", "-a", " =a", "@a", "a=b")] == [
        "-0.5", "+1e-3", -1, None, "-", "'-a", "' =a", "'@a", "a=b",
    ]  # fmt: skip


def test_the_lines_to_copy_load_the_folder_and_do_nothing_else(written: dict[str, str]) -> None:
    assert quoted('a"); import os  # ') == '"a\\"); import os  # "'
    assert f"load_model({quoted(HOSTILE)}" in written["report.md"]


def test_a_name_wider_than_its_figure_is_drawn_without_a_warning() -> None:
    figure = Figure(figsize=(1, 1), layout="constrained")
    figure.subplots().set_yticks([0.0], ["wide" * 20])
    assert b"wide" in Chart("wide", "A name.", figure).svg
