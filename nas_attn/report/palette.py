"""The colours of the figures, the same as those of the page in daylight."""

from __future__ import annotations

INK, MUTED, FAINT, PAPER = "#1d2126", "#6b7280", "#d9dce1", "#ffffff"
COLOURS = {
    "plain": MUTED,
    "f0": "#2b6cb0",
    "f1": "#c4570c",
    "f2": "#1f8a63",
    "f3": "#8e4a9e",
    "f4": "#a87b00",
    "f5": "#c0345d",
    "f6": "#0f8296",
    "f7": "#7a6450",
    "better": "#1f7a4d",
    "worse": "#b3402a",
    "within-noise": MUTED,
    "not-known": MUTED,
}
