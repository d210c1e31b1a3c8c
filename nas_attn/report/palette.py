"""The colours of the figures and of the page: each name has one for a light and one for a dark background."""

from __future__ import annotations

LIGHT = {
    "paper": "#ffffff",
    "card": "#f5f5f3",
    "ink": "#1d2126",
    "muted": "#5f6772",
    "faint": "#dedfe2",
    "hair": "#ececea",
    "plain": "#6b7280",  # no attention
    "f0": "#2b6cb0",  # f0 to f7: the families of attention
    "f1": "#bf540b",
    "f2": "#1e8560",
    "f3": "#8e4a9e",
    "f4": "#96700a",
    "f5": "#c0345d",
    "f6": "#0f7f93",
    "f7": "#7a6450",
    "better": "#1f7a4d",
    "worse": "#b3402a",
}
DARK = {
    "paper": "#14171a",
    "card": "#1c2024",
    "ink": "#e8e8e5",
    "muted": "#a0a7b1",
    "faint": "#3a4048",
    "hair": "#272c32",
    "plain": "#9aa2ad",
    "f0": "#7fb3ea",
    "f1": "#f0a067",
    "f2": "#63c79f",
    "f3": "#cf97dc",
    "f4": "#ddb54f",
    "f5": "#f0829f",
    "f6": "#5cc3d4",
    "f7": "#bda78f",
    "better": "#63c792",
    "worse": "#f08c73",
}
N_FAMILIES = 8
"""Colours for families; further families use them again."""

VERDICTS = {"better": "better", "worse": "worse", "within noise": "plain", "not known": "plain"}
"""The colour's name of each verdict."""
