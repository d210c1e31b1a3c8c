"""What the drawing of the network is made of: texts, boxes, wires and marks, in points from the top left corner."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, Self

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from nas_attn.errors import showable
from nas_attn.report.architecture import Spot

Anchor = Literal["left", "center", "right"]


NARROWER = 0.94  # Arial and its like are a tenth narrower than the font that every matplotlib has


def in_a_line(text: str) -> str:
    """Return text as it can be drawn in one line."""
    return showable(text).replace("\n", " ")


@cache
def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Return about the width of a line of text, the same on every machine. Units: points."""
    font = FontProperties(family="DejaVu Sans", weight=weight, size=size)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph ")  # a name in a script that the font does not have
        width, _, _ = text_to_path.get_text_width_height_descent(in_a_line(text), font, ismath=False)
    return NARROWER * float(width)


def shortened(text: str, size: float, width: float, weight: str = "normal") -> str:
    """Return a text that fits; a long one is cut at its beginning, since its end identifies a site."""
    if text_width(text, size, weight) <= width:
        return text
    kept = next((n for n in range(1, len(text)) if text_width(f"…{text[n:]}", size, weight) <= width), len(text))
    return f"…{text[kept:]}"


@dataclass(frozen=True)
class Text:
    """A line of text; `y` is its middle."""

    x: float
    y: float
    text: str
    size: float
    colour: str = "ink"
    weight: str = "normal"
    anchor: Anchor = "center"

    @property
    def ends(self) -> tuple[float, float]:
        """Its left and right end."""
        width = text_width(self.text, self.size, self.weight)
        left = self.x - {"left": 0.0, "center": 0.5, "right": 1.0}[self.anchor] * width
        return left, left + width


@dataclass(frozen=True)
class Box:
    """A rectangle with round corners; `x` and `y` are its top left corner; `edge` None draws no outline."""

    x: float
    y: float
    width: float
    height: float
    face: str
    edge: str | None
    radius: float


@dataclass(frozen=True)
class Wire:
    """A line through points with round corners; `has_head` ends it in an arrow's head."""

    points: tuple[tuple[float, float], ...]
    has_head: bool = False


@dataclass(frozen=True)
class Mark:
    """The mark of a spot; `x` and `y` are its middle.

    Args:
        shape: `dot`: not searched; `ring`: searched, without attention; `slab`: a convolution that attention could
            replace; `plus`: an addition; `pool`: the global pooling; `badge`: an attention.
        spot: What it stands for; None in a legend.
        text: Code on a badge.
    """

    x: float
    y: float
    width: float
    shape: str
    colour: str
    spot: Spot | None = None
    text: str = ""

    @property
    def is_searched(self) -> bool:
        """Whether attention could have been here."""
        return self.spot is not None and self.spot.is_searched


@dataclass(frozen=True)
class Sheet:
    """Shapes with the height of what they fill; they are drawn in the order of the fields."""

    height: float = 0.0
    cards: tuple[Box, ...] = ()
    boxes: tuple[Box, ...] = ()
    wires: tuple[Wire, ...] = ()
    marks: tuple[Mark, ...] = ()
    texts: tuple[Text, ...] = ()

    def moved(self, x: float, y: float) -> Self:
        """Return the same shapes at another place."""
        return replace(
            self,
            cards=tuple(replace(box, x=box.x + x, y=box.y + y) for box in self.cards),
            boxes=tuple(replace(box, x=box.x + x, y=box.y + y) for box in self.boxes),
            wires=tuple(replace(wire, points=tuple((u + x, v + y) for u, v in wire.points)) for wire in self.wires),
            marks=tuple(replace(mark, x=mark.x + x, y=mark.y + y) for mark in self.marks),
            texts=tuple(replace(text, x=text.x + x, y=text.y + y) for text in self.texts),
        )


def joined(sheets: Sequence[Sheet], height: float) -> Sheet:
    """Return the shapes of several sheets on one of this height."""
    return Sheet(
        height,
        tuple(box for sheet in sheets for box in sheet.cards),
        tuple(box for sheet in sheets for box in sheet.boxes),
        tuple(wire for sheet in sheets for wire in sheet.wires),
        tuple(mark for sheet in sheets for mark in sheet.marks),
        tuple(text for sheet in sheets for text in sheet.texts),
    )
