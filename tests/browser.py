"""The system's Chromium, driven by Playwright: pages in a window of any size, and what a reader trips over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

Scheme = Literal["light", "dark"]

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PAPER = 680
"""Width of A4 between margins of 15 mm in CSS pixels (180 mm at 96 pixels per inch)."""

FINDINGS = "async () => (await axe.run({resultTypes: ['violations'], preload: false})).violations"
STILL = "*, ::before, ::after { transition: none !important; animation: none !important; }"

WIDER = """() => {
  const end = document.documentElement.clientWidth, found = [];
  const scrolls = node => node && node !== document.body && node !== document.documentElement &&
    (['auto', 'scroll', 'hidden'].includes(getComputedStyle(node).overflowX) || scrolls(node.parentElement));
  for (const node of document.body.querySelectorAll('*')) {
    const box = node.getBoundingClientRect();
    if (box.width && box.right > end + 1 && !scrolls(node)) found.push(node.tagName + '.' + node.getAttribute('class'));
  }
  const extra = document.documentElement.scrollWidth - end;
  return extra > 0 ? [...found, `the page scrolls by ${extra} px`] : found;
}"""

CUT = """() => [...document.querySelectorAll('.scroll, pre')]
  .filter(node => node.checkVisibility() && node.scrollWidth > node.clientWidth + 1)
  .map(node => `${node.tagName} is ${node.scrollWidth - node.clientWidth} px wider than its box`)"""

WHOLE = """() => {
  const rows = [...document.querySelectorAll('tr')].filter(row => row.checkVisibility());
  const figures = [...document.querySelectorAll('svg.chart')];
  return [
    ...rows.map(row => row.innerText.split(/[\\n\\t]+/)),
    ...figures.map(svg => [...svg.querySelectorAll('text')].map(text => text.textContent)),
  ];
}"""
"""What stands together on paper: the cells of a row, and the words of a figure."""

SITES = """() => [...document.querySelectorAll('.network title')].map(title => {
  title.parentElement.scrollIntoView({block: 'center'});
  const now = title.parentElement.getBoundingClientRect();
  const hit = document.elementFromPoint(now.left + now.width / 2, now.top + now.height / 2);
  return {name: title.textContent, hit: hit === title.parentElement || title.parentElement.contains(hit)};
})"""
"""The texts that appear when a reader points at a mark of the network, and whether the mark is reached."""


def chromium() -> str | None:
    """The system's browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def missing() -> str | None:
    """What these tests lack on this machine, or None."""
    try:
        import axe_playwright_python  # noqa: F401
        import playwright  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed: pip install -e '.[browser]'"
    return None if chromium() else f"no browser is installed ({', '.join(NAMES)})"


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser with a profile of its own, which ends with it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True)
class Paper:
    """A printed page.

    Args:
        wider: Elements that stand out of the paper, or are cut off at their own edge.
        split: Rows of tables, and figures, by their texts, that are on no sheet as a whole.
    """

    n_sheets: int
    wider: list[str]
    split: list[list[str]]


def _dense(text: str) -> str:
    return "".join(text.split())


def _all_in(texts: list[str], sheet: str) -> bool:
    return all(_dense(text) in sheet for text in texts)


@dataclass
class Tab:
    """One open page; `errors` are what its console and its requests complained about."""

    page: Page
    errors: list[str] = field(default_factory=list)

    def listen(self, said: ConsoleMessage) -> None:
        """Keep what the console complains about, but for the speed of drawing without a graphics card."""
        if said.type in ("error", "warning") and "GL Driver Message" not in said.text:
            self.errors.append(said.text)

    def resize(self, width: int, scheme: Scheme = "light") -> None:
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(media="screen", color_scheme=scheme)

    def on_paper(self) -> Paper:
        """The page as it is printed on A4, with what must not be cut there."""
        import pypdfium2

        self.page.set_viewport_size({"width": PAPER, "height": 1000})
        self.page.emulate_media(media="print")
        wider, whole = self.page.evaluate(WIDER) + self.page.evaluate(CUT), self.page.evaluate(WHOLE)
        content = self.page.pdf(format="A4", prefer_css_page_size=True, print_background=True)
        with pypdfium2.PdfDocument(content) as document:
            sheets = [_dense(sheet.get_textpage().get_text_range()) for sheet in document]
        split = [texts for texts in whole if not any(_all_in(texts, sheet) for sheet in sheets)]
        return Paper(len(sheets), wider, split)

    def wider(self) -> list[str]:
        """The elements that stand out of the window; what scrolls by itself may be wider."""
        return self.page.evaluate(WIDER)

    def axe(self) -> list[str]:
        """The serious and critical findings of axe-core, each with the first element."""
        import axe_playwright_python

        script = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
        self.page.evaluate(script)
        found: list[dict[str, Any]] = self.page.evaluate(FINDINGS)
        return [
            f"{rule['id']}: {rule['help']} ({len(rule['nodes'])}x, first {rule['nodes'][0]['html'][:200]})"
            for rule in found
            if rule["impact"] in ("serious", "critical")
        ]

    def shoot(self, name: str) -> None:
        """Write a screenshot of the whole page, if the environment variable SCREENSHOTS names a folder."""
        folder = os.environ.get("SCREENSHOTS")
        if folder:
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@contextmanager
def opened(browser: Browser, address: str, *, width: int = 1400, scheme: Scheme = "light") -> Iterator[Tab]:
    """A tab with the page at `address` (file: or http:), in which nothing moves."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = Tab(context.new_page())
    tab.page.on("console", tab.listen)
    tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.page.on("requestfailed", lambda asked: tab.errors.append(f"{asked.url} failed"))
    try:
        tab.page.goto(address, wait_until="load")
        tab.page.add_style_tag(content=STILL)
        yield tab
    finally:
        context.close()
