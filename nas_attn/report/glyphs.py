"""The drawing of one part of a network: a block with its shortcut, convolutions and places for attention.

A glyph is drawn around the line of the data flow: its x begins at 0, and y is 0 on the line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas_attn.placement import Attention
from nas_attn.report.architecture import Part, Spot, part_name
from nas_attn.report.palette import family_colour
from nas_attn.report.shapes import Box, Mark, Sheet, Text, Wire, joined, shortened, text_width

CODE, CAPTION = 6.3, 6.7  # sizes of the text on a badge, and below a block
BADGE, SLAB = 9.6, 13.0  # heights
HALF = 9.0  # half of a box's height
ARC = {"skip": 15.5, "dense": 12.6}  # how far above the line a shortcut runs
BELOW = 5.6  # between a box and the middle of its caption
INNER, LINE = 150.0, 14.5  # greatest width of the marks in a box; distance of their lines if they need several
FORK = {"skip": 2.5, "dense": 1.2}  # where a shortcut leaves the line
PAD = 3.0  # between a box and what is in it
WIDEST = 66.0  # a caption
DECK = 1.7  # offset of the boxes behind that of folded blocks
WIDTHS = {"dot": 2.2, "ring": 4.8, "slab": 4.4, "plus": 7.4, "pool": 7.0}
ROOM = {"dot": 2.0, "ring": 2.6, "slab": 2.6, "plus": 1.0, "pool": 2.6, "badge": 2.2}
"""Space around a mark, in the direction of the line."""


@dataclass(frozen=True)
class Glyph:
    """The drawing of a part or of an end of the network.

    Args:
        rise, drop: How far it reaches above and below the line.
    """

    width: float
    rise: float
    drop: float
    sheet: Sheet


def part_glyph(part: Part, codes: Mapping[Attention, str]) -> Glyph:
    """Draw a part of a stage, with its name below it unless nothing was searched on a piece of the line."""
    draw = _Marks(codes)
    has_caption = part.form != "line" or any(spot.is_searched for spot in part.spots)
    caption = _caption(part) if has_caption else ""
    if part.form == "line":
        width, marks = draw.row(part.spots)
        return _captioned(width, marks, caption)
    return _block(part, draw, caption)


def _caption(part: Part) -> str:
    name = part_name(part.names, part.stage)
    times = f" \N{MULTIPLICATION SIGN}{len(part.names)}" if len(part.names) > 1 else ""
    return shortened(name, CAPTION, WIDEST - text_width(times, CAPTION)) + times


def _block(part: Part, draw: _Marks, caption: str) -> Glyph:
    """Draw a box with its marks, the shortcut over it, and the marks behind it."""
    lines = draw.lines(part.at("line"))
    above, _ = draw.row(part.at("arc"))
    start = FORK.get(part.form, -2.0) + 3.0
    width = max(2 * PAD + max((inner for inner, _ in lines), default=0.0), above - 4.0, 11.0)
    half = HALF + LINE * (max(len(lines), 1) - 1) / 2
    deck = DECK * min(len(part.names) - 1, 2)
    sheets = [_boxes(start, width, half, deck), *_inside(lines, start, width)]
    x, rise = start + width + deck + 1.5, half + deck
    if part.form in ARC:
        high = ARC[part.form] + half - HALF
        x, skip = _skip(part, draw, x, high)
        sheets.append(skip)
        rise = max(rise, high + (BADGE / 2 if any(spot.is_searched for spot in part.at("arc")) else 1.5))
    behind, after = draw.row(part.at("after"))
    hole = (start, start + width) if len(lines) > 1 else None
    sheet = joined([*sheets, after.moved(x, 0)], 0.0)
    return _captioned(x + behind + 0.5, sheet, caption, rise=rise, half=half, hole=hole)


def _boxes(x: float, width: float, half: float, deck: float) -> Sheet:
    """Draw the box of a block, before those of the equal blocks behind it."""
    offsets = [DECK * n for n in range(round(deck / DECK), -1, -1)]
    return Sheet(boxes=tuple(Box(x + d, -half - d, width, 2 * half, "paper", "dim", 2.2) for d in offsets))


def _inside(lines: Sequence[tuple[float, Sheet]], x: float, width: float) -> list[Sheet]:
    """Draw the marks in a box; several lines are read like text, and each has a wire of its own."""
    if len(lines) == 1:
        inner, marks = lines[0]
        return [marks.moved(x + (width - inner) / 2, 0)]
    sheets = []
    for number, (inner, marks) in enumerate(lines):
        y = LINE * (number - (len(lines) - 1) / 2)
        end = x + (width - 1.5 if number < len(lines) - 1 else PAD + inner)
        sheets += [marks.moved(x + PAD, y), Sheet(wires=(Wire(((x + 1.5, y), (end, y))),))]
    return sheets


def _skip(part: Part, draw: _Marks, x: float, high: float) -> tuple[float, Sheet]:
    """Draw the shortcut with its marks to the addition right of `x`; return where the line goes on."""
    (above, arc), (width, sign) = draw.row(part.at("arc")), draw.row(part.at("join"))
    fork = FORK[part.form]
    x += 1.0 if width or part.form == "dense" else 3.0
    middle, end = x + width / 2, -max((_height(mark) / 2 for mark in sign.marks), default=0.0)
    wire = Wire(((fork, 0), (fork, -high), (middle, -high), (middle, end)), has_head=True)
    sheets = [Sheet(wires=(wire,)), sign.moved(x, 0), arc.moved((fork + middle - above) / 2, -high)]
    return x + (width or 2.0), joined(sheets, 0.0)


def _height(mark: Mark) -> float:
    """Return the height of the mark of an addition."""
    return BADGE if mark.shape == "badge" else mark.width


def _captioned(
    width: float,
    sheet: Sheet,
    caption: str,
    *,
    rise: float = HALF,
    half: float = HALF,
    hole: tuple[float, float] | None = None,
) -> Glyph:
    """Return a glyph with the line through it, that is at least as wide as its caption.

    Args:
        half: How far its box reaches below the line.
        hole: Where the line is not drawn.
    """
    full = max(width, text_width(caption, CAPTION) + 2.0)
    left = (full - width) / 2
    texts = (Text(full / 2, half + BELOW, caption, CAPTION, "muted"),) if caption else ()
    ends = [(0.0, left + hole[0]), (left + hole[1], full)] if hole else [(0.0, full)]
    line = Sheet(wires=tuple(Wire(((start, 0.0), (end, 0.0))) for start, end in ends), texts=texts)
    return Glyph(full, rise, half + BELOW, joined([sheet.moved(left, 0), line], 0.0))


@dataclass(frozen=True)
class _Marks:
    """Draws spots beside each other."""

    codes: Mapping[Attention, str]

    def row(self, spots: Sequence[Spot]) -> tuple[float, Sheet]:
        """Return the width of a row of marks, and the marks."""
        x, marks = 0.0, []
        for spot in spots:
            mark = self.mark(spot)
            width = mark.width + ROOM[mark.shape]
            marks.append(Sheet(marks=(mark,)).moved(x + width / 2, 0).marks[0])
            x += width
        return x, Sheet(marks=tuple(marks))

    def lines(self, spots: Sequence[Spot]) -> list[tuple[float, Sheet]]:
        """Return the marks in one row, or in several of similar width if it would be wider than `INNER`."""
        whole, _ = self.row(spots)
        target = whole / max(1, math.ceil(whole / INNER))
        rows: list[list[Spot]] = [[]]
        reached = 0.0
        for spot in spots:
            width, _ = self.row([spot])
            if reached + width / 2 > target * len(rows):
                rows.append([])
            rows[-1].append(spot)
            reached += width
        return [self.row(row) for row in rows]

    def mark(self, spot: Spot) -> Mark:
        """Return the mark of a spot, with its middle at the origin."""
        if spot.attention:
            code = self.codes[spot.attention]
            width = text_width(code, CODE, "bold") + 4.4
            return Mark(0, 0, width, "badge", family_colour(spot.attention.name), spot, code)
        special = {"conv": "slab", "merge": "plus", "head": "pool"}.get(spot.sites[0].kind)
        shape = special or ("ring" if spot.is_searched else "dot")
        return Mark(0, 0, WIDTHS[shape], shape, "plain" if spot.is_searched else "dim", spot)


def end_glyph(text: str, caption: str) -> Glyph:
    """Draw an end of the network: a box with a text, and a caption below it."""
    width = text_width(text, CAPTION) + 7.0
    full = max(width, text_width(caption, CAPTION))
    box = Box((full - width) / 2, -7.0, width, 14.0, "paper", "dim", 2.2)
    texts = (Text(full / 2, 0, text, CAPTION), Text(full / 2, HALF + BELOW, caption, CAPTION, "muted"))
    return Glyph(full, HALF, HALF + BELOW, Sheet(boxes=(box,), texts=texts))


def stem_glyph() -> Glyph:
    """Draw the layers before the first site."""
    return _captioned(13.0, Sheet(boxes=(Box(1.0, -HALF, 11.0, 2 * HALF, "paper", "dim", 2.2),)), "stem")


def tail_glyph(spots: Sequence[Spot], codes: Mapping[Attention, str]) -> Glyph:
    """Draw what follows the last map: the global pooling in a box, and the sites behind it."""
    draw = _Marks(codes)
    (inner, head), (behind, after) = draw.row(spots[:1]), draw.row(spots[1:])
    box = Box(1.0, -HALF, inner + 2 * PAD, 2 * HALF, "paper", "dim", 2.2)
    x = 1.0 + box.width + (2.0 if behind else 0.0)
    marks = joined([Sheet(boxes=(box,)), head.moved(1.0 + PAD, 0), after.moved(x, 0)], 0.0)
    return _captioned(x + behind + 1.0, marks, "pooling")
