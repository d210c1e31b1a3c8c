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
    from playwright.sync_api import Browser, Page

Scheme = Literal["light", "dark"]

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PAPER = 680
"""Width of A4 between margins of 15 mm in CSS pixels (180 mm at 96 pixels per inch)."""

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


@dataclass
class Tab:
    """One open page; `errors` are what its console and its requests complained about."""

    page: Page
    errors: list[str] = field(default_factory=list)

    def resize(self, width: int, scheme: Scheme = "light") -> None:
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(media="screen", color_scheme=scheme)

    def as_printed(self) -> None:
        """The layout of the printed page, for measurements."""
        self.page.set_viewport_size({"width": PAPER, "height": 1000})
        self.page.emulate_media(media="print")

    def wider(self) -> list[str]:
        """The elements that stand out of the window; what scrolls by itself may be wider."""
        return self.page.evaluate(WIDER)

    def axe(self) -> list[str]:
        """The serious and critical findings of axe-core, each with the first element."""
        import axe_playwright_python

        script = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
        self.page.evaluate(script)
        found: list[dict[str, Any]] = self.page.evaluate(
            "async () => (await axe.run({resultTypes: ['violations']})).violations"
        )
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
    """A tab with the page at `address` (file: or http:); requests to other hosts fail."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = Tab(context.new_page())
    tab.page.on("console", lambda said: tab.errors.append(said.text) if said.type in ("error", "warning") else None)
    tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.page.on("requestfailed", lambda asked: tab.errors.append(f"{asked.url} failed"))
    try:
        tab.page.goto(address, wait_until="load")
        yield tab
    finally:
        context.close()
