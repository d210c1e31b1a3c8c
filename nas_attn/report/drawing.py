"""The network drawn as an architecture: stages, blocks with shortcuts, and the attentions where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Patch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path

from nas_attn.errors import showable
from nas_attn.placement import Placement, Site, SiteTable
from nas_attn.report.architecture import TIMES, Spot, read_architecture
from nas_attn.report.chart import Chart
from nas_attn.report.glyphs import BADGE, CODE, SLAB
from nas_attn.report.inline_svg import View
from nas_attn.report.layout import WIDTH, in_columns, network_rows
from nas_attn.report.legend import codes_of, families_of, symbols_of
from nas_attn.report.legend_layout import legend_sheet
from nas_attn.report.palette import LIGHT
from nas_attn.report.shapes import Box, Mark, Sheet, Text, Wire, in_a_line

THIN = 0.7
BEND = 3.0  # radius of a wire's corners
OPEN = ("ring", "plus")  # marks that are never grey inside


def network_chart(table: SiteTable, placement: Placement, searched: Sequence[str]) -> Chart:
    """Draw a network with a placement and a legend; the page shows the rows, and a legend of its own."""
    families = families_of(placement, table)
    network = read_architecture(table, placement, searched)
    labels, rows = zip(*network_rows(network, codes_of(families)), strict=True)
    sheets = (*rows, legend_sheet(families, symbols_of(network)))
    corners, width, height = in_columns([sheet.height for sheet in sheets])
    figure = Figure(figsize=(width / 72, height / 72))
    groups = [f"row-{number}" for number in range(len(rows))]
    for (x, y), sheet, group in zip(corners, sheets, (*groups, "legend"), strict=True):
        box = (x / width, 1 - (y + sheet.height) / height, WIDTH / width, sheet.height / height)
        _draw(figure.add_axes(box, gid=group), sheet)
    views = [
        View(group, f"The network: {label}", (*corner, WIDTH, sheet.height))
        for group, label, corner, sheet in zip(groups, labels, corners, rows, strict=False)
    ]
    spots = [mark.spot for sheet in rows for mark in sheet.marks if mark.spot]
    titles = {_id(spot.sites[0]): ["\n".join(_about(site, spot) for site in spot.sites)] for spot in spots}
    aliases = {_id(spot.sites[0]): [_id(site) for site in spot.sites[1:]] for spot in spots}
    return Chart("network", "The network, from the input to the output", figure, titles, tuple(views), aliases)


def _draw(axes: Any, sheet: Sheet) -> None:
    """Draw a sheet into axes that measure it in points, from its top left corner."""
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(sheet.height, 0)
    axes.axis("off")
    for box in (*sheet.cards, *sheet.boxes):
        _draw_box(axes, box)
    for wire in sheet.wires:
        _draw_wire(axes, wire)
    for mark in sheet.marks:
        _draw_mark(axes, mark)
    for text in sheet.texts:
        _write(axes, text)


def _id(site: Site) -> str:
    """Return the id of a site's mark, which the file can hold."""
    return " ".join(showable(site.name).split())


def _about(site: Site, spot: Spot) -> str:
    """Return what a site is and has, as the mark's title."""
    content = str(spot.attention) if spot.attention else "no attention" if spot.is_searched else "not searched"
    return f"{site.name} ({site.kind}, {site.channels} channels, {site.height}{TIMES}{site.width}): {content}"


def _draw_box(axes: Any, box: Box) -> None:
    edge = LIGHT[box.edge] if box.edge else "none"
    style = f"round,pad=0,rounding_size={box.radius}"
    axes.add_artist(
        FancyBboxPatch(
            (box.x, box.y), box.width, box.height, style, fc=LIGHT[box.face], ec=edge, lw=THIN, clip_on=False
        )
    )


def _draw_wire(axes: Any, wire: Wire) -> None:
    points = list(wire.points)
    vertices, codes = [points[0]], [Path.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        vertices += [_towards(corner, before), corner, _towards(corner, after)]
        codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
    vertices.append(points[-1])
    codes.append(Path.LINETO)
    path = Path(vertices, codes)
    axes.add_artist(PathPatch(path, fc="none", ec=LIGHT["dim"], lw=THIN, capstyle="butt", clip_on=False))
    if wire.has_head:
        axes.add_artist(Polygon(_head(points[-2], points[-1]), fc=LIGHT["dim"], ec="none", clip_on=False))


def _towards(corner: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """Return the point at a bend's radius from a corner, or in the middle if the other end is near."""
    dx, dy = other[0] - corner[0], other[1] - corner[1]
    length = abs(dx) + abs(dy)
    share = min(BEND, length / 2) / length if length else 0.0
    return corner[0] + share * dx, corner[1] + share * dy


def _head(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    """Return the corners of an arrow's head on a horizontal or vertical line."""
    dx, dy = (end[0] > start[0]) - (end[0] < start[0]), (end[1] > start[1]) - (end[1] < start[1])
    x, y = end
    return [end, (x - 3.2 * dx - 1.6 * dy, y - 3.2 * dy - 1.6 * dx), (x - 3.2 * dx + 1.6 * dy, y - 3.2 * dy + 1.6 * dx)]


def _draw_mark(axes: Any, mark: Mark) -> None:
    is_filled = mark.shape in ("badge", "dot")
    look = {
        "gid": _id(mark.spot.sites[0]) if mark.spot else None,
        "fc": LIGHT[mark.colour if is_filled else "paper" if mark.is_searched or mark.shape in OPEN else "faint"],
        "ec": "none" if is_filled else LIGHT[mark.colour],
        "lw": 0.8,
        "clip_on": False,
    }
    axes.add_artist(_patch(mark, look))
    if mark.text:
        _write(axes, Text(mark.x, mark.y, mark.text, CODE, "paper", "bold"))


def _patch(mark: Mark, look: Mapping[str, Any]) -> Patch:
    """Return the outline of a mark."""
    x, y, half = mark.x, mark.y, mark.width / 2
    if mark.shape in ("dot", "ring"):
        return Circle((x, y), half, **look)
    if mark.shape == "plus":
        return PathPatch(_plus(x, y, half), **look)
    if mark.shape == "pool":
        return Polygon([(x - half, y - 6.0), (x + half, y - 2.5), (x + half, y + 2.5), (x - half, y + 6.0)], **look)
    is_high = mark.shape == "slab" or (mark.spot is not None and mark.spot.is_convolution)
    height = SLAB if is_high and mark.spot else BADGE
    if mark.shape == "slab":
        return Rectangle((x - half, y - height / 2), mark.width, height, **look)
    return FancyBboxPatch((x - half, y - height / 2), mark.width, height, "round,pad=0,rounding_size=2.2", **look)


def _plus(x: float, y: float, radius: float) -> Path:
    """Return a circle with a plus in it, as one path."""
    arm = radius * 0.55
    lines = Path([(x - arm, y), (x + arm, y), (x, y - arm), (x, y + arm)], [Path.MOVETO, Path.LINETO] * 2)
    return Path.make_compound_path(Path.circle((x, y), radius), lines)


def _write(axes: Any, text: Text) -> None:
    """Write a line of text that is centred vertically at y."""
    axes.text(
        text.x, text.y, in_a_line(text.text), fontsize=text.size, color=LIGHT[text.colour], fontweight=text.weight,
        ha=text.anchor, va="center_baseline" if text.weight == "bold" and text.colour == "paper" else "center",
    )  # fmt: skip
