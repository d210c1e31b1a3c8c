"""The layout of the legend below the drawing of a network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nas_attn.report.glyphs import CODE, WIDTHS
from nas_attn.report.layout import LEFT, RIGHT
from nas_attn.report.legend import Family
from nas_attn.report.palette import family_colour
from nas_attn.report.shapes import Mark, Sheet, Text, joined, text_width

SIZE, LEADING = 6.7, 10.8  # size and distance of the lines
SPACE, BETWEEN = 3.5, 9.0  # between a mark and its text; between two entries
ABOVE = 6.0  # between the drawing and the legend


@dataclass(frozen=True)
class _Entry:
    """A mark, if any, and the words beside it, of which each may begin a line."""

    mark: Mark | None
    words: tuple[str, ...]
    colour: str = "ink"

    @property
    def indent(self) -> float:
        return self.mark.width + SPACE if self.mark else 0.0

    @property
    def width(self) -> float:
        return self.indent + text_width(" ".join(self.words), SIZE)

    def lines(self, width: float) -> Iterator[str]:
        """Yield the words in lines of this width."""
        line = ""
        for word in self.words:
            longer = f"{line} {word}" if line else word
            if line and self.indent + text_width(longer, SIZE) > width:
                yield line
                line = word
            else:
                line = longer
        yield line


def legend_sheet(families: Sequence[Family], symbols: Sequence[tuple[str, str]]) -> Sheet:
    """Return the legend: the families with their options and variants, then the other marks."""
    sheets, y = [], ABOVE + LEADING / 2
    for family in families:
        badges = [_badge(variant.code, family.name) for variant in family.variants]
        is_alone = len(badges) == 1
        drawn, y = _grid([_Entry(badges[0] if is_alone else None, _words(family.heading))], y)
        sheets += drawn
        if not is_alone:
            texts = [_words(variant.text) for variant in family.variants]
            drawn, y = _grid([_Entry(badge, words) for badge, words in zip(badges, texts, strict=True)], y)
            sheets += drawn
    drawn, y = _flow([_Entry(_symbol(shape), tuple(text.split(" ")), "muted") for shape, text in symbols], y)
    return joined([*sheets, *drawn], y - LEADING / 2 + 1.0)


def _words(text: str) -> tuple[str, ...]:
    """Return the parts of a text between which a line may break: after a comma, and before a bracket."""
    return tuple(re.split(r"(?<=,) | (?=\()", text))


def _badge(code: str, family: str) -> Mark:
    return Mark(0, 0, text_width(code, CODE, "bold") + 4.4, "badge", family_colour(family), text=code)


def _symbol(shape: str) -> Mark | None:
    return Mark(0, 0, WIDTHS[shape], shape, "plain" if shape == "ring" else "dim") if shape in WIDTHS else None


def _grid(entries: Sequence[_Entry], y: float) -> tuple[list[Sheet], float]:
    """Draw entries in as many columns as the widest one allows, from the line at `y` on; return them and the next y."""
    n_columns = max(1, min(3, len(entries), int((RIGHT - LEFT + BETWEEN) / (max(e.width for e in entries) + BETWEEN))))
    step = (RIGHT - LEFT + BETWEEN) / n_columns
    sheets: list[Sheet] = []
    for start in range(0, len(entries), n_columns):
        row = entries[start : start + n_columns]
        drawn = [_drawn(entry, LEFT + step * column, y) for column, entry in enumerate(row)]
        sheets += [sheet for sheet, _ in drawn]
        y += LEADING * max(n_lines for _, n_lines in drawn)
    return sheets, y


def _flow(entries: Sequence[_Entry], y: float) -> tuple[list[Sheet], float]:
    """Draw entries like words, from the line at `y` on; return them and the next y."""
    sheets, x = [], LEFT
    for entry in entries:
        if x + entry.width > RIGHT:
            x, y = LEFT, y + LEADING
        sheets.append(_drawn(entry, x, y)[0])
        x += entry.width + BETWEEN
    return sheets, y + LEADING


def _drawn(entry: _Entry, x: float, y: float) -> tuple[Sheet, int]:
    """Draw an entry with its text in lines; return it with their number."""
    lines = list(entry.lines(RIGHT - x))
    marks = (replace(entry.mark, x=x + entry.mark.width / 2, y=y),) if entry.mark else ()
    left = x + entry.indent
    texts = [Text(left, y + n * LEADING, line, SIZE, entry.colour, anchor="left") for n, line in enumerate(lines)]
    return Sheet(marks=marks, texts=tuple(texts)), len(lines)
