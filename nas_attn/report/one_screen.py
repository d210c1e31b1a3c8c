"""A run in one screen: what it recommends, its arms, and its folder; as text, and as HTML for notebooks."""

from __future__ import annotations

import unicodedata
from html import escape

from nas_attn.records import RunRecord
from nas_attn.report.tables import arms_of
from nas_attn.report.verdict import verdict_of
from nas_attn.report.words import count, scale_of, short

MOST_ARMS, MOST_LETTERS = 12, 600
_COLUMNS = ("arm", "test", "seeds", "parameters", "")


def as_text(run: RunRecord) -> str:
    """Return a run as text of one screen."""
    advice, rows, rest = _parts(run)
    table = [tuple(_cut(cell, 32) for cell in row) for row in ((_COLUMNS, *rows) if rows else ())]
    widths = [max(len(row[column]) for row in table) for column in range(len(_COLUMNS))] if table else []
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([advice, *lines, rest])


def as_html(run: RunRecord) -> str:
    """Return a run as HTML of one screen; every name is escaped."""
    advice, rows, rest = _parts(run)
    head = "".join(f"<th>{escape(name)}</th>" for name in _COLUMNS)
    body = "".join(f"<tr>{''.join(f'<td>{escape(_cut(cell, 60))}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if rows else ""
    return f"<div><p>{escape(advice)}</p>{table}<p><code>{escape(rest)}</code></p></div>"


def _parts(run: RunRecord) -> tuple[str, list[tuple[str, ...]], str]:
    """Return the advice, a row for each arm, and a line on the folder and its trials, without control characters."""
    said, scale = verdict_of(run), scale_of(run)
    advice = f"{said.title}. {said.numbers + '.' if said.numbers else ''}".rstrip()
    arms = [arm for arm in arms_of(run) if arm.summary is not None]
    recommended = (run.best or {}).get("recommended")
    rows = []
    for arm in arms[:MOST_ARMS]:
        assert arm.summary is not None, "an arm without values was left out"
        spread = "" if arm.summary.sd is None else f" \N{PLUS-MINUS SIGN} {scale.number(arm.summary.sd)}"
        value = f"{scale.number(arm.summary.mean)}{spread}{scale.unit}"
        size = "" if arm.n_parameters is None else short(arm.n_parameters)
        mark = "recommended" if recommended in (*arm.names, arm.label) else ""
        rows.append(tuple(map(_plain, (arm.label, value, str(arm.summary.n), size, mark))))
    more = f", {count(len(arms) - MOST_ARMS, 'further arm')}" if len(arms) > MOST_ARMS else ""
    trials = count(len(run.search), "search trial")
    return _cut(_plain(advice), MOST_LETTERS), rows, _cut(_plain(f"{run.folder} ({trials}{more})"), MOST_LETTERS)


def _plain(text: str) -> str:
    """Return text in one line, without what a terminal would obey or cannot show."""
    shown = " ".join(text.split())
    return "".join("?" if unicodedata.category(one) in ("Cs", "Cc", "Cf", "Co") else one for one in shown)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"
