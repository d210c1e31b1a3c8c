"""The verdict and the page in every case that a run can end in, read as a reader's browser would."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from synthetic_run import everywhere, failed, make_run, resnet_table

from nas_attn.placement import Attention, Placement
from nas_attn.records import RunRecord
from nas_attn.report.drawing import draw_network
from nas_attn.report.figures import draw_charts
from nas_attn.report.page import render, write_report
from nas_attn.report.palette import DARK, LIGHT, N_FAMILIES
from nas_attn.report.verdict import judge, verdict
from nas_attn.report.words import minus

SITES = ("denseblock1", "transition1", "denseblock2", "transition2", "denseblock3")
LINKS = {"src", "href", "srcset", "data", "xlink:href", "action"}
VOID = {"meta", "br", "link", "img", "input", "hr"}
INTERVAL = r"95 % interval [+-]\d+\.\d\d to [+-]\d+\.\d\d, n = 5 seeds: "


def harmful() -> dict[tuple[str, str], float]:
    return {(site, name): -0.01 for site in SITES for name in ("se", "cbam", "gam", "triple")}


def in_search(run: RunRecord, n_trials: int = 9) -> RunRecord:
    return replace(run, best=None, confirm=(), retrain=(), search=run.search[:n_trials])


def all_failed(run: RunRecord) -> RunRecord:
    return in_search(replace(run, search=tuple(failed(trial, "oom", "Out of <memory>") for trial in run.search)), 12)


def alone(run: RunRecord) -> RunRecord:
    """Only `none` has a value, the rest failed."""
    return replace(in_search(run), search=(run.search[0], *(failed(trial, "nan") for trial in run.search[1:5])))


def retraining_failed(run: RunRecord) -> RunRecord:
    rows = tuple(failed(t) if t.label == "found #1" else t for t in run.retrain)
    return replace(run, retrain=rows)


CASES: dict[str, tuple[Callable[[], RunRecord], str]] = {
    "better": (
        make_run,
        rf"Place cbam at transition1 and se at denseblock2: it gives \+1\.13 points of test accuracy against no "
        rf"attention \({INTERVAL}better\) and -0\.03 points against se everywhere \({INTERVAL}within noise\)\.",
    ),
    "within noise": (
        lambda: make_run(effects={}),
        rf"No gain beyond noise was found: the best placement, .* at .*, gives .* against no attention "
        rf"\({INTERVAL}within noise\) and .* against triple everywhere \({INTERVAL}within noise\)\.",
    ),
    "none is better": (
        lambda: make_run(effects=harmful(), found=everywhere("se", SITES[:1])),
        rf"Use no attention: the best placement found, se at denseblock1, gives -.* points of test accuracy against no "
        rf"attention \({INTERVAL}worse\) and \+.* points against se everywhere \({INTERVAL}better\)\.",
    ),
    "none recommended": (
        lambda: make_run(effects={}, recommended="none"),
        rf"Use no attention: the best placement found, .*, gives .* against no attention "
        rf"\({INTERVAL}within noise\) .*\.",
    ),
    "validation and test disagree": (
        lambda: make_run(recommended="none"),
        r"Undecided, since validation recommends no attention but test does not: .* better\) and .*\.",
    ),
    "everywhere is better": (
        lambda: make_run(effects={(s, "se"): 0.008 for s in SITES}, found=everywhere("se", SITES[:2])),
        rf"Better than no attention, but worse than se everywhere: se at denseblock1 and transition1 gives \+.*"
        rf"\({INTERVAL}better\) and -.* points against se everywhere \({INTERVAL}worse\)\.",
    ),
    "found is an everywhere arm": (
        lambda: make_run(found=everywhere("se", SITES)),
        rf"Place se everywhere \(5 sites\): it gives \+.* against no attention \({INTERVAL}better\); it is itself the "
        r"best placement found, so choosing single sites gained nothing\.",
    ),
    "over the limit": (
        lambda: make_run(effects={(s, "gam"): 0.004 for s in SITES}, found=everywhere("gam", SITES[:3])),
        rf".* points against gam everywhere, which is over the limit \({INTERVAL}(worse|within noise)\)\.",
    ),
    "one seed": (
        lambda: make_run(n_seeds=1),
        r"Whether attention helps is not known yet: the best placement found, .*, gives \+1\.44 points of test "
        r"accuracy against no attention \(n = 1 seed, so no interval: not known\) and .* against se everywhere "
        r"\(n = 1 seed, so no interval: not known\)\.",
    ),
    "in the search": (
        lambda: in_search(make_run()),
        r"Preliminary after 9 of 24 trials, no test value yet: so far se at .* leads with 95\.51 % accuracy on "
        r"validation \(one seed; \+0\.75 points against no attention, not yet separated from noise\)\.",
    ),
    "confirmed": (
        lambda: replace(make_run(), best=None, retrain=()),
        r"Preliminary after 24 of 24 trials, .* leads with .* % accuracy on validation \(mean of n = 2 seeds; .*\)\.",
    ),
    "in the retraining": (
        lambda: replace(make_run(), best=None, retrain=make_run().retrain[:8]),
        r"Preliminary, since retraining is not finished: place cbam at .* \(95 % interval .*, n = 3 seeds: better\); "
        r"'cbam everywhere' was not retrained yet\.",
    ),
    "no baseline yet": (
        lambda: replace(make_run(), best=None, retrain=make_run().retrain[:3]),
        r"Preliminary, since retraining is not finished: the best placement found is .*: it gives .* % test accuracy "
        r"\(n = 3 seeds\), but the arm 'none' was not retrained yet, so nothing can be compared; .*\.",
    ),
    "retraining failed": (
        lambda: retraining_failed(make_run()),
        r"No test value, since all 5 retrainings of 'found #1' failed: cbam at .* leads with .* on validation .*\.",
    ),
    "no trial with attention": (
        lambda: alone(make_run()),
        r"No trial with attention has a value yet: no attention reaches 94\.76 % accuracy on validation \(one seed\); "
        r"failed: 4 diverged\.",
    ),
    "everything failed": (
        lambda: all_failed(make_run()),
        r"Nothing was measured: all 12 trials failed \(12 out of memory\)\.",
    ),
    "nothing yet": (
        lambda: in_search(make_run(), 0),
        r"Nothing has been measured yet: no trial has finished\.",
    ),
    "nothing known": (
        lambda: RunRecord(Path("runs/x"), {}, None, (), (), ()),
        r"Nothing has been measured yet: no trial has finished\.",
    ),
    "own network without a table": (
        lambda: replace(make_run(), table=None, config={"train": "mine:train"}),
        r"Place .* at .*: it gives .*\.",
    ),
}
cases = pytest.mark.parametrize("name", CASES)


@cache
def page_of(name: str) -> str:
    return render(CASES[name][0]())


class Reader(HTMLParser):
    """Reads a page strictly: every element closed in order; keeps ids, links, texts and the shapes of sites."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, list[str]] = {}
        self.classes: dict[str, str] = {}
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        found = dict(attrs)
        if "id" in found:
            self.ids.append(found["id"])
            self.classes[found["id"]] = found.get("class", "")
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert [*self.open, ""][len(self.open) - 1] == tag, f"</{tag}> closes nothing here"
        self.open.pop()

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data


@cases
def test_verdict_reads_well_in_every_case(name: str):
    make, pattern = CASES[name]
    sentence = verdict(make())
    assert re.fullmatch(pattern, sentence), sentence
    assert "nan" not in sentence.lower().replace("nano", "")
    assert sentence.isascii()  # a terminal of any encoding shows it


@cases
def test_page_begins_with_the_verdict_and_is_well_formed(name: str):
    run = CASES[name][0]()
    reader = Reader(page_of(name))
    body = reader.texts["body"][0].split("\n")
    first = next(line for line in body if line.strip())
    assert first == reader.texts["h1"][0] == minus(verdict(run))
    assert len(reader.texts["h1"]) == 1
    assert len(reader.ids) == len(set(reader.ids))
    text = reader.texts["body"][0]
    assert not re.search(r"\b(nan|None|inf|undefined)\b", text), re.search(r".{30}\b(nan|None|inf)\b", text)


@cases
def test_page_needs_nothing_from_outside_and_no_script(name: str):
    page = page_of(name)
    reader = Reader(page)
    assert "script" not in reader.texts
    links = {value for _, name, value in reader.attributes if name in LINKS}
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)|javascript:|\son[a-z]+=", page)


@cases
def test_references_inside_the_page_lead_to_one_element_each(name: str):
    page = page_of(name)
    references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)
    ids = Reader(page).ids
    assert {ids.count(href or url) for href, url in references} <= {1}


def test_every_drawing_has_a_label_and_follows_the_theme():
    page = page_of("better")
    drawings = re.findall(r"<svg ([^>]*)>(.*?)</svg>", page, re.DOTALL)
    assert len(drawings) == 4 + 3  # differences, arms, cost, history; three stages of the network
    for head, content in drawings:
        assert re.search(r'role="img" aria-label="[^"]{20,}" viewBox="[\d. ]+"', head)
        assert not re.search(r"#[0-9a-f]{6}\b|font-family", content)
    used = set(re.findall(r"var\(--([a-z]\w*)\)", page))
    assert used <= {*LIGHT, "c", "a", "sans", "mono"}
    for palette in (LIGHT, DARK):
        assert all(f"--{name}: {colour};" in page for name, colour in palette.items())


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_the_contrast_that_accessibility_asks_for(palette: dict[str, str]):
    assert [*palette] == [*LIGHT]
    for name in ("ink", "muted", "plain", "better", "worse", *(f"f{number}" for number in range(N_FAMILIES))):
        bright, dark = sorted((luminance(palette[name]), luminance(palette["paper"])), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, name  # WCAG 2.2, 1.4.3


def luminance(colour: str) -> float:
    shares = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_mark_without_a_title_is_refused():
    chart = draw_charts(make_run())[0]
    broken = {group: titles[1:] for group, titles in chart.titles.items()}
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        replace(chart, titles=broken).inline()


@pytest.mark.parametrize("case", ["better", "in the search", "everything failed", "nothing yet"])
def test_drawing_has_one_element_for_every_site(case: str):
    run = CASES[case][0]()
    assert run.table is not None
    reader = Reader(page_of(case))
    for site in run.table.sites:
        assert reader.ids.count(f"network-{site.name}") == 1


def test_drawing_fills_the_sites_of_the_placement_and_no_other():
    page = page_of("better")
    titles = {
        title.split(" ")[0]: title.split("): ")[1] for title in Reader(page).texts["title"] if "channels" in title
    }
    assert {name: title for name, title in titles.items() if title not in ("no attention", "not searched")} == {
        "transition1": "cbam(kernel_size=7, order=channel-spatial, reduction=16)",
        "denseblock2": "se(reduction=8)",
    }
    assert {name for name, title in titles.items() if title == "not searched"} == {
        site.name for site in make_run().table.sites if "layer" in site.name
    }
    fills = {name: re.search(rf'<g id="network-{name}">.*?<use [^>]*fill: var\(--(\w+)\)', page)[1] for name in titles}
    families = {"transition1": "f0", "denseblock2": "f2"}  # cbam, gam, se, triple
    assert fills == {name: families.get(name, "paper") for name in titles}
    shown = " ".join(Reader(page).texts["svg"])
    assert "reduction 16" in shown
    assert "order channel-spatial" in shown


def test_drawing_of_a_long_network_wraps_and_keeps_every_site():
    table = resnet_table((3, 8, 36, 3))
    searched = tuple(site.name for site in table.sites if site.kind == "output")
    panels = draw_network(table, everywhere("cbam", searched), searched)
    assert [station.site for panel in panels for station in panel.stations] == list(table.sites)
    assert max(panel.height for panel in panels) < 620
    assert "stage3 (continued)" in {panel.title for panel in panels}
    assert len(panels) > 4


def test_drawing_of_a_network_without_search_says_how_many_sites_there_are():
    panels = draw_network(resnet_table(), Placement(), ())
    assert [station.note for station in panels[0].stations if station.note] == ["12 sites not searched"]


def test_long_names_and_options_stay_inside_the_panel():
    run = make_run()
    assert run.table is not None
    site = replace(run.table.sites[4], name="features.a_very_long_path.of_modules.in_my.network")
    table = replace(run.table, sites=(site,))
    attention = Attention("triple", {"parts": "channel+element+scale+and+a+lot+more+of+them", "hidden": None})
    (panel,) = draw_network(table, Placement({site.name: attention}), (site.name,))
    (station,) = panel.stations
    assert station.name.startswith("…")
    assert site.name.endswith(station.name[1:])
    assert all(len(line) <= 34 for line in station.lines)
    assert station.lines[0] == "hidden auto"


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
        'model = load_model("runs/densenet_attn/best.json")',
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
    figures = ("arms", "differences", "cost", "history", "importance", "network")
    assert names == {
        "report.html",
        "trials.csv",
        "arms.csv",
        *(f"figures/{figure}.{kind}" for figure in figures for kind in ("png", "svg")),
    }
    page = path.read_text(encoding="utf-8")
    assert all(f"figures/{figure}.svg" in page for figure in figures)
    for figure in figures:
        assert (path.parent / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        root = ElementTree.parse(path.parent / "figures" / f"{figure}.svg").getroot()
        assert root.findall(".//{http://www.w3.org/2000/svg}text"), "text must stay text"
        assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(3.35 * 72)


def test_one_arm_with_many_names_has_room_for_them():
    run = make_run(n_trials=6, n_seeds=2)
    names = " = ".join(f"published:attention_number_{k}" for k in range(5))
    kept = [replace(row, label=row.label if row.label in ("found #1", "none") else names) for row in run.retrain]
    run = replace(run, retrain=tuple(row for row in kept if row.label in ("found #1", names)))
    assert all(chart.svg for chart in draw_charts(run))  # matplotlib warns where the labels leave no room


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


def test_figures_leave_no_global_state(tmp_path: Path, root: Path):
    before = dict(matplotlib.rcParams)
    history = draw_charts(in_search(make_run()))[0]
    assert len(history.write(tmp_path)) == 2
    assert dict(matplotlib.rcParams) == before
    assert not any("pyplot" in file.read_text() for file in (root / "nas_attn" / "report").glob("*.py"))


def test_judge_names_the_arms_that_it_compared():
    judged = judge(make_run())
    assert judged.word == "better"
    assert not judged.preliminary
    assert [arm.label for arm in (judged.found, judged.none, judged.everywhere) if arm] == [
        "found #1",
        "none",
        "se everywhere",
    ]
    assert [part.text for part in judged.parts if part.mark == "where"] == ["cbam at transition1 and se at denseblock2"]


def test_minus_signs_stand_before_numbers_only():
    assert minus("-0.07 to -1, block-1, 1-3, (-2)") == "\u22120.07 to \u22121, block-1, 1-3, (\u22122)"
