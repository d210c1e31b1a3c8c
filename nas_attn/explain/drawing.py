"""Draws what networks look at: a row per image, a column per attention, Grad-CAM with and without attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nas_attn.attention.weighing.record import Weights
from nas_attn.errors import ConfigError
from nas_attn.explain.explanation import Explanation

MOST_SITES = 6
"""Of more sites, so many are drawn, at equal distances from the first to the last."""

CELL, GAP, LABELS, HEAD, FOOT = 0.92, 0.07, 1.12, 0.52, 0.24
"""Sizes in inches: a cell, the space around it, the texts at the left, above and below."""

COLOURS = "viridis"
DIMMED = 0.45
"""Brightness of a black pixel below a map, so that the map's colour is seen there too."""

SMOOTH = 96
"""About as many pixels has the side of an enlarged map."""

NETWORKS = ("without attention", "with attention")
"""Names of both networks in a figure, unless others are given."""


def draw(
    found: Explanation,
    plain: Explanation | None = None,
    *,
    titles: Sequence[str] = (),
    networks: tuple[str, str] = NETWORKS,
) -> Figure:
    """Return a figure with a row per image: the image, what each attention weighs, and Grad-CAM.

    The weights of pixels colour the image, in one scale per column, which stands above it. The weights of channels are
    bars in one scale per column, below a map where an attention has both; the channels are in one order per column,
    from the largest mean over the images to the smallest. Grad-CAM colours the image from 0 to its own maximum.

    Args:
        found: Of the network with attention.
        plain: Of the network without, for the same images: its Grad-CAM stands beside the other.
        titles: One text per image; empty says what both networks predict, see `row_titles`.
        networks: Names of the network without attention and of that with it.

    Raises: ConfigError if both are not of the same number of images, or there is not one title per image.
    """
    for noun, given in (("explanations of both networks", plain), ("titles", titles)):
        if given and len(given) != len(found):
            raise ConfigError(f"One image each is needed for the {noun}, but there are {len(found)} and {len(given)}.")
    sites, texts = drawn_sites(found), titles or row_titles(found, plain, networks=networks)
    figure, cells = _grid(len(found), 1 + len(sites) + (1 if plain is None else 2), texts)
    for row, axes in enumerate(cells):
        picture = _picture(found.pictures[row])
        _show(axes[0], picture)
        for axis, site in zip(axes[1:], sites, strict=False):
            _draw_weights(axis, picture, found.weights[site], row)
        for axis, each in zip(axes[1 + len(sites) :], [found] if plain is None else [plain, found], strict=True):
            _overlay(axis, picture, each.cams[row], 0.0, float(each.cams[row].max()))
    heads = ["image", *(_head(found, site) for site in sites)]
    heads += [f"Grad-CAM\n{name}" for name in networks[plain is None :]]
    for axis, text in zip(cells[0], heads, strict=True):
        axis.set_title(text, fontsize=6, linespacing=1.15)
    shown = f"; {len(sites)} of {len(found.weights)} sites" if len(sites) < len(found.weights) else ""
    _legend(figure, f"Grad-CAM: {found.last_map}{shown}")
    return figure


def _grid(n_rows: int, n_columns: int, titles: Sequence[str]) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with square cells of one size, row by row, and a text at the left of each row."""
    width, height = LABELS + n_columns * (CELL + GAP), HEAD + n_rows * (CELL + GAP) + FOOT
    figure = Figure(figsize=(width, height))
    cells = []
    for row in range(n_rows):
        top = height - HEAD - row * (CELL + GAP)
        figure.text(0.01, (top - CELL / 2) / height, titles[row], va="center", fontsize=6.5)
        lefts = [LABELS + column * (CELL + GAP) for column in range(n_columns)]
        boxes = [(left / width, (top - CELL) / height, CELL / width, CELL / height) for left in lefts]
        cells.append([figure.add_axes(box) for box in boxes])
    return figure, cells


def drawn_sites(found: Explanation) -> list[str]:
    """Return the sites that are drawn: all, or `MOST_SITES` of them."""
    sites = list(found.weights)
    if len(sites) <= MOST_SITES:
        return sites
    return [sites[round(at)] for at in np.linspace(0, len(sites) - 1, MOST_SITES)]


def row_titles(
    found: Explanation,
    plain: Explanation | None = None,
    *,
    truths: Sequence[str] = (),
    names: Sequence[str] = (),
    networks: tuple[str, str] = NETWORKS,
) -> list[str]:
    """Return the text of each row: what each network predicts with which probability, and the class of Grad-CAM.

    Args:
        truths: The true class or labels of each image, in words.
        names: A name of each image.
        networks: As in `draw`.
    """
    shown = {networks[1]: found} if plain is None else {networks[0]: plain, networks[1]: found}
    rows = []
    for at in range(len(found)):
        lines = [_short(each[at], 20) for each in (names,) if each] + [
            f"true: {_short(each[at])}" for each in (truths,) if each
        ]
        for label, each in shown.items():
            number = each.predicted[at]
            chance = "" if each.probabilities is None else f" ({float(each.probabilities[at, number]):.2f})"
            lines.append(f"{label.removesuffix(' attention')}: {_short(each.class_names[number])}{chance}")
        lines.append(f"Grad-CAM: {_short(found.class_names[found.classes[at]])}")
        rows.append("\n".join(lines))
    return rows


def alternative_text(found: Explanation, plain: Explanation | None = None) -> str:
    """Return the figure in words, for readers who do not see it."""
    sites = ", ".join(f"{found.attentions[site].name} at {site}" for site in drawn_sites(found))
    beside = "" if plain is None else " without and with attention"
    weighed = f"the weights of {sites}, and " if sites else ""
    return f"{len(found)} images, one row each: the image, {weighed}Grad-CAM{beside} at the {found.last_map}."


def _head(found: Explanation, site: str) -> str:
    """Return the text above the column of a site: its attention, and the scale of the weights."""
    weights, scale = found.weights[site], "no weights"
    if weights.pixels is not None:
        rows, columns = weights.pixels.shape[1:]
        scale = f"{weights.meaning}, {rows}x{columns} pixels\n{_span(*_limits(weights.pixels))}"
    elif weights.channels is not None:
        span = _span(*_limits(weights.channels, from_zero=True))
        scale = f"{weights.meaning}, {weights.channels.shape[1]} channels\n{span}"
    return f"{found.attentions[site].name}\n{_short(site, 20)}\n{scale}"


def _span(low: float, high: float) -> str:
    """Return a range in words, as a single value where both ends have the same three digits."""
    ends = f"{low:.3g}", f"{high:.3g}"
    return f"about {ends[0]}" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _legend(figure: Figure, text: str) -> None:
    """Draw the scale of the colours at the lower right, and a text at the lower left."""
    width, height = figure.get_size_inches()
    figure.text(0.01, 0.05 / height, text, fontsize=6, va="bottom")
    axes = figure.add_axes((1 - 1.0 / width, 0.07 / height, 0.7 / width, 0.07 / height))
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=COLOURS, aspect="auto")
    axes.axis("off")
    for at, word, side in ((-0.08, "low", "right"), (1.08, "high", "left")):
        axes.text(at, 0.5, word, transform=axes.transAxes, ha=side, va="center", fontsize=6)


def _draw_weights(axes: Axes, picture: NDArray[np.float32], weights: Weights, row: int) -> None:
    """Draw one attention's weights for one image: a map over it, bars, or a map with bars below."""
    n_parts = (weights.pixels is not None) + (weights.channels is not None)
    upper, lower = axes, axes
    if n_parts == 2:
        upper, lower = axes.inset_axes((0.12, 0.24, 0.76, 0.76)), axes.inset_axes((0.12, 0, 0.76, 0.2))
    if n_parts != 1:
        axes.axis("off")
    if weights.pixels is not None:
        _overlay(upper, picture, weights.pixels[row], *_limits(weights.pixels))
    if weights.channels is not None:
        order = weights.channels.mean(0).argsort(descending=True)
        _bars(lower, weights.channels[row, order], _limits(weights.channels, from_zero=True))


def _bars(axes: Axes, weights: Tensor, limits: tuple[float, float]) -> None:
    """Draw weights as a strip of bars that touch."""
    edges = np.linspace(0, 1, len(weights) + 1)
    axes.stairs(weights.numpy(), edges, fill=True, color=matplotlib.colormaps[COLOURS](0.35))
    axes.axhline(0, color="black", linewidth=0.4)
    axes.set(xlim=(0, 1), ylim=limits, xticks=[], yticks=[])


def _overlay(axes: Axes, picture: NDArray[np.float32], weights: Tensor, low: float, high: float) -> None:
    """Draw an image in the colours of a map, which is enlarged bilinearly."""
    grey = torch.from_numpy(picture if picture.ndim == 2 else picture.mean(2))[None, None]
    fine = [length * max(1, round(SMOOTH / length)) for length in grey.shape[2:]]
    shade = functional.interpolate(grey, fine)[0, 0, ..., None].numpy()
    smooth = functional.interpolate(weights[None, None], fine, mode="bilinear")[0, 0].numpy()
    colours = matplotlib.colormaps[COLOURS]((smooth - low) / max(high - low, 1e-12))[..., :3]
    _show(axes, colours * (DIMMED + (1 - DIMMED) * shade))


def _show(axes: Axes, picture: NDArray[Any]) -> None:
    """Draw an image, (H, W) or (H, W, 3), without ticks."""
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _picture(image: Tensor) -> NDArray[np.float32]:
    """Return an image as (H, W, 3), or as the grey mean (H, W) of another number of channels than 3."""
    array: NDArray[np.float32] = image.numpy().astype(np.float32)
    return array.transpose(1, 2, 0) if len(array) == 3 else array.mean(0)


def _limits(weights: Tensor, *, from_zero: bool = False) -> tuple[float, float]:
    """Return the smallest and the largest weight over all images, with 0 between them for bars."""
    low, high = float(weights.min()), float(weights.max())
    return (min(low, 0.0), max(high, 0.0)) if from_zero else (low, high)


def _short(text: str, most: int = 14) -> str:
    """Return a text with at most so many characters, the middle left out."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2 - 1]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - (most - most // 2) :]}"
