"""The catalogue of attentions: facts only, complete at import, no torch."""

from __future__ import annotations

from nas_attn.attention.entries.channel import CHANNEL
from nas_attn.attention.entries.elements import ELEMENTS
from nas_attn.attention.entries.fusion import FUSION
from nas_attn.attention.entries.grouped import GROUPED
from nas_attn.attention.entries.kernel import KERNEL
from nas_attn.attention.entries.pairwise import PAIRWISE
from nas_attn.attention.entry import Entry
from nas_attn.errors import SpaceError, placed, unknown
from nas_attn.registry import Catalogue


def attention_entry(name: str, where: str = "") -> Entry:
    """Return the entry called `name`.

    Raises: SpaceError that names the nearest attention and `where`, e.g. `site 'denseblock2'`.
    """
    if name not in ATTENTIONS:
        raise SpaceError(unknown("attention", name, ATTENTIONS, where))
    try:
        return ATTENTIONS[name]
    except SpaceError as error:
        raise SpaceError(f"Attention '{name}'{placed(where)} cannot be used: {error}") from error


def register_attention(entry: Entry) -> None:
    """Register an attention for this process and the workers of its searches, e.g. from a notebook.

    An installed package registers its attentions through the entry-point group `nas_attn.attentions` instead.

    Raises: SpaceError for a name that is taken, or that cannot be a key in a space file.
    """
    ATTENTIONS.register(entry)


ATTENTIONS = Catalogue(
    *CHANNEL,
    *ELEMENTS,
    *GROUPED,
    *PAIRWISE,
    *KERNEL,
    *FUSION,
    group="nas_attn.attentions",
    noun="attention",
    record=Entry,
    reserved=("none", "name", "wiring", "start"),
)
