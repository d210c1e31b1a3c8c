"""The verdict and the page in every case that a run can end in, read as a browser would."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import at_night
from report_cases import CASES, Reader, all_failed, page_of
from synthetic_run import failed, make_run

from nas_attn.records import RunRecord
from nas_attn.report.page import render, write_report
from nas_attn.report.verdict import verdict, verdict_of
from nas_attn.report.words import minus

LINKS = {"src", "href", "srcset", "data", "xlink:href", "action"}
OTHER_NUMBERS = (
    *("equal", "worse", "everywhere is better", "found is an everywhere arm"),
    *("over the limit", "chance", "confirmed"),
)
"""Cases whose page has the parts of that of "better" with other numbers; what they decide is read in the verdict."""

cases = pytest.mark.parametrize("name", CASES)
pages = pytest.mark.parametrize("name", at_night(CASES, but=[name for name in CASES if name not in OTHER_NUMBERS]))


@cases
def test_verdict_reads_well_in_every_case(name: str):
    make, pattern = CASES[name]
    sentence = verdict(make())
    assert re.fullmatch(pattern, sentence), sentence
    assert "nan" not in sentence.lower().replace("nano", "")
    assert sentence.isascii()  # a terminal of any encoding shows it


@pages
def test_page_begins_with_the_verdict_and_is_well_formed(name: str):
    run = CASES[name][0]()
    reader = Reader(page_of(name))
    body = reader.texts["body"][0].split("\n")
    first = next(line for line in body if line.strip())
    assert first == reader.texts["h1"][0] == verdict_of(run).title
    text = " ".join(reader.texts["body"][0].split())
    assert minus(" ".join(str(verdict_of(run)).split()[1:])).split(". ", 1)[-1] in text
    assert len(reader.texts["h1"]) == 1
    assert len(reader.ids) == len(set(reader.ids))
    text = reader.texts["body"][0]
    assert not re.search(r"\b(nan|None|inf|undefined)\b", text), re.search(r".{30}\b(nan|None|inf)\b", text)


@pages
def test_page_needs_nothing_from_outside_and_no_script(name: str):
    page = page_of(name)
    reader = Reader(page)
    assert "script" not in reader.texts
    links = {value for _, name, value in reader.attributes if name in LINKS}
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)|javascript:|\son[a-z]+=", page)


@pages
def test_references_inside_the_page_lead_to_one_element_each(name: str):
    page = page_of(name)
    references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)
    ids = Reader(page).ids
    assert {ids.count(href or url) for href, url in references} <= {1}


def test_text_of_users_is_escaped():
    run = make_run()
    reason = 'RuntimeError: <script>alert(1)</script> & "quotes"'
    page = render(replace(run, search=(failed(run.search[0], "error", reason), *run.search[1:])))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert reason in Reader(page).texts["body"][0]


def test_page_tells_how_to_reproduce():
    text = Reader(page_of("better")).texts["body"][0]
    for piece in (
        "python run_search.py --space densenet_attn",
        "sha256 9f3c1a",
        'model = load_model("runs/densenet_attn")',
        "torch 2.15.0",
        "confirm 100-101; retrain 200-204",
        "1a2b3c4d5e6f",
    ):
        assert piece in text


def test_page_shows_every_arm_every_seed_and_every_failure():
    run = make_run()
    text = Reader(page_of("better")).texts["body"][0]
    for trial in run.retrain:
        assert f"seed {trial.seed}: {100 * trial.value:.2f} %" in text
    for trial in run.search:
        assert f"trial {trial.number}: " in text
    assert "Out of memory: 3.2 GiB were asked for" in text
    assert "over max_params: 142,310 > 120,000" in text
    assert "found #1 was chosen on validation images" in text


def test_report_writes_the_page_the_tables_and_every_figure_twice(tmp_path: Path):
    path = write_report(make_run(), tmp_path / "run")
    assert path == tmp_path / "run" / "report.html"
    names = {str(file.relative_to(path.parent)) for file in path.parent.rglob("*") if file.is_file()}
    figures = ("arms", "differences", "cost", "curves", "history", "importance", "network")
    assert names == {
        "report.html",
        "report.md",
        "trials.csv",
        "arms.csv",
        "arms.tex",
        "MODEL.md",
        *(f"figures/{figure}.{kind}" for figure in figures for kind in ("pdf", "png", "svg")),
    }
    page = path.read_text(encoding="utf-8")
    assert all(f"figures/{figure}.svg" in page for figure in figures)
    for figure in figures:
        assert (path.parent / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        root = ElementTree.parse(path.parent / "figures" / f"{figure}.svg").getroot()
        assert root.findall(".//{http://www.w3.org/2000/svg}text"), "text must stay text"
        assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(3.35 * 72)


def test_one_epoch_is_one():
    run = make_run(n_trials=6, n_seeds=1)
    once = replace(run, search=tuple(replace(row, epochs=1) for row in run.search))
    page = render(once)
    assert re.search(r"of 1 epoch[:<]", page)
    assert "1 epochs" not in page


@pytest.mark.parametrize(
    "run",
    [
        make_run(n_trials=6, n_seeds=1),
        all_failed(make_run()),
        CASES["nothing known"][0](),
        replace(make_run(n_trials=6, n_seeds=2), table=None),
    ],
    ids=["one seed", "all failed", "nothing", "no table"],
)
def test_report_is_written_whatever_is_known(run: RunRecord, tmp_path: Path):
    assert write_report(run, tmp_path).exists()
    assert (tmp_path / "trials.csv").read_text().count("\n") >= 1


def test_report_of_the_same_run_is_the_same_file(tmp_path: Path):
    run = make_run(n_trials=6, n_seeds=2)
    first, second = (write_report(run, tmp_path / name) for name in ("a", "b"))
    files = sorted(path.relative_to(first.parent) for path in first.parent.rglob("*.*"))
    for name in files:
        assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes(), name


def test_verdict_needs_neither_matplotlib_nor_jinja_nor_torch(root: Path):
    code = (
        "import sys; import nas_attn.report.verdict;"
        "print([m for m in ('matplotlib', 'jinja2', 'torch', 'optuna', 'ray', 'scipy.stats') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_minus_signs_stand_before_numbers_only():
    assert minus("-0.07 to -1, block-1, 1-3, (-2)") == "\u22120.07 to \u22121, block-1, 1-3, (\u22122)"


def test_maps_that_were_drawn_are_in_the_page(tmp_path: Path):
    run = replace(make_run(n_trials=6, n_seeds=2), folder=tmp_path)
    assert "What it looks at" not in render(run)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "maps.png").write_bytes(b"a drawing")
    reader = Reader(render(run))
    (image,) = [value for tag, name, value in reader.attributes if (tag, name) == ("img", "src")]
    assert image == "data:image/png;base64,YSBkcmF3aW5n"
    assert "What it looks at" in reader.texts["h2"]
