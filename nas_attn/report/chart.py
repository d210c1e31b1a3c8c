"""One figure: drawn once by matplotlib, saved for papers and embedded in the page."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from operator import methodcaller
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from nas_attn.files import write_whole
from nas_attn.report.inline_svg import View, inline_svg
from nas_attn.report.palette import LIGHT

COLUMN = 3.35  # inches: one column of most two-column papers
FONTS = ["Arial", "Helvetica", "Liberation Sans", "DejaVu Sans"]
QUICK = {"compress_level": 3}  # of PNG files: 15 % larger than at the highest level, in a sixth less time
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": FONTS,
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": LIGHT["faint"],
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "text.color": LIGHT["ink"],
    "text.parse_math": False,  # a name may contain a dollar sign
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.labelcolor": LIGHT["ink"],
    "svg.fonttype": "none",  # text stays text
    "pdf.fonttype": 42,  # TrueType, as journals ask for
    "svg.hashsalt": "nas_attn",  # the same run writes the same file
}


@contextmanager
def style() -> Iterator[None]:
    """Context manager: draw and save in the style of this report, and restore matplotlib's settings."""
    with matplotlib.rc_context(STYLE):
        yield


@dataclass(frozen=True)
class Chart:
    """A figure with the texts that the page needs beside it.

    Args:
        name: Stem of its files, and prefix of its ids in the page.
        alt: What the figure shows, for readers who do not see it.
        titles: For the `gid` of an artist: one text per mark, in drawing order, that the page shows on hover.
        views: Parts that the page shows one by one; empty if it shows the whole figure.
        aliases: For the `gid` of an artist: further ids of its element in the page.
    """

    name: str
    alt: str
    figure: Figure
    titles: Mapping[str, Sequence[str]] = field(default_factory=dict)
    views: tuple[View, ...] = ()
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @cached_property
    def svg(self) -> bytes:
        """The figure as a standalone SVG file."""
        return self._saved("svg", metadata={"Date": None, "Creator": "nas_attn"})

    def write(self, folder: Path) -> list[Path]:
        """Write NAME.svg, NAME.png and NAME.pdf into `folder`; return their paths."""
        contents = {
            "svg": self.svg,
            "png": self._saved("png", dpi=300, metadata={"Software": "nas_attn"}, pil_kwargs=QUICK),
            "pdf": self._saved("pdf", metadata={"CreationDate": None, "Creator": "nas_attn"}),
        }
        paths = {kind: folder / f"{self.name}.{kind}" for kind in contents}
        for kind, content in contents.items():
            write_whole(paths[kind], methodcaller("write", content))
        return list(paths.values())

    def _saved(self, kind: str, **options: Any) -> bytes:
        with style(), BytesIO() as file, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph ")  # a name in a script that no font here has
            warnings.filterwarnings("ignore", "constrained_layout not applied")  # a name wider than the figure
            self.figure.savefig(file, format=kind, facecolor=LIGHT["paper"], **options)
            self.figure.set_layout_engine(None)  # the next file has the same layout, without a draw to find it
            return file.getvalue()

    def inline(self) -> list[Markup]:
        """Return the figure for the page: one `<svg>`, or one per view."""
        return inline_svg(self.svg, self.name, self.alt, self.titles, self.views, self.aliases)
