"""The report, the dashboard and the documentation in a real browser: nothing is cut, unnamed or complained about."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import SITES, Tab, missing, open_browser, opened
from report_cases import CASES
from synthetic_run import densenet_table, failed, make_run, resnet_table, with_predictions

from nas_attn.cli.dashboard import make_dashboard
from nas_attn.placement import SiteTable
from nas_attn.records import RunRecord
from nas_attn.report.page import render

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

WIDTHS = (360, 800, 1400)
MARKUP = "<b>bold</b> <img src=x onerror=alert(1)> & 'q' \"q\" $x$"


def branches(table: SiteTable) -> tuple[str, ...]:
    return tuple(site.name for site in table.sites if site.kind == "branch")


PAGES: dict[str, Callable[[], RunRecord]] = {
    "better": lambda: with_predictions(make_run()),
    "undecided": CASES["undecided, with images"][0],
    "in the retraining": CASES["in the retraining"][0],
    "everything failed": CASES["everything failed"][0],
    "nothing known": CASES["nothing known"][0],
    "one seed": CASES["one seed"][0],
    "resnet50": lambda: make_run(table=resnet_table(), sites=branches(resnet_table())),
    "densenet121": lambda: make_run(table=densenet_table(18)),
    "300 trials": lambda: with_predictions(make_run(n_trials=300)),
}

nightly = pytest.mark.nightly


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as found:
        yield found


def written(folder: Path, run: RunRecord) -> str:
    """The address of a run's page."""
    path = folder / "report.html"
    path.write_text(render(run), encoding="utf-8")
    return path.as_uri()


def assert_fits(tab: Tab, name: str, widths: tuple[int, ...] = WIDTHS) -> None:
    """Assert that nothing stands out of the window, in all widths and both colour schemes."""
    for width in widths:
        for scheme in ("light", "dark"):
            tab.resize(width, scheme)
            assert tab.wider() == [], f"{width} px, {scheme}"
            tab.shoot(f"{name}-{width}-{scheme}")


def assert_accessible(tab: Tab) -> None:
    """Assert that axe-core finds nothing serious, in a wide light window and in a narrow dark one."""
    for width, scheme in ((1400, "light"), (360, "dark")):
        tab.resize(width, scheme)
        assert tab.axe() == [], f"{width} px, {scheme}"


@pytest.mark.parametrize("name", ["better", *(pytest.param(name, marks=nightly) for name in list(PAGES)[1:])])
def test_a_report_fits_every_window_and_paper(browser, tmp_path, name):
    run = PAGES[name]()
    with opened(browser, written(tmp_path, run)) as tab:
        assert_fits(tab, name)
        assert_accessible(tab)
        paper = tab.on_paper()
        assert (paper.wider, paper.split) == ([], [])
        assert paper.n_sheets <= 14
        assert tab.errors == []


@pytest.mark.parametrize("name", ["better", pytest.param("resnet50", marks=nightly)])
def test_every_site_is_named_where_a_reader_points_at_it(browser, tmp_path, name):
    run = PAGES[name]()
    with opened(browser, written(tmp_path, run)) as tab:
        marks = tab.page.evaluate(SITES)
    names = {line.split(" (")[0] for mark in marks for line in mark["name"].splitlines()}
    assert run.table is not None
    assert names == {site.name for site in run.table.sites}
    assert [mark["name"] for mark in marks if not mark["hit"]] == []


def test_names_with_markup_are_shown_as_text(browser, tmp_path):
    run = make_run(n_trials=12)
    space = {**run.config["space"], "title": MARKUP}
    data = {**run.config["data"], "facts": {**run.config["data"]["facts"], "name": MARKUP}}
    retrain = tuple(replace(row, label=MARKUP) if row.label == "cbam everywhere" else row for row in run.retrain)
    search = (*run.search[:-1], failed(run.search[-1], "error", MARKUP))
    run = replace(run, config={**run.config, "space": space, "data": data}, retrain=retrain, search=search)
    with opened(browser, written(tmp_path, run)) as tab:
        shown = tab.page.inner_text("body")
        assert shown.count(MARKUP) >= 4, "the title, the data, the arm's tables, and the reason of a failure"
        assert tab.page.title().startswith(MARKUP)
        assert tab.page.locator("img").count() == 0
        assert (
            tab.page.evaluate("[...document.querySelectorAll('b')].filter(node => node.textContent === 'bold').length")
            == 0
        )
        assert_fits(tab, "markup", widths=(360,))
        assert tab.errors == []


@pytest.fixture(scope="module")
def dashboard(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the dashboard of a finished run."""
    run = tmp_path_factory.mktemp("dashboard") / "run"
    shutil.copytree(root / "tests" / "old_runs" / "finished", run)
    with make_dashboard(run, host="127.0.0.1", port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


CARD = "//*[contains(@class, 'MuiCard-root')][.//h6[starts-with(normalize-space(), '{title}')]]"
DRAWN = "//*[local-name()='g' and contains(@class, 'trace')]//*[local-name()='path']"
REFUSED = ("EditIcon", "DeleteIcon", "AddBoxIcon", "DriveFileRenameOutlineIcon")


def offered(tab: Tab) -> list[str]:
    """The visible buttons that would change something."""
    return [name for name in REFUSED if tab.page.locator(f"button:has([data-testid={name}]) >> visible=true").count()]


def best_lines(tab: Tab) -> list[str]:
    """How the groups of lines in the history are displayed; those of single points are empty."""
    script = "groups => groups.map(group => getComputedStyle(group).display)"
    return tab.page.locator("#plot-history .lines").evaluate_all(script)


def test_the_dashboard_draws_every_plot_and_crowns_no_test_value(browser, dashboard):
    with opened(browser, f"{dashboard}/dashboard/studies/2") as tab:
        tab.page.wait_for_selector("#plot-history .points path")
        tab.page.wait_for_selector("text=arm")
        for title in ("Hyperparameter Importance", "Timeline", "Intermediate values"):
            tab.page.wait_for_selector(f"xpath={CARD.format(title=title)}{DRAWN}", state="attached")
        assert "test accuracy" in tab.page.inner_text("#plot-history")
        assert set(best_lines(tab)) == {"none"}
        assert tab.page.locator("h6:has-text('Best Trial') >> visible=true").count() == 0
        assert offered(tab) == []
        tab.shoot("dashboard-retrain")
        assert tab.errors == []


@nightly
def test_the_dashboard_says_the_verdict_and_offers_nothing_that_it_refuses(browser, dashboard):
    with opened(browser, f"{dashboard}/dashboard/studies/0") as tab:
        tab.page.wait_for_selector("#plot-history .lines path", state="attached")
        assert "none" not in best_lines(tab)
        assert tab.page.inner_text(f"xpath={CARD.format(title='Best Trial (number=0)')}").count("attention: none") == 2
        assert tab.errors == []
    for path, text in {
        "studies/0/note": "What matters where",
        "studies/0/trials?numbers=3": "se at denseblock2",
        "studies/2/analytics": "Slice",
        "studies": "retrain (test)",
    }.items():
        with opened(browser, f"{dashboard}/dashboard/{path}".removesuffix("/studies")) as tab:
            tab.page.wait_for_selector(f"text={text}")
            assert offered(tab) == [], path
            assert tab.errors == []
    with opened(browser, f"{dashboard}/dashboard/studies/2/note") as tab:
        tab.page.click("text=Open the report")
        assert tab.page.locator("header.answer, h1").first.inner_text()


@nightly
def test_the_documentation_fits_every_window(browser, root, tmp_path):
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(words, cwd=root, check=True, capture_output=True)
    for name in ("index", "settings", "report", "gallery", "api", "attentions/cbam", "networks/resnet50"):
        for scheme in ("light", "dark"):
            with opened(browser, (tmp_path / f"{name}.html").as_uri(), scheme=scheme) as tab:
                for width in WIDTHS:
                    tab.resize(width, scheme)
                    assert tab.wider() == [], f"{name}, {width} px, {scheme}"
                assert tab.axe() == [], f"{name}, {scheme}"
                assert tab.errors == [], name
