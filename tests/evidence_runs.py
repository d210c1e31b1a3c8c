"""Runs with stored predictions, and their page, for the tests of the evidence on classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
from report_cases import Reader
from sklearn import metrics
from synthetic_run import everywhere, make_run

from nas_attn.comparison.predictions import Predictions
from nas_attn.records import RunRecord
from nas_attn.report import page
from nas_attn.report.chart import Chart
from nas_attn.report.evidence import Evidence, drawn_of, evidence_of, learning_curves
from nas_attn.report.evidence_figures import evidence_charts
from nas_attn.report.marks import Colours
from nas_attn.report.words import scale_of

N_IMAGES, N_CLASSES, N_SEEDS = 240, 4, 3
SITES = ("denseblock1", "transition1", "denseblock2", "transition2", "denseblock3")
FOUND_HERE = everywhere("se", SITES[:2])


def with_data(run: RunRecord, names: list[str], **config: object) -> RunRecord:
    data = {**run.config["data"], "facts": {**run.config["data"]["facts"], "class_names": names}}
    data["facts"]["num_classes"] = len(names)
    return replace(run, config={**run.config, "data": data, **config})


@cache
def page_of(make: Callable[[], RunRecord]) -> str:
    return shown(make())


def shown(run: RunRecord) -> str:
    """Return the page with the figures of its section alone: the others take most of the time."""
    bare = replace(run, table=None)
    return page._page(page.content(bare, charts_of(bare)))


def charts_of(run: RunRecord) -> list[Chart]:
    drawn, names = drawn_of(run)
    return list(evidence_charts(drawn, names, learning_curves(run), Colours.of(run), scale_of(run)))


@cache
def one_class_each() -> RunRecord:
    """Probabilities with a known signal, unbalanced classes, and one class without images."""
    random = np.random.default_rng(1)
    targets = random.choice(N_CLASSES, N_IMAGES, p=(0.5, 0.3, 0.15, 0.05))
    run, kept = make_run(n_trials=8, n_seeds=N_SEEDS, found=FOUND_HERE), {}
    for row in run.retrain:
        scores = random.normal(size=(N_IMAGES, N_CLASSES + 1))
        scores[np.arange(N_IMAGES), targets] += 2.0
        kept[row.key, row.seed, row.epochs] = Predictions.of(np.exp(scores) / np.exp(scores).sum(1)[:, None], targets)
    return with_data(replace(run, predictions=kept), ["ant", "bee", "cat", "dog", "elk"])


@cache
def many_labels() -> RunRecord:
    """Four labels an image; no image has the third, and every image the last."""
    random = np.random.default_rng(2)
    targets = (random.random((N_IMAGES, 4)) < (0.4, 0.1, 0.0, 1.0)).astype(np.uint8)
    run, kept = make_run(n_trials=8, n_seeds=N_SEEDS, found=FOUND_HERE), {}
    rows = []
    for row in run.retrain:
        scores = 2.0 * targets - 1.0 + random.normal(size=targets.shape)
        kept[row.key, row.seed, row.epochs] = Predictions.of(1 / (1 + np.exp(-scores)), targets)
        area = np.mean([metrics.roc_auc_score(targets[:, k], scores[:, k]) for k in (0, 1)])
        rows.append(replace(row, value=float(area)))
    return with_data(
        replace(run, retrain=tuple(rows), predictions=kept), ["edema", "mass", "hernia", "lung"], task="multi-label"
    )


def evidence(run: RunRecord) -> Evidence:
    found = evidence_of(run)
    assert found is not None
    return found


def section_of(html: str) -> str:
    """Return the text of the section; its markup must be well formed."""
    reader = Reader(f"<main>{section_html(html)}</main>")
    return " ".join(reader.texts["main"][0].split())


def section_html(html: str) -> str:
    start = html.index("<h2>Classes and curves</h2>")
    return html[start : html.index("</section>", start)]
