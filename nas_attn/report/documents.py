"""The report as text files, in the words of the page: `report.md`, `arms.tex` and the model card `MODEL.md`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from jinja2 import Environment

from nas_attn.comparison.answer import names_in
from nas_attn.comparison.contrasts import Contrast
from nas_attn.placement import Placement
from nas_attn.records import BARE, RANDOM, RunRecord
from nas_attn.report import words
from nas_attn.report.evidence import Evidence
from nas_attn.report.importance import searched_sites
from nas_attn.report.tables import Arm, arm_called, arms_of
from nas_attn.report.templates import environment
from nas_attn.report.words import Scale, placement_words
from nas_attn.statistics import CONFIDENCE, Summary

TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "[": "{[}", "*": "{*}",
}  # fmt: skip
LOWEST = 3  # classes that a model card names for their low values


def documents(run: RunRecord, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the content of each document by file name; one that has nothing to say is left out.

    `report.md` is always there, `arms.tex` from the first retrained arm on, `MODEL.md` once a model is exported.

    Args:
        values: Those that the page shows (`nas_attn.report.page.content`).
    """
    shown = {**values, "model": _model(run, values["evidence"])}
    found = {"report.md": "report.md.j2"}
    if values["arms"]:
        found["arms.tex"] = "arms.tex.j2"
    if shown["model"] is not None:
        found["MODEL.md"] = "model.md.j2"
    texts = {name: _environment().get_template(template).render(**shown) for name, template in found.items()}
    return {name: re.sub(r"\n{3,}", "\n\n", text) for name, text in texts.items()}


@cache
def _environment() -> Environment:
    """Return the environment of the templates of text files: each value is escaped by its filter."""
    own: dict[str, Callable[..., str]] = {
        "md": markdown,
        "code": code,
        "fenced": fenced,
        "tex": tex,
        "interval": _interval,
        "bracket": _bracket,
    }
    return environment(own, autoescape=False, keep_trailing_newline=True)


def markdown(text: object) -> str:
    """Return text as one line of Markdown that shows it as it is, also in a cell of a table.

    >>> markdown("a|b *c* __d__ <i> my_net")
    'a\\\\|b \\\\*c\\\\* \\\\_\\\\_d\\\\_\\\\_ \\\\<i\\\\> my_net'
    """
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*\[\]<>|]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", line)


def code(text: object) -> str:
    """Return text as code within a line of Markdown.

    >>> code("a`b")
    "`a'b`"
    """
    return "`" + " ".join(str(text).replace("`", "'").split()) + "`"


def fenced(text: object) -> str:
    """Return text for a block of code of Markdown, whose end it does not hold.

    >>> fenced("a ``` b")
    'a ~~~ b'
    """
    return str(text).replace("```", "~~~")


def tex(text: object) -> str:
    """Return text as one line of LaTeX that shows it as it is, also at the start of a table's row.

    >>> tex("found #1 = a_b & 5 %")
    'found \\\\#1 = a\\\\_b \\\\& 5 \\\\%'
    """
    return "".join(TEX.get(letter, letter) for letter in " ".join(str(text).split()))


def _interval(pair: Contrast, scale: Scale) -> str:
    """Return the interval of a comparison, with its confidence if that is not the usual one."""
    if pair.summary is None or pair.summary.interval is None:
        return "no interval"
    other = "" if pair.confidence == CONFIDENCE else f", at {100 * pair.confidence:.3g} %"
    return words.minus(scale.signed_interval(pair.summary)) + other


def _bracket(summary: Summary, scale: Scale, *, is_signed: bool = False) -> str:
    """Return an interval in brackets for LaTeX, or a dash."""
    if summary.interval is None:
        return "--"
    low, high = (scale.signed(end) if is_signed else scale.number(end) for end in summary.interval)
    return f"$[{low}, {high}]$"


def _model(run: RunRecord, evidence: Evidence | None) -> dict[str, Any] | None:
    """Return what the model card says about the exported model; None without one."""
    best, arms = run.best, arms_of(run)
    if best is None:
        return None
    arm = arm_called(arms, names_in(str(best.get("recommended") or BARE))[0])
    if arm is None or arm.summary is None:
        return None
    placement = Placement.from_dict(best["placement"]) if best.get("arm") else arm.placement
    return {
        "arm": arm,
        "where": placement_words(placement, run.table, len(searched_sites(run))),
        "sites": [(site, str(attention)) for site, attention in placement.attentions.items()],
        "backbone": best.get("backbone"),
        "class_names": best.get("class_names"),
        "mean": best.get("mean"),
        "std": best.get("std"),
        "weights": best.get("weights"),
        "first_seed": min(arm.by_seed),
        "others": [other.label for other in arms if other.label not in (arm.label, RANDOM) and other.by_seed],
        "lowest": _lowest(evidence, arm),
    }


def _lowest(evidence: Evidence | None, arm: Arm) -> list[tuple[str, float]]:
    """Return the classes or labels with the lowest values of this arm; none if there are hardly more."""
    rows = [*evidence.classes, *evidence.other_classes] if evidence is not None else []
    known = [(row.name, row.values[arm.label]) for row in rows if arm.label in row.values]
    return sorted(known, key=lambda pair: pair[1])[:LOWEST] if len(known) > LOWEST else []
