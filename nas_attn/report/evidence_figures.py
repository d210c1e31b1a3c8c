"""The figures of the evidence: confusion matrices, reliability, learning curves.

Their axes have fixed places: a layout that measures all texts would take longer than the drawing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from nas_attn.comparison.answer import names_in
from nas_attn.errors import showable
from nas_attn.placement import Placement
from nas_attn.report.chart import COLUMN, Chart, style
from nas_attn.report.evidence import Drawn
from nas_attn.report.evidence_curves import Curves
from nas_attn.report.evidence_metrics import N_BINS, Values
from nas_attn.report.inline_svg import View
from nas_attn.report.marks import Colours
from nas_attn.report.palette import LIGHT
from nas_attn.report.words import PER_CENT, Scale

POINT = 1 / 72  # inches
MOST_LETTERS = 14  # of a class's name beside the matrix
LETTER = 0.052  # inches: the mean width of a letter of these names
ONE_DECIMAL = 10  # up to so many classes the cells have a decimal
CELL, SMALLEST = 0.23, 1.1  # inches: the wanted side of a cell, and the least side of a matrix
HEAD, FOOT = 0.42, 0.1  # inches: the title of a matrix with the name of its columns, and the edge below it


def evidence_charts(
    drawn: Sequence[Drawn], names: Sequence[str], curves: Sequence[Curves], colours: Colours, scale: Scale
) -> Iterator[Chart]:
    """Yield the figures that there are numbers for."""
    if drawn and drawn[0].matrix is not None and len(names) > 1:
        yield confusion_chart(drawn, names)
    if drawn:
        yield calibration_chart(drawn, colours)
    if curves:
        yield curves_chart(curves, colours, scale)


@style()
def confusion_chart(drawn: Sequence[Drawn], names: Sequence[str]) -> Chart:
    """Draw one confusion matrix per arm, in per cent of the true class, as means over the seeds."""
    frame = _Frame.around(names)
    width = COLUMN * len(drawn)
    figure = Figure(figsize=(width, frame.height))
    matrices = [one.matrix for one in drawn if one.matrix is not None]
    most = max((_most_confused(matrix) for matrix in matrices), default=0.0) or 1.0
    titles, views = dict[str, list[str]](), list[View]()
    for number, (one, matrix) in enumerate(zip(drawn, matrices, strict=True)):
        left = (number * COLUMN + frame.margin) / width
        axes = figure.add_axes((left, FOOT / frame.height, frame.side / width, frame.side / frame.height))
        axes.set_gid(f"matrix-{number}")
        titles[f"cells-{number}"] = _draw_matrix(axes, matrix, names, most, (f"cells-{number}", frame.side))
        _name_matrix(axes, frame, one.arm.label)
        box = (number * COLUMN / POINT, 0.0, COLUMN / POINT, frame.height / POINT)
        views.append(View(f"matrix-{number}", f"Confusion matrix of {one.arm.label}", box))
    alt = "Confusion matrices: true classes in rows, predicted classes in columns, in per cent of the true class"
    return Chart("confusion", alt, figure, titles, tuple(views))


@dataclass(frozen=True)
class _Frame:
    """The names around a matrix, and the room that they take. Units: inches."""

    labels: tuple[str, ...]
    margin: float
    head: float
    side: float
    is_turned: bool

    @classmethod
    def around(cls, names: Sequence[str]) -> _Frame:
        """Return the frame of a matrix in one column of a paper."""
        labels = tuple(name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…" for name in names)
        longest = max(map(len, labels))
        margin = 0.25 + LETTER * longest
        head = HEAD + (LETTER * longest if longest > 3 else 0.1)
        side = min(COLUMN - margin - 0.05, max(SMALLEST, CELL * len(names)))
        return cls(labels, margin, head, side, longest > 3)

    @property
    def height(self) -> float:
        """Height of the figure."""
        return self.head + self.side + FOOT


def _most_confused(matrix: Values) -> float:
    return float(max(value for (row, column), value in _cells(matrix) if row != column))


def _cells(matrix: Values) -> Iterator[tuple[tuple[int, int], float]]:
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            yield (row, column), float(value)


def _draw_matrix(axes: Any, matrix: Values, names: Sequence[str], most: float, look: tuple[str, float]) -> list[str]:
    """Draw the cells that are not zero with their numbers; return their titles.

    Args:
        most: The value of the darkest cell off the diagonal.
        look: `gid` of the cells, and side of the matrix in inches.
    """
    (gid, side), n_classes = look, len(names)
    shown = [(place, value) for place, value in _cells(matrix) if value > 0.0]
    corners = [[(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)] for (y, x), _ in shown]
    shades = [_shade(row == column, value, most) for (row, column), value in shown]
    cells = axes.add_collection(PolyCollection(corners, facecolors=shades, edgecolors="none", gid=gid), autolim=False)
    cells.set_clip_on(False)  # its clip path would lie outside the view
    decimals = 1 if n_classes <= ONE_DECIMAL else 0
    size = min(6.5, side / POINT / n_classes / (2.5 if decimals else 1.7))
    for (row, column), value in shown:
        text = f"{100 * value:.{decimals}f}".removesuffix("100.0") or "100"
        if float(text) > 0.0:
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=size)
    axes.set_xlim(0, n_classes)
    axes.set_ylim(n_classes, 0)
    axes.set_axis_off()
    return [f"{names[row]} predicted as {names[column]}: {PER_CENT.value(value)}" for (row, column), value in shown]


def _shade(is_right: bool, value: float, most: float) -> tuple[float, ...]:
    """Return the colour of a cell: faint enough for the text on it, also on a dark page."""
    colour, alpha = (LIGHT["plain"], 0.1 + 0.3 * value) if is_right else (LIGHT["f1"], 0.06 + 0.4 * value / most)
    return tuple(to_rgba(colour, alpha))


def _name_matrix(axes: Any, frame: _Frame, label: str) -> None:
    """Write the names of the classes at the rows and columns, what they are, and the arm."""
    n_classes = len(frame.labels)
    unit, size = n_classes / frame.side, min(6.5, 0.7 * frame.side / POINT / n_classes)
    for at, name in enumerate(map(showable, frame.labels)):
        axes.text(-0.05 * unit, at + 0.5, name, ha="right", va="center", fontsize=size)
        rotation = 90 if frame.is_turned else 0
        axes.text(at + 0.5, -0.05 * unit, name, ha="center", va="bottom", fontsize=size, rotation=rotation)
    quiet = {"fontsize": 6.5, "color": LIGHT["muted"]}
    axes.text(0, -(frame.head - 0.32) * unit, "predicted class", **quiet)
    axes.text(-(frame.margin - 0.1) * unit, n_classes, "true class", rotation=90, va="bottom", ha="center", **quiet)
    axes.text(0, -(frame.head - 0.14) * unit, showable(names_in(label)[0]))


@style()
def calibration_chart(drawn: Sequence[Drawn], colours: Colours) -> Chart:
    """Draw how often predictions are right against their probability, and below it how many there are."""
    width, height = COLUMN, 2.75
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.52 / width, 1.02 / height, (width - 0.67) / width, 1.6 / height))
    below = figure.add_axes((0.52 / width, 0.38 / height, (width - 0.67) / width, 0.5 / height))
    axes.plot([0, 100], [0, 100], color=LIGHT["dim"], lw=0.7, ls=(0, (3, 2)))
    edges = [100 * edge / N_BINS for edge in range(N_BINS + 1)]
    titles: dict[str, list[str]] = {}
    for number, one in enumerate(drawn):
        found, look = one.reliability, _look(number, colours, one.arm.placement)
        x, y = [100 * value for value in found.confidence], [100 * value for value in found.right]
        gid = f"bins-{number}"
        axes.plot(x, y, lw=1.0, **look)
        axes.plot(x, y, "o", ms=2.6, mew=0, color=look["color"], gid=gid, clip_on=False)
        pairs = zip(found.confidence, found.right, strict=True)
        titles[gid] = [f"{one.arm.label}: {PER_CENT.value(a)} stated, {PER_CENT.value(b)} true" for a, b in pairs]
        below.stairs([100 * share for share in found.shares], edges, lw=1.0, **look)
    has_labels = bool(drawn) and drawn[0].arm.has_labels
    for panel, name in ((axes, "Have the label (%)" if has_labels else "Right (%)"), (below, "Share (%)")):
        panel.set_xlim(0, 100)
        panel.set_ylabel(name)
        panel.xaxis.set_major_locator(FixedLocator(range(0, 101, 20)))
        panel.grid(axis="y")
    axes.set_ylim(0, 100)
    axes.yaxis.set_major_locator(FixedLocator(range(0, 101, 25)))
    below.set_yscale("symlog", linthresh=1.0)
    below.set_ylim(0, 100)
    below.yaxis.set_major_locator(FixedLocator([0, 1, 10, 100]))
    below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(labelbottom=False)
    below.set_xlabel(f"Probability of the {'label' if has_labels else 'predicted class'} (%)")
    _legend(axes, [one.arm.label for one in drawn], "upper left")
    alt = f"Share of right predictions against their probability, {N_BINS} bins; below, the share of the predictions"
    return Chart("calibration", alt, figure, titles)


@style()
def curves_chart(stages: Sequence[Curves], colours: Colours, scale: Scale) -> Chart:
    """Draw the mean curve of every arm over its seeds, with the band from the lowest to the highest seed."""
    width, height = COLUMN, 1.75
    figure = Figure(figsize=(width, height))
    room = (width - 0.04) / len(stages)
    for number, stage in enumerate(stages):
        left, inner = 0.47 + number * room, room - 0.53
        axes = figure.add_axes((left / width, 0.38 / height, inner / width, (height - 0.68) / height))
        for place, curve in enumerate(stage.curves):
            look = _look(place, colours, curve.placement)
            low, high = ([value * scale.factor for value in ends] for ends in (curve.low, curve.high))
            axes.fill_between(curve.epochs, low, high, color=look["color"], alpha=0.16, lw=0)
            mean = [value * scale.factor for value in curve.mean]
            marks: dict[str, Any] = {"marker": ".", "ms": 3} if curve.is_thinned else {}
            axes.plot(curve.epochs, mean, lw=1.1, label=curve.label, **marks, **look)
        axes.set_title(stage.title, fontsize=7.5, loc="left")
        axes.set_xlabel("Epoch")
        axes.set_ylabel(f"{scale.title}{' (%)' if scale.unit else ''}" if number == 0 else "")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="y")
    _legend(figure.axes[0], [curve.label for curve in stages[0].curves], "lower right")
    seen = " and ".join(stage.title[0].lower() + stage.title[1:] for stage in stages)
    return Chart("curves", f"{scale.title} by epoch: {seen}; mean over the seeds and their range", figure)


def _look(number: int, colours: Colours, placement: Placement) -> dict[str, Any]:
    """Return colour and dashes of an arm's lines; a third arm may have the colour of the second."""
    return {"color": LIGHT[colours.placement(placement)], "ls": "-" if number < 2 else (0, (4, 1.5))}


def _legend(axes: Any, labels: Sequence[str], place: str) -> None:
    """Name the first lines with a legend, by the first name of each arm."""
    lines = [line for line in axes.lines if line.get_linestyle() != "None" and line.get_color() != LIGHT["dim"]]
    names = [names_in(label)[0] for label in labels]
    axes.legend(lines, names, loc=place, fontsize=6.5, handlelength=1.6, borderaxespad=0.2, labelspacing=0.25)
