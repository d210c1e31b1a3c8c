"""The figure of the front: each pair of objectives, the arms before the trials of the search, the knee a star."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nas_attn.comparison.objectives import Objective
from nas_attn.report.chart import COLUMN, Chart
from nas_attn.report.front import Front, FrontRow
from nas_attn.report.marks import Colours
from nas_attn.report.palette import LIGHT

PANEL = 2.4  # inches: height of one pair of objectives


def front_chart(found: Front, colours: Colours) -> Chart:
    """Draw each pair of objectives: the arms on test, and the trials of the search behind them.

    Trials that another one dominates are pale; the line joins the arms that none dominates, where two objectives have
    one; the knee is a star.
    """
    pairs = list(combinations(range(len(found.goals)), 2))
    figure = Figure(figsize=(COLUMN, PANEL * len(pairs)), layout="constrained")
    titles: dict[str, list[str]] = {}
    for axes, (y, x) in zip(figure.subplots(len(pairs), 1, squeeze=False)[:, 0], pairs, strict=True):
        _panel(axes, found, x, y, colours, titles)
    names = ", ".join(goal.noun for goal in found.goals)
    return Chart("front", f"The front of {names}: arms on test, trials of the search, and the knee", figure, titles)


def _panel(axes: Any, found: Front, x: int, y: int, colours: Colours, titles: dict[str, list[str]]) -> None:
    goals = found.goals
    for row in found.trials:
        pale = 0.6 if row.is_front else 0.18
        _mark(axes, row, (x, y), goals, titles, marker="o", ms=2.6, mfc="none", alpha=pale, mec=_colour(row, colours))
    on_front = sorted((row for row in found.arms if row.is_front), key=lambda row: row.point[x])
    if len(goals) == 2:
        points = [(row.point[x] * goals[x].factor, row.point[y] * goals[y].factor) for row in on_front]
        axes.plot(*zip(*points, strict=True), color=LIGHT["muted"], lw=0.7, zorder=1) if points else None
    for row in found.arms:
        look = {"marker": "*", "ms": 8.5} if row.is_knee else {"marker": "o", "ms": 4.0}
        colour, alpha = _colour(row, colours), 0.95 if row.is_front else 0.4
        _mark(axes, row, (x, y), goals, titles, mfc=colour, mec=colour, alpha=alpha, zorder=3, **look)
    axes.set_xlabel(goals[x].axis)
    axes.set_ylabel(goals[y].axis)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid()


def _mark(
    axes: Any,
    row: FrontRow,
    pair: tuple[int, int],
    goals: Sequence[Objective],
    titles: dict[str, list[str]],
    **look: Any,
) -> None:
    gid = f"front-{len(titles)}"
    place = [row.point[index] * goals[index].factor for index in pair]
    axes.plot([place[0]], [place[1]], ls="", mew=0.8, gid=gid, clip_on=False, **look)
    values = ", ".join(f"{goal.noun} {row.value(index, goals)}" for index, goal in enumerate(goals))
    titles[gid] = [f"{row.label}: {values}"]


def _colour(row: FrontRow, colours: Colours) -> str:
    return LIGHT[colours.placement(row.placement)]
