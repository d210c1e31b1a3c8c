"""What the badges of the drawing of the network stand for: families of attention, with their options stated once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nas_attn.placement import Attention, Placement, SiteTable
from nas_attn.report.architecture import TIMES, Architecture, Spot
from nas_attn.report.palette import family_code
from nas_attn.report.tables import in_flow_order
from nas_attn.report.words import count, options_of


@dataclass(frozen=True)
class Variant:
    """An attention with its options.

    Args:
        code: The text on its badges: the family's code, with a letter if the placement has several variants of it.
        options: Those that not all variants of the family have in common.
    """

    code: str
    attention: Attention
    options: tuple[str, ...]
    n_sites: int

    @property
    def text(self) -> str:
        """What makes it differ from the family's other variants, and its number of sites."""
        return f"{', '.join(self.options)} ({_sites(self.n_sites)})"


@dataclass(frozen=True)
class Family:
    """The variants of one family of attention; `options` are those that all of them have in common."""

    name: str
    options: tuple[str, ...]
    variants: tuple[Variant, ...]

    @property
    def heading(self) -> str:
        """The name with the options of all variants, and the number of sites if it has one variant only."""
        about = f"{self.name}: {', '.join(self.options)}" if self.options else self.name
        return about if len(self.variants) > 1 else f"{about} ({_sites(self.variants[0].n_sites)})"


def _sites(number: int) -> str:
    """Return a number of sites in words between which no line breaks."""
    return count(number, "site").replace(" ", "\N{NO-BREAK SPACE}")


def families_of(placement: Placement, table: SiteTable | None) -> tuple[Family, ...]:
    """Return the families of a placement, in the order of their first sites."""
    sites: dict[str, dict[Attention, int]] = {}
    for site in in_flow_order(placement, table):
        attention = placement[site]
        counts = sites.setdefault(attention.name, {})
        counts[attention] = counts.get(attention, 0) + 1
    codes = _codes(list(sites))
    return tuple(_family(name, codes[name], counts) for name, counts in sites.items())


def _codes(names: list[str]) -> dict[str, str]:
    """Return the code of each family; of two with the same code the later one gets a number."""
    codes: dict[str, str] = {}
    for name in names:
        code, number = family_code(name), 1
        while code in codes.values():
            number += 1
            code = f"{family_code(name)}{number}"
        codes[name] = code
    return codes


def _family(name: str, code: str, counts: Mapping[Attention, int]) -> Family:
    options = {attention: options_of(attention) for attention in counts}
    shared = tuple(text for text in next(iter(options.values())) if all(text in other for other in options.values()))
    variants = [
        Variant(
            code if len(counts) == 1 else f"{code}{_letter(number)}",
            attention,
            tuple(text for text in options[attention] if text not in shared) or ("no other option",),
            n_sites,
        )
        for number, (attention, n_sites) in enumerate(counts.items())
    ]
    return Family(name, shared, tuple(variants))


def _letter(number: int) -> str:
    """Return a, b, ..., z, a2, b2, ..."""
    turn, place = divmod(number, 26)
    return chr(ord("a") + place) + (str(turn + 1) if turn else "")


def symbols_of(network: Architecture) -> tuple[tuple[str, str], ...]:
    """Return the shapes of the drawing's other marks, each with what it means; only those that it has."""

    def shape(spot: Spot) -> str:
        kinds = {"conv": "slab", "merge": "plus", "head": "pool"}
        usual = "ring" if spot.is_searched else "dot"
        return "badge" if spot.attention else kinds.get(spot.sites[0].kind, usual)

    used = {shape(spot) for spot in network.spots}
    words = {
        "ring": "searched, no attention",
        "dot": "not searched",
        "slab": f"3{TIMES}3 convolution",
        "plus": "addition",
    }
    most = max((len(part.names) for part in network.parts if part.form != "line"), default=1)
    shown = [(name, text) for name, text in words.items() if name in used]
    return (*shown, ("times", f"{TIMES}{most}: {most} equal blocks")) if most > 1 else tuple(shown)


def codes_of(families: tuple[Family, ...]) -> dict[Attention, str]:
    """Return the text on the badge of each attention."""
    return {variant.attention: variant.code for family in families for variant in family.variants}
