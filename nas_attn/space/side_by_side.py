"""Whether the attentions of a space can stand side by side in one network."""

from __future__ import annotations

from collections.abc import Iterable

from nas_attn.placement import SWAPPED, Attention, SiteTable


def why_not_side_by_side(table: SiteTable, placed: Iterable[tuple[str, Attention]]) -> str | None:
    """Return why these attentions cannot stand side by side at their sites, as the end of a sentence; None if they can.

    An attention that takes the place of a module leaves no network to choose no attention in.
    """
    for name, attention in placed:
        kind = table.site(name).kind
        if kind in SWAPPED:
            return f"at '{name}', of kind '{kind}', an attention takes the place of a module"
        if attention.wiring == "concat_three":
            return f"at '{name}', the wiring 'concat_three' takes the place of a block's addition"
    return None
