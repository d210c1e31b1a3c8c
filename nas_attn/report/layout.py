"""The layout of the drawing of a network: stages in cards, cards in rows that fill a paper's column, and a legend."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from nas_attn.placement import Attention
from nas_attn.report.architecture import Architecture
from nas_attn.report.chart import COLUMN
from nas_attn.report.glyphs import Glyph, end_glyph, part_glyph, stem_glyph, tail_glyph
from nas_attn.report.shapes import Box, Sheet, Text, Wire, joined, text_width

WIDTH = COLUMN * 72
LEFT, RIGHT = 7.5, WIDTH - 7.5  # between them lie the cards; outside, the line goes from row to row
LANE = 8.0  # above a row, for the line from the row before
LINK, LONG_LINK = 6.0, 9.0  # least length of the line between cards, and the length that it has where there is room
GAP, PAD = 3.0, 4.5  # between blocks; between a card and what is in it
TITLE, SHAPE, TEXT_LINE = 7.4, 6.7, 8.8  # sizes of a card's title and of the shape of its maps; height of a line
ROUND = 4.0  # radius of a card's corners; cards of one stage overlap by two
TOP = 1.0  # above the first row
TALLEST, GUTTER = 640.0, 14.4  # height of a paper's column; space between two of them


@dataclass(frozen=True)
class Cell:
    """A card with blocks of a stage, or an end of the network without a card.

    Args:
        stage: Name of the stage; empty without a card.
        is_first: Whether the stage begins here, so that the card has a heading.
        is_last: Whether the stage ends here, rather than go on in the next card.
    """

    glyphs: tuple[Glyph, ...]
    stage: str = ""
    shape: str = ""
    is_first: bool = True
    is_last: bool = True

    @property
    def width(self) -> float:
        """The least width."""
        inner = sum(glyph.width for glyph in self.glyphs) + GAP * (len(self.glyphs) - 1)
        heads = (text_width(self.stage, TITLE, "bold"), text_width(self.shape, SHAPE)) if self.is_first else ()
        return max(inner, *heads, 0.0) + 2 * PAD if self.stage else inner

    def n_lines(self, width: float) -> int:
        """Return how many lines its heading has at this width."""
        if not self.stage or not self.is_first:
            return 0
        both = text_width(self.stage, TITLE, "bold") + text_width(self.shape, SHAPE) + 2 * PAD + 6.0
        return 1 if both <= width else 2


def network_rows(network: Architecture, codes: Mapping[Attention, str]) -> tuple[tuple[str, Sheet], ...]:
    """Return the rows of the drawing from the input to the output, each with its label; they lie below each other.

    Args:
        codes: Text on the badge of each attention.
    """
    cells = [Cell((end_glyph(network.image, "input"),))]
    cells += [Cell((stem_glyph(),))] if network.has_stem else []
    for stage in network.stages:
        cells.append(Cell(tuple(part_glyph(part, codes) for part in stage.parts), stage.name, stage.shape))
    cells += [Cell((tail_glyph(network.tail, codes),))] if network.tail else []
    cells.append(Cell((end_glyph(network.output, "output"),)))
    return tuple(_drawn(_packed([piece for cell in cells for piece in _pieces(cell)])))


def in_columns(heights: Sequence[float]) -> tuple[tuple[tuple[float, float], ...], float, float]:
    """Return the top left corner of each row of the figure, and the figure's width and height.

    The rows lie below each other, or in two columns of similar height if one would be taller than a paper's.

    >>> in_columns([300.0, 200.0])[0], [round(x, 1) for x, _ in in_columns([400.0, 300.0, 300.0])[0]]
    (((0.0, 0.0), (0.0, 300.0)), [0.0, 255.6, 255.6])
    """
    whole = sum(heights)
    if whole <= TALLEST or len(heights) == 1:
        splits = [len(heights)]
    else:
        splits = [min(range(1, len(heights)), key=lambda n: max(sum(heights[:n]), sum(heights[n:]))), len(heights)]
    corners, start = [], 0
    for column, stop in enumerate(splits):
        corners += [(column * (WIDTH + GUTTER), sum(heights[start:n], 0.0)) for n in range(start, stop)]
        start = stop
    ends = [y + height for (_, y), height in zip(corners, heights, strict=True)]
    return tuple(corners), len(splits) * (WIDTH + GUTTER) - GUTTER, max(ends)


def _packed(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Return the cells in as few rows as possible, of similar fullness."""
    best: list[tuple[int, float, int]] = [
        (0, 0.0, 0)
    ]  # for the first n cells: rows, squared room, start of the last row
    for stop in range(1, len(cells) + 1):
        ways = []
        for start in range(stop - 1, -1, -1):
            room = RIGHT - LEFT - sum(cell.width for cell in cells[start:stop]) - LINK * (stop - start - 1)
            if room < 0 and start < stop - 1:
                break
            ways.append((best[start][0] + 1, best[start][1] + room**2, start))
        best.append(min(ways))
    rows: list[list[Cell]] = []
    stop = len(cells)
    while stop:
        rows.insert(0, _joined(cells[best[stop][2] : stop]))
        stop = best[stop][2]
    return rows


def _joined(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells of a row; pieces of one stage beside each other become one."""
    row: list[Cell] = []
    for cell in cells:
        if row and not cell.is_first:
            row[-1] = replace(row[-1], glyphs=row[-1].glyphs + cell.glyphs, is_last=cell.is_last)
        else:
            row.append(cell)
    return row


def _pieces(cell: Cell) -> list[Cell]:
    """Return a cell, or if it is wider than a row, several of similar width."""
    if cell.width <= RIGHT - LEFT:
        return [cell]
    n_pieces = math.ceil(cell.width / (RIGHT - LEFT))
    while (pieces := _broken(cell, n_pieces)) is None:
        n_pieces += 1
    return pieces


def _broken(cell: Cell, n_pieces: int) -> list[Cell] | None:
    """Return a stage in pieces of similar width; None if one is wider than a row that can be narrower."""
    target = sum(glyph.width + GAP for glyph in cell.glyphs) / n_pieces
    pieces: list[list[Glyph]] = [[]]
    reached = 0.0
    for glyph in cell.glyphs:
        if pieces[-1] and reached + glyph.width / 2 > target * len(pieces):
            pieces.append([])
        pieces[-1].append(glyph)
        reached += glyph.width + GAP
    cells = [replace(cell, glyphs=tuple(piece), is_first=False, is_last=False) for piece in pieces]
    cells[0], cells[-1] = replace(cells[0], is_first=True), replace(cells[-1], is_last=True)
    is_narrow = all(len(piece.glyphs) == 1 or piece.width <= RIGHT - LEFT for piece in cells)
    return cells if is_narrow else None


@dataclass(frozen=True)
class _Row:
    """The cells of a row with their left ends and widths, and the heights in it."""

    spans: tuple[tuple[Cell, float, float], ...]
    lane: float

    @property
    def heading(self) -> float:
        return TEXT_LINE * max(cell.n_lines(width) for cell, _, width in self.spans)

    @property
    def line(self) -> float:
        rise = max(glyph.rise for cell, _, _ in self.spans for glyph in cell.glyphs)
        return self.lane + (self.heading + 4.0 if self.heading else 0.0) + rise + 1.0

    @property
    def height(self) -> float:
        return self.line + max(glyph.drop for cell, _, _ in self.spans for glyph in cell.glyphs) + 5.4

    @property
    def end(self) -> float:
        """Where the line leaves it."""
        _, left, width = self.spans[-1]
        return left + width

    @property
    def label(self) -> str:
        """What it shows, in words."""
        cells = [cell for cell, _, _ in self.spans if cell.stage]
        words = [f"{cell.stage}{'' if cell.is_first else ' (continued)'}, {cell.shape}" for cell in cells]
        return "; ".join(words) or "its ends"


def _spread(cells: Sequence[Cell]) -> Iterator[tuple[Cell, float, float]]:
    """Yield the cells of a row with left end and width; they fill the column if the row has a card to stretch."""
    room = max(0.0, RIGHT - LEFT - sum(cell.width for cell in cells) - LINK * (len(cells) - 1))
    link = LINK + (min(LONG_LINK - LINK, room / (len(cells) - 1)) if len(cells) > 1 else 0.0)
    room -= (link - LINK) * (len(cells) - 1)
    n_blocks = sum(len(cell.glyphs) for cell in cells if cell.stage)
    left = LEFT
    for cell in cells:
        width = cell.width + (room / n_blocks * len(cell.glyphs) if cell.stage else 0.0)
        yield cell, left, width
        left += width + link


def _drawn(packed: Sequence[Sequence[Cell]]) -> Iterator[tuple[str, Sheet]]:
    """Draw the rows, and the line from each to the next one."""
    came_from: float | None = None
    for number, cells in enumerate(packed):
        is_last = number == len(packed) - 1
        row = _Row(tuple(_spread(cells)), TOP if came_from is None else LANE)
        sheets = [_cell(row, *span) for span in row.spans]
        wires = list(_links(row))
        if came_from is not None:
            lane = row.lane / 2
            first = row.spans[0][1]
            wires.append(
                Wire(((came_from, 0), (came_from, lane), (2.0, lane), (2.0, row.line), (first, row.line)), True)
            )
        came_from = min(row.end + LINK, WIDTH - 2.0)
        if not is_last:
            wires.append(Wire(((row.end, row.line), (came_from, row.line), (came_from, row.height))))
        yield row.label, joined([*sheets, Sheet(wires=tuple(wires))], row.height)


def _links(row: _Row) -> Iterator[Wire]:
    """Yield the arrows between the cells of a row."""
    for (_, left, width), (_, following, _) in zip(row.spans, row.spans[1:], strict=False):
        yield Wire(((left + width, row.line), (following, row.line)), has_head=True)


def _cell(row: _Row, cell: Cell, left: float, width: float) -> Sheet:
    """Draw a cell: its card and heading, its blocks at equal distances, and the line between them."""
    room = width - sum(glyph.width for glyph in cell.glyphs) - (2 * PAD if cell.stage else 0.0)
    step = room / len(cell.glyphs)
    sheets, stops, x = [], [left], left + (PAD if cell.stage else 0.0) + step / 2
    for glyph in cell.glyphs:
        sheets.append(glyph.sheet.moved(x, row.line))
        stops += [x, x + glyph.width]
        x += glyph.width + step
    stops.append(left + width)
    gaps = zip(stops[::2], stops[1::2], strict=True)
    sheets.append(Sheet(wires=tuple(Wire(((start, row.line), (end, row.line))) for start, end in gaps if end > start)))
    if cell.stage:
        sheets.append(_card(row, cell, left, width))
    return joined(sheets, 0.0)


def _card(row: _Row, cell: Cell, left: float, width: float) -> Sheet:
    """Draw a card with its heading; the rest of a stage goes on without one, below the card before."""
    top = row.lane if cell.is_first else 0.0
    end = row.height + (0.0 if cell.is_last else 2 * ROUND)
    card = Box(left, top, width, end - top, "card", None, ROUND)
    if not cell.is_first:
        return Sheet(cards=(card,))
    title = Text(left + PAD, row.lane + 7.5, cell.stage, TITLE, weight="bold", anchor="left")
    shape = Text(left + width - PAD, title.y, cell.shape, SHAPE, "muted", anchor="right")
    if cell.n_lines(width) == 2:
        shape = replace(shape, x=title.x, y=title.y + TEXT_LINE, anchor="left")
    return Sheet(cards=(card,), texts=(title, shape))
