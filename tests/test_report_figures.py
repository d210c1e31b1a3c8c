"""The figures: labels, theme, titles, and the drawing of the network."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
from report_cases import CASES, Reader, in_search, page_of
from synthetic_run import make_run

from nas_attn.report.figures import draw_charts
from nas_attn.report.palette import DARK, LIGHT, N_FAMILIES


def test_every_drawing_has_a_label_and_follows_the_theme():
    page = page_of("better")
    drawings = re.findall(r"<svg ([^>]*)>(.*?)</svg>", page, re.DOTALL)
    assert len(drawings) == 5 + 3  # differences, arms, cost, curves, history; three rows of the network
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
        for ground in ("paper",) if name in ("plain", "better", "worse") else ("paper", "card"):
            bright, dark = sorted((luminance(palette[name]), luminance(palette[ground])), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, (name, ground)  # WCAG 2.2, 1.4.3


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


def test_drawing_has_the_attentions_of_the_placement_and_no_other():
    page = page_of("better")
    lines = [line for title in Reader(page).texts["title"] for line in title.split("\n") if " channels, " in line]
    contents = dict(re.fullmatch(r"(\S+) \(.*?\): (.*)", line).groups() for line in lines)
    assert {name: content for name, content in contents.items() if content not in ("no attention", "not searched")} == {
        "transition1": "cbam(kernel_size=7, order=channel-spatial, reduction=16)",
        "denseblock2": "se(reduction=8)",
    }
    assert {name for name, content in contents.items() if content == "not searched"} == {
        site.name for site in make_run().table.sites if "layer" in site.name
    }
    fills = {
        name: re.search(rf'<g id="network-{name}">.*?<path [^>]*fill: var\(--(\w+)\)', page)[1] for name in contents
    }
    colours = {name: "dim" for name in contents if "layer" in name} | {"transition1": "f1", "denseblock2": "f0"}
    assert fills == {name: colours.get(name, "paper") for name in contents}


def test_legend_of_the_page_states_the_options():
    shown = re.sub(r"<[^>]+>|\s+", " ", page_of("better").partition('<ul class="legend families">')[2])
    assert re.match(r" *CBAM *cbam: kernel_size 7, order channel-spatial, reduction 16 \(1.site\)", shown)
    assert re.search(r"SE *se: reduction 8 \(1.site\)", shown)


def test_one_arm_with_many_names_has_room_for_them():
    run = make_run(n_trials=6, n_seeds=2)
    names = " = ".join(f"published:attention_number_{k}" for k in range(5))
    kept = [replace(row, label=row.label if row.label in ("found #1", "none") else names) for row in run.retrain]
    run = replace(run, retrain=tuple(row for row in kept if row.label in ("found #1", names)))
    assert all(chart.svg for chart in draw_charts(run))  # matplotlib warns where the labels leave no room


def test_figures_leave_no_global_state(tmp_path: Path, root: Path):
    before = dict(matplotlib.rcParams)
    history = draw_charts(in_search(make_run()))[0]
    assert len(history.write(tmp_path)) == 3
    assert dict(matplotlib.rcParams) == before
    assert not any("pyplot" in file.read_text() for file in (root / "nas_attn" / "report").glob("*.py"))


@pytest.mark.parametrize(("case", "has_values"), [("everything failed", False), ("in the search", True)])
def test_the_history_of_a_search_has_a_scale_only_if_it_has_values(case, has_values):
    (chart,) = [chart for chart in draw_charts(CASES[case][0]()) if chart.name == "history"]
    assert bool(chart.figure.axes[0].get_yticks().size) is has_values
