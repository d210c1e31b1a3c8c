"""What the badges of the drawing of the network stand for: families of attention, with their options stated once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nas_attn.placement import Attention, Placement, SiteTable
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


@dataclass(frozen=True)
class Family:
    """The variants of one family of attention; `options` are those that all of them have in common."""

    name: str
    options: tuple[str, ...]
    variants: tuple[Variant, ...]

    @property
    def entries(self) -> tuple[tuple[str | None, str], ...]:
        """The lines of the legend, each with the code of its badge: the family, then its variants if it has several."""
        about = f"{self.name}: {', '.join(self.options)}" if self.options else self.name
        if len(self.variants) == 1:
            only = self.variants[0]
            return ((only.code, f"{about} ({count(only.n_sites, 'site')})"),)
        lines = [(one.code, f"{', '.join(one.options)} ({count(one.n_sites, 'site')})") for one in self.variants]
        return ((None, about), *lines)


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


def codes_of(families: tuple[Family, ...]) -> dict[Attention, str]:
    """Return the text on the badge of each attention."""
    return {variant.attention: variant.code for family in families for variant in family.variants}
