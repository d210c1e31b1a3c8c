"""Every case that a run can end in, with its verdict; their pages, and a strict reader of pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

from synthetic_run import everywhere, failed, make_run, with_predictions

from nas_attn.records import RunRecord
from nas_attn.report.page import render

SITES = ("denseblock1", "transition1", "denseblock2", "transition2", "denseblock3")
VOID = {"meta", "br", "link", "img", "input", "hr"}
SIZE = "5 seeds, new seeds only"
INTERVAL = r"96 % interval [+-]\d+\.\d\d to [+-]\d+\.\d\d"


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


def few_images() -> RunRecord:
    """A run with predictions of few images, whose found #1 is a little better."""
    return with_predictions(make_run(effects={("denseblock2", "se"): 0.003}, noise=0.003), n_images=400)


def at_chance(run: RunRecord) -> RunRecord:
    """Every retraining answers as if it had not seen the image."""
    return replace(run, retrain=tuple(replace(row, value=0.1) for row in run.retrain))


CASES: dict[str, tuple[Callable[[], RunRecord], str]] = {
    "better": (
        make_run,
        rf"Put cbam and se at 2 of 5 sites\. \+1\.13 points of test accuracy by the best placement found "
        rf"\(cbam at transition1 and se at denseblock2\) against no attention: {INTERVAL} \({SIZE}\)\. "
        r"The gain lies between 0\.98 points and 1\.29 points\. The best placement found against se everywhere: "
        r"-0\.03 points \(undecided\)\. best\.json holds the network of 'found #1'\.",
    ),
    "equal": (
        lambda: make_run(effects={}),
        rf"Use no attention\. -0\.07 points .* against no attention: {INTERVAL} \({SIZE}\)\. Equal "
        r"within 0\.50 points\. It is at most 0\.09 points better, and at most 0\.22 points worse\. .* "
        r"best\.json holds the network without attention\.",
    ),
    "worse": (
        lambda: make_run(effects=harmful(), found=everywhere("se", SITES[:1])),
        rf"Use no attention\. -1\.07 points of test accuracy by the best placement found \(se at denseblock1\) against "
        rf"no attention: {INTERVAL} .*\. The loss lies between 0\.91 points and 1\.22 points\. .* against se "
        r"everywhere: \+3\.97 points \(better\)\. best\.json holds the network without attention\.",
    ),
    "undecided, with images": (
        few_images,
        rf"Undecided\. \+\d\.\d\d points .*: {INTERVAL} \(5 seeds, 400 images\)\. It is at most .* better, and at most "
        r".* worse\. (About \d+ seeds would tell .*|More seeds alone would not tell .*)\. "
        r".*best\.json holds the simpler "
        r"choice: the network without attention\.",
    ),
    "everywhere is better": (
        lambda: make_run(effects={(s, "se"): 0.008 for s in SITES}, found=everywhere("se", SITES[:2])),
        r"Put se everywhere\. \+3\.96 points of test accuracy by 'se everywhere' .* against no attention: 95 % "
        r"interval .*\. The gain lies between .*\. The best placement found against se everywhere: "
        r"-2\.43 points \(worse\)\. "
        r"best\.json holds the network of 'se everywhere'\.",
    ),
    "found is an everywhere arm": (
        lambda: make_run(found=everywhere("se", SITES)),
        rf"Put se everywhere\. \+1\.13 points of test accuracy by the best placement found .*: {INTERVAL} .* "
        r"best\.json holds the network of 'found #1 = se everywhere'\.",
    ),
    "over the limit": (
        lambda: make_run(effects={(s, "gam"): 0.004 for s in SITES}, found=everywhere("gam", SITES[:3])),
        r"Put gam at 3 of 5 sites\. .* The best placement found against gam everywhere, which is over the limit: "
        r"-0\.82 points \(worse\)\. best\.json holds the network of 'found #1'\.",
    ),
    "chance": (
        lambda: at_chance(make_run()),
        r"Nothing was learned\. No arm does better than always answering the most frequent class \(10\.00 %\): .*\.",
    ),
    "one seed": (
        lambda: make_run(n_seeds=1),
        r"Not known\. \+1\.44 points .* against no attention: no interval \(1 seed\), because fewer than 3 seeds allow "
        r"no interval\. .*best\.json holds the network without attention\.",
    ),
    "in the search": (
        lambda: in_search(make_run()),
        r"Not finished\. After 9 of 24 trials there is no test value yet: se at .* leads with 95\.51 % accuracy on "
        r"validation \(one seed; \+0\.75 points against no attention, not yet separated from noise\)\.",
    ),
    "confirmed": (
        lambda: replace(make_run(), best=None, retrain=()),
        r"Not finished\. After 24 of 24 trials .* leads with .* % accuracy on validation \(mean of n = 2 seeds; .*\)\.",
    ),
    "in the retraining": (
        lambda: replace(make_run(), best=None, retrain=make_run().retrain[:8]),
        r"Not finished\. \+1\.18 points .* against no attention: 95 % interval \+0\.88 to \+1\.48 \(3 seeds, new seeds "
        r"only\)\.",
    ),
    "no baseline yet": (
        lambda: replace(make_run(), best=None, retrain=make_run().retrain[:3]),
        r"Not known\. The arm 'none' was not retrained, so that nothing can be compared\.",
    ),
    "retraining failed": (
        lambda: retraining_failed(make_run()),
        r"Not known\. There is no test value, since all 5 retrainings of 'found #1' failed: cbam at .* leads with .* "
        r"on validation .*\.",
    ),
    "no trial with attention": (
        lambda: alone(make_run()),
        r"Not finished\. No trial with attention has a value yet: no attention reaches 94\.76 % accuracy on validation "
        r"\(one seed\); failed: 4 diverged\.",
    ),
    "everything failed": (
        lambda: all_failed(make_run()),
        r"Nothing was measured\. All 12 trials failed \(12 out of memory\)\.",
    ),
    "nothing yet": (
        lambda: in_search(make_run(), 0),
        r"Not finished\. Nothing has been measured yet: no trial has finished\.",
    ),
    "nothing known": (
        lambda: RunRecord(Path("runs/x"), {}, None, (), (), ()),
        r"Not finished\. Nothing has been measured yet: no trial has finished\.",
    ),
    "own network without a table": (
        lambda: replace(make_run(), table=None, config={"train": "mine:train"}),
        r"Put se and cbam at 2 of \d sites\. \+1\.13 points .*\.",
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
