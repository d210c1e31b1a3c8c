"""The network drawn as an architecture: stages, blocks with shortcuts, and the attentions where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path

from nas_attn.placement import Placement, Site, SiteTable
from nas_attn.report.architecture import TIMES, Spot, read_architecture
from nas_attn.report.chart import Chart
from nas_attn.report.glyphs import BADGE, CODE, SLAB
from nas_attn.report.inline_svg import View
from nas_attn.report.layout import WIDTH, network_rows
from nas_attn.report.legend import codes_of, families_of
from nas_attn.report.palette import LIGHT, family_colour
from nas_attn.report.shapes import Box, Mark, Sheet, Text, Wire

THIN = 0.7
BEND = 3.0  # radius of a wire's corners


def network_chart(table: SiteTable, placement: Placement, searched: Sequence[str]) -> Chart:
    """Draw a network with a placement; the page shows the rows below each other, and a legend of its own."""
    families = families_of(placement, table)
    colours = {family.name: family_colour(family.name) for family in families}
    rows = network_rows(read_architecture(table, placement, searched), codes_of(families), colours)
    height = sum(sheet.height for _, sheet in rows)
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    titles: dict[str, list[str]] = {}
    aliases: dict[str, list[str]] = {}
    views, top = [], 0.0
    for number, (label, sheet) in enumerate(rows):
        group = f"row-{number}"
        axes = figure.add_axes((0, 1 - (top + sheet.height) / height, 1, sheet.height / height), gid=group)
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(sheet.height, 0)
        axes.axis("off")
        _draw(axes, sheet, titles, aliases)
        views.append(View(group, f"The network: {label}", (0, top, WIDTH, sheet.height)))
        top += sheet.height
    return Chart("network", "The network, from the input to the output", figure, titles, tuple(views))


def _draw(axes: Any, sheet: Sheet, titles: dict[str, list[str]], aliases: dict[str, list[str]]) -> None:
    for box in (*sheet.cards, *sheet.boxes):
        _draw_box(axes, box)
    for wire in sheet.wires:
        _draw_wire(axes, wire)
    for mark in sheet.marks:
        _draw_mark(axes, mark)
        first, *others = [site.name for site in mark.spot.sites]
        titles[first] = ["\n".join(_about(site, mark.spot) for site in mark.spot.sites)]
        aliases[first] = others
    for text in sheet.texts:
        _write(axes, text)


def _about(site: Site, spot: Spot) -> str:
    """Return what a site is and has, as the mark's title."""
    content = str(spot.attention) if spot.attention else "no attention" if spot.is_searched else "not searched"
    return f"{site.name} ({site.kind}, {site.channels} channels, {site.height}{TIMES}{site.width}): {content}"


def _draw_box(axes: Any, box: Box) -> None:
    edge = LIGHT[box.edge] if box.edge else "none"
    style = f"round,pad=0,rounding_size={box.radius}"
    axes.add_patch(
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
    axes.add_patch(PathPatch(path, fc="none", ec=LIGHT["dim"], lw=THIN, capstyle="butt", clip_on=False))
    if wire.has_head:
        axes.add_patch(Polygon(_head(points[-2], points[-1]), fc=LIGHT["dim"], ec="none", clip_on=False))


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
    look: Mapping[str, Any] = {"gid": mark.spot.sites[0].name, "lw": 0.8, "clip_on": False, "ec": LIGHT[mark.colour]}
    x, y, half = mark.x, mark.y, mark.width / 2
    if mark.shape == "badge":
        height = SLAB if mark.spot.is_convolution else BADGE
        style = "round,pad=0,rounding_size=2.2"
        box = FancyBboxPatch(
            (x - half, y - height / 2), mark.width, height, style, **{**look, "ec": "none"}, fc=LIGHT[mark.colour]
        )
        axes.add_patch(box)
        _write(axes, Text(x, y, mark.text, CODE, "paper", "bold"))
    elif mark.shape == "dot":
        axes.add_patch(Circle((x, y), half, **{**look, "ec": "none"}, fc=LIGHT[mark.colour]))
    elif mark.shape == "ring":
        axes.add_patch(Circle((x, y), half, **look, fc=LIGHT["paper"]))
    elif mark.shape == "slab":
        face = LIGHT["paper" if mark.spot.is_searched else "faint"]
        axes.add_patch(Rectangle((x - half, y - SLAB / 2), mark.width, SLAB, **look, fc=face))
    elif mark.shape == "plus":
        axes.add_patch(PathPatch(_plus(x, y, half), **look, fc=LIGHT["paper"]))
    else:
        corners = [(x - half, y - 6.0), (x + half, y - 2.5), (x + half, y + 2.5), (x - half, y + 6.0)]
        face = LIGHT["paper" if mark.spot.is_searched else "faint"]
        axes.add_patch(Polygon(corners, **look, fc=face))


def _plus(x: float, y: float, radius: float) -> Path:
    """Return a circle with a plus in it, as one path."""
    arm = radius * 0.55
    lines = Path([(x - arm, y), (x + arm, y), (x, y - arm), (x, y + arm)], [Path.MOVETO, Path.LINETO] * 2)
    return Path.make_compound_path(Path.circle((x, y), radius), lines)


def _write(axes: Any, text: Text) -> None:
    """Write a line of text that is centred vertically at y."""
    axes.text(
        text.x, text.y, text.text, fontsize=text.size, color=LIGHT[text.colour], fontweight=text.weight,
        ha=text.anchor, va="center_baseline" if text.weight == "bold" and text.colour == "paper" else "center",
    )  # fmt: skip
