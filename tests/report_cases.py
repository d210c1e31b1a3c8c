"""Every case that a run can end in, with its verdict; their pages, and a strict reader of pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

from synthetic_run import everywhere, failed, make_run

from nas_attn.records import RunRecord
from nas_attn.report.page import render

SITES = ("denseblock1", "transition1", "denseblock2", "transition2", "denseblock3")
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
