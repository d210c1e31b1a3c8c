"""The attention by frequencies: fca."""

from __future__ import annotations

from nas_attn.attention.entry import Context, Options
from nas_attn.attention.forms.widths import hidden_width, reduction_misfit, whole

LEAST = 7
"""Height and width of the map whose frequencies are numbered."""

_ORDERS = {
    "top": "00 01 60 05 02 10 12 40 50 16 30 04 06 03 35 22 46 63 33 53 55 21 61 52 54 32 31 41 23 20 65 13",
    "low": "00 01 10 11 02 20 21 12 22 03 30 40 04 13 31 05 14 23 32 41 50 06 15 24 33 42 51 60 16 25 34 43",
    "bot": "66 14 34 36 26 43 11 24 44 45 56 15 42 62 25 51 64 13 65 20 23 41 31 32 54 52 61 21 55 53 33 63",
}
"""Row and column frequency of each pair, as the authors ordered them: by accuracy, from the lowest, and the worst."""

FREQUENCIES = {
    f"{order}{n}": tuple((int(pair[0]), int(pair[1])) for pair in pairs.split()[:n])
    for order, pairs in _ORDERS.items()
    for n in (1, 2, 4, 8, 16, 32)
    if order != "low" or n > 2  # low1 and low2 are top1 and top2
}
"""Name -> the frequencies, (row, column) on a map of 7x7."""


def fca_size(context: Context) -> tuple[int, int]:
    """Return the size of the transform: that of the map if it is known, or 7x7."""
    return context.height or LEAST, context.width or LEAST


def fca_misfit(channels: int, options: Options, context: Context) -> str | None:
    """Return why the frequencies do not divide the channels, or why the reduction is too large, or None."""
    name, reduction = str(options["frequencies"]), whole(options, "reduction")
    if len(vanishing(name, context)) == len(FREQUENCIES[name]):
        return (
            f"a frequency must not vanish on the map, but all of frequencies={name} do on {context.height}x"
            f"{context.width}; the nearest that works: frequencies=top{len(FREQUENCIES[name])}."
        )
    if channels % len(FREQUENCIES[name]) == 0:
        return reduction_misfit(channels, options, context)
    fewer = max(n for n in (1, 2, 4, 8, 16) if channels % n == 0)
    works = f"{name[:3]}{fewer}" if f"{name[:3]}{fewer}" in FREQUENCIES else f"top{fewer}"
    return (
        f"the number of frequencies must divide the channels, but got frequencies={name}, channels={channels}; the "
        f"nearest that works: frequencies={works}{'' if reduction <= channels else f', reduction={channels}'}."
    )


def vanishing(name: str, context: Context) -> list[tuple[int, int]]:
    """Return the frequencies whose coefficient is 0 for every map of this size: on two pixels, the even ones above 0.

    Shape: (row, column) each.
    """
    sizes = (context.height, context.width)
    return [
        pair
        for pair in FREQUENCIES[name]
        if any(size == 2 and number > 0 and number % 2 == 0 for size, number in zip(sizes, pair, strict=True))
    ]


def fca_unused(channels: int, options: Options, context: Context) -> str | None:
    """Return how many of the frequencies vanish."""
    name = str(options["frequencies"])
    n, n_all = len(vanishing(name, context)), len(FREQUENCIES[name])
    if not n:
        return None
    return f"{n} of its {n_all} frequencies vanish on a map of {context.height}x{context.width}"


def fca_parameters(channels: int, options: Options, context: Context) -> int:
    """Return the weights of a bottleneck without biases."""
    return 2 * channels * hidden_width(channels, options)


def fca_macs(channels: int, height: int, width: int, options: Options, context: Context) -> int:
    """Return the multiply-adds of the bottleneck; the weighted sum of a map is no matrix product."""
    return 2 * channels * hidden_width(channels, options)
